"""What the answers about the runtime itself look like (`models` has those about sessions)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from runtime.gateway.models import Answer


class ModalityAnswer(Answer):
    name: str
    width: int
    max_frames: int


class HeadAnswer(Answer):
    name: str
    kind: str
    """classification or regression"""
    start: int
    stop: int
    labels: list[str]


class ModelAnswer(Answer):
    """What the model takes and gives."""

    name: str
    digest: str
    """changes with any weight"""
    context_shape: list[int]
    modalities: list[ModalityAnswer]
    """in the order that breaks ties of event time"""
    heads: list[HeadAnswer]


class RouteWorker(Answer):
    name: str
    endpoint: str
    """ZeroMQ: where clients connect (docs/protocol.md)"""
    incarnation: str
    groups: int
    """how many of the 1024 key groups it serves"""


class RouteAnswer(Answer):
    workers: list[RouteWorker]


class ClusterWorker(BaseModel):
    """A worker as the controller knows it; a newer controller may say more."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    name: str
    endpoint: str
    metrics_url: str = ""
    incarnation: str = ""
    node: str = ""
    """of Ray, the beginning of its id"""
    groups: int = 0
    newest_epoch: int = 0
    """grows whenever a key group changes hands"""
    role: str = ""
    """serving or standby"""
    heard_s_ago: float | None = None
    sessions: int | None = None
    """in memory"""
    pending_bytes: int | None = None
    busy: float | None = None
    """share of its time that the worker has been working"""
    fenced: bool = False
    """the store has refused a write: by what it holds the key groups are not this worker's"""
    store_error: str = ""
    """why the store cannot be written"""


class ClusterEvent(BaseModel):
    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    kind: str
    """claimed, moved, failed over, taken, does not start, died, killed, drains, ended, scaled, shared store, store"""
    text: str
    ago_s: float


class ClusterAnswer(BaseModel):
    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    workers: list[ClusterWorker]
    workers_wanted: int | None = None
    """how many are to serve"""
    standbys_wanted: int | None = None
    moving_groups: int | None = None
    """key groups whose worker was asked to give them up"""
    taken_by: list[str] = []
    """workers of another runtime on the same store, which have taken key groups from this one"""
    store_error: str = ""
    """why the store does not answer the controller; empty while it does"""
    events: list[ClusterEvent] = []
    """what has happened lately, the newest last"""


class ScrapeTarget(Answer):
    """One entry of Prometheus' HTTP service discovery."""

    targets: list[str]
    labels: dict[str, str]


class HealthAnswer(Answer):
    status: Literal["alive"] = "alive"


class ReadyAnswer(Answer):
    status: Literal["ready"] = "ready"
    worker: str
    """name of the worker that answers"""
