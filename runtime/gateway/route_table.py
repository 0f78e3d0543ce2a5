"""Where the workers are: what the controller last said, kept while the controller is away."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from runtime.client.locate import NotLocated

REFRESH_S = 1.0
"""an answer of the controller is used for so long before it is asked again"""
LOCATE_REFRESH_S = 0.2
"""and for so long when a client has lost its worker, or when there was none: there may be one this moment"""


class RouteSource(Protocol):
    """The controller, as the gateway asks it. Both may block for a moment, and raise whatever they like."""

    def routes(self) -> Mapping[str, Any]:
        """`workers` [{name, endpoint, metrics_url, incarnation, groups}] that serve; `metrics_urls` of all workers, by
        name; `taken_by`, who has our key groups; `gateways` and `controller_metrics_url`."""

    def cluster(self) -> Mapping[str, Any]:
        """The same, and what is known of each worker's load."""


@dataclass(frozen=True, slots=True)
class WorkerRoute:
    name: str
    endpoint: str
    metrics_url: str
    incarnation: str
    groups: int
    """how many key groups it serves"""


@dataclass(frozen=True, slots=True)
class Routes:
    workers: tuple[WorkerRoute, ...]
    """that serve"""
    metrics_urls: Mapping[str, str]
    """of all workers, standbys too, by name"""
    gateway_metrics_urls: tuple[str, ...] = ()
    controller_metrics_url: str = ""


class FixedRoutes:
    """A source for one worker whose endpoint is known: tests, and a gateway without a cluster."""

    def __init__(self, endpoint: str, metrics_url: str = "") -> None:
        worker = {"name": "worker-0", "endpoint": endpoint, "metrics_url": metrics_url, "incarnation": "", "groups": 0}
        self._answer = {"workers": [worker]}

    def routes(self) -> Mapping[str, Any]:
        return self._answer

    def cluster(self) -> Mapping[str, Any]:
        return self._answer


class RouteTable:
    """Asks the source when its last answer has grown old; safe to use from several threads."""

    def __init__(self, source: RouteSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._routes: Routes | None = None
        self._why_none = "the controller was not asked yet"
        self._asked_s = float("-inf")
        self._turns = itertools.count()

    def locate(self) -> str:
        """The endpoint of a worker, of another one each time: the last may have died. Raises NotLocated. May block: for
        the clients' threads."""
        workers = self.read(LOCATE_REFRESH_S).workers
        return workers[next(self._turns) % len(workers)].endpoint

    def read(self, max_age_s: float = REFRESH_S) -> Routes:
        """Raises NotLocated while no worker is known. May block."""
        routes = self.read_all(max_age_s)
        if not routes.workers:
            raise NotLocated(self._why_none)
        return routes

    def read_all(self, max_age_s: float = REFRESH_S) -> Routes:
        """Also where no worker serves. Raises NotLocated while the controller has not answered once. May block."""
        if self._lock.acquire(blocking=self._routes is None):  # one asks, the others take the last answer
            try:
                self._refresh(max_age_s)
            finally:
                self._lock.release()
        if self._routes is None:
            raise NotLocated(self._why_none)
        return self._routes

    async def get(self) -> Routes:
        if self._routes is not None and self._routes.workers and time.monotonic() < self._asked_s + REFRESH_S:
            return self._routes
        return await asyncio.to_thread(self.read)

    async def cluster(self) -> Mapping[str, Any]:
        """What the controller says now. Raises NotLocated while it does not answer."""
        try:
            return await asyncio.to_thread(self._source.cluster)
        except Exception as error:
            raise NotLocated(f"the controller does not answer: {error}") from error

    def _refresh(self, max_age_s: float) -> None:
        if self._routes is not None and not self._routes.workers:
            max_age_s = min(max_age_s, LOCATE_REFRESH_S)
        if time.monotonic() < self._asked_s + max_age_s:
            return
        try:
            answer = self._source.routes()
            self._routes = read_routes(answer)
            self._why_none = _why_none(answer)
        except Exception as error:  # whatever it is, the last answer is the best there is
            self._why_none = f"the controller does not answer: {error}"
        self._asked_s = time.monotonic()


def read_routes(answer: Mapping[str, Any]) -> Routes:
    """Raises LookupError, TypeError or ValueError for an answer that is not as it should be."""
    workers = tuple(
        WorkerRoute(
            name=str(worker["name"]),
            endpoint=str(worker["endpoint"]),
            metrics_url=str(worker.get("metrics_url", "")),
            incarnation=str(worker.get("incarnation", "")),
            groups=int(worker.get("groups", 0)),
        )
        for worker in answer["workers"]
    )
    gateways = tuple(str(url) for url in answer.get("gateways", ()))
    urls = {worker.name: worker.metrics_url for worker in workers}
    urls |= {str(name): str(url) for name, url in dict(answer.get("metrics_urls", {})).items()}
    return Routes(workers, urls, gateways, str(answer.get("controller_metrics_url", "")))


def _why_none(answer: Mapping[str, Any]) -> str:
    """What to say where the answer names no worker."""
    if taken_by := answer.get("taken_by"):
        return f"another runtime uses the same store, and has the key groups: {', '.join(taken_by)}"
    return "no worker is serving yet"
