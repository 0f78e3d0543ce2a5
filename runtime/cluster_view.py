"""What anyone may know of the workers: `GET /v1/cluster`, `grf status`, the gateway's routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runtime.placement import Member

EventKind = Literal[
    "claimed",
    "moved",
    "failed over",
    "taken",
    "does not start",
    "died",
    "killed",
    "drains",
    "ended",
    "scaled",
    "shared store",
    "store",
]


@dataclass(frozen=True, slots=True)
class Event:
    at_s: float
    kind: EventKind
    text: str


def describe(member: Member, epochs: Mapping[int, int]) -> dict[str, Any]:
    """Who it is and where; `epochs` of the key groups that it owns."""
    beat = member.beat
    return {
        "name": beat.name,
        "incarnation": beat.incarnation,
        "endpoint": beat.endpoint,
        "metrics_url": beat.metrics_url,
        "pid": beat.pid,
        "node": beat.node,
        "groups": len(epochs),
        "newest_epoch": max(epochs.values(), default=0),
    }


def describe_fully(
    member: Member, epochs: Mapping[int, int], now_s: float, *, serves: bool, leaves: bool
) -> dict[str, Any]:
    """And how it was when it was heard of last; `leaves`: it is being emptied."""
    beat = member.beat
    return {
        **describe(member, epochs),
        "role": "serving" if serves else "standby",
        "leaves": leaves or beat.leaves,
        "heard_s_ago": now_s - member.heard_s,
        "sessions": beat.sessions,
        "pending_bytes": beat.pending_bytes,
        "busy": beat.busy,
        "lag_s": beat.lag_s,
        "load": sum(beat.loads.values()),
        "fenced": beat.fenced,
        "store_error": beat.store_error,
    }
