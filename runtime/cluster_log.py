"""What has happened among the workers, told as it happens: to the log, to Prometheus, and as the last few events."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from prometheus_client import CollectorRegistry

from runtime.cluster_view import Event, EventKind
from runtime.members import Members
from runtime.metrics import ControllerMetrics

log = logging.getLogger(__name__)

KEPT_EVENTS = 50


class ClusterLog:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.metrics = ControllerMetrics(registry)
        self.store_error = ""
        """why the store did not answer when it was last asked; "" if it did"""
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)

    def events(self, now_s: float) -> list[dict[str, Any]]:
        """The last ones, oldest first, as anyone may see them."""
        return [asdict(event) | {"ago_s": now_s - event.at_s} for event in self._events]

    def note(self, now_s: float, kind: EventKind, text: str, level: int = logging.INFO) -> None:
        log.log(level, "%s: %s", kind, text)
        self._events.append(Event(now_s, kind, text))

    def rival(self, is_there: bool, now_s: float) -> None:
        text = "another controller is at work on it" if is_there else "the other controller is gone"
        self.note(now_s, "shared store", text, logging.WARNING if is_there else logging.INFO)

    def store(self, error: str, now_s: float) -> None:
        """How the store has answered just now; only a change of that is an event."""
        if bool(error) != bool(self.store_error):
            level = logging.WARNING if error else logging.INFO
            self.note(now_s, "store", f"it does not answer: {error}" if error else "it answers again", level)
        self.store_error = error
        self.metrics.store_up.set(not error)

    def claimed(
        self, owner: str, n_groups: int, gone: Collection[str], waited_s: list[float], now_s: float, *, is_first: bool
    ) -> None:
        """So many key groups have a new owner. `gone`: the owners that had them, if their leases were over;
        `waited_s`: for how long those that others gave up had been asked for."""
        reason, kind = _why_claimed(is_first=is_first, is_orphaned=bool(gone))
        self.metrics.takeovers.labels(reason).inc()
        if kind == "moved":
            self.metrics.moved.inc(n_groups)
            self.metrics.pause_s.observe_all(waited_s)
        self.note(now_s, kind, f"{n_groups} key groups to {owner}" + (f" from {', '.join(gone)}" if gone else ""))

    def scaled(self, before: int, workers: int, reason: str, now_s: float) -> None:
        self.note(now_s, "scaled", f"{before} -> {workers} workers: {reason}")
        self.metrics.scalings.labels("up" if workers > before else "down").inc()

    def count_roles(self, members: Members, owners: Collection[str], wanted: int, now_s: float) -> None:
        """`owners` of key groups serve; of the others some stand by, and some are silent."""
        alive = members.heard_lately(now_s)
        serving = sum(member.beat.owner in owners for member in alive)
        self.metrics.workers.labels("serving").set(serving)
        self.metrics.workers.labels("standby").set(len(alive) - serving)
        self.metrics.workers.labels("silent").set(len(members) - len(alive))
        self.metrics.wanted.set(wanted)


def _why_claimed(*, is_first: bool, is_orphaned: bool) -> tuple[str, EventKind]:
    """As the metric says it, and as an event."""
    if is_first:
        return "first", "claimed"
    return ("owner_gone", "failed over") if is_orphaned else ("moved", "moved")
