"""The controller: hears the workers' signs of life, assigns key groups, starts workers. Never on the data path.

Its state is the store's: it may be killed and restarted at any moment, and workers go on serving what they own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from runtime.metrics import ControllerMetrics
from runtime.placement import NOBODY, Beat, Member, plan
from runtime.store.base import Ownership, Store, StoreError, StoreFenced

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told in answer to its beat."""

    epochs: dict[int, int]
    """the key groups it owns, with their epochs: all of them, every time"""


class Controller:
    """Driven by calls, each told the time. Safe to call from several threads."""

    def __init__(
        self,
        store: Store,
        start_worker: Callable[[str], None],
        lease_s: float,
        start_within_s: float,
        registry: CollectorRegistry,
        now_s: float,
    ) -> None:
        """`start_worker` starts a worker of that name, which will beat; it is given `start_within_s` to do so."""
        self._store = store
        self._start_worker = start_worker
        self._lease_s = lease_s
        self._start_within_s = start_within_s
        self._started_s = now_s
        self._members: dict[str, Member] = {}
        self._starting: dict[str, float] = {}
        self._ownership: dict[int, Ownership] = store.ownership()
        self._lock = threading.Lock()
        self.metrics = ControllerMetrics(registry)

    def beat(self, beat: Beat, now_s: float) -> Orders:
        """A worker lives; answer what it owns."""
        with self._lock:
            self.metrics.heartbeats.inc()
            known = self._members.get(beat.name)
            if known is None or known.beat.incarnation != beat.incarnation:
                log.info("worker %s joined as %s at %s", beat.name, beat.incarnation, beat.endpoint)
                known = None
            self._members[beat.name] = Member(beat, known.joined_s if known else now_s, now_s)
            self._starting.pop(beat.name, None)
            self._act(now_s)
            return Orders(self._epochs_of(beat.owner))

    def tick(self, now_s: float) -> None:
        """Look for workers that have fallen silent."""
        with self._lock:
            self._act(now_s)

    def routes(self) -> dict[str, Any]:
        """The workers that serve, with their endpoints; those that stand by are left out."""
        with self._lock:
            return {"workers": [self._describe(member) for member in self._serving()]}

    def cluster(self, now_s: float) -> dict[str, Any]:
        """Everything about every worker."""
        with self._lock:
            serving = {member.beat.name for member in self._serving()}
            return {
                "lease_s": self._lease_s,
                "workers": [
                    {
                        **self._describe(member),
                        "role": "serving" if member.beat.name in serving else "standby",
                        "heard_s_ago": now_s - member.heard_s,
                        "sessions": member.beat.sessions,
                        "pending_bytes": member.beat.pending_bytes,
                        "busy": member.beat.busy,
                        "fenced": member.beat.fenced,
                    }
                    for member in self._members.values()
                ],
            }

    # ---- with the lock held ----

    def _act(self, now_s: float) -> None:
        todo = plan(self._members, self._ownership, now_s, self._lease_s, self._started_s)
        for owner, groups in todo.claims.items():
            self._claim(owner, groups)
        self._starting = {name: by_s for name, by_s in self._starting.items() if by_s > now_s}
        for _ in range(todo.workers_wanted - len(self._starting)):
            self._start(now_s)
        self._count_roles(now_s)

    def _claim(self, owner: str, groups: tuple[int, ...]) -> None:
        expected = {group: self._ownership.get(group, NOBODY).epoch for group in groups}
        try:
            epochs = self._store.claim(owner, expected)
        except StoreFenced:  # another controller has been here: its word counts
            self._ownership = self._store.ownership()
            return
        except StoreError as error:
            log.warning("cannot assign %d key groups to %s: %s", len(groups), owner, error)
            return
        self._ownership |= {group: Ownership(owner, epoch) for group, epoch in epochs.items()}
        reason = "first" if not any(expected.values()) else "owner_gone"
        self.metrics.takeovers.labels(reason).inc()
        log.info("%d key groups go to %s (%s)", len(groups), owner, reason)

    def _start(self, now_s: float) -> None:
        taken = self._members.keys() | self._starting.keys()
        name = next(name for name in (f"worker-{number}" for number in range(len(taken) + 1)) if name not in taken)
        self._starting[name] = now_s + self._start_within_s
        log.info("starting %s", name)
        self._start_worker(name)

    def _epochs_of(self, owner: str) -> dict[int, int]:
        return {group: item.epoch for group, item in self._ownership.items() if item.owner == owner}

    def _serving(self) -> list[Member]:
        owners = {item.owner for item in self._ownership.values()}
        return [member for member in self._members.values() if member.beat.owner in owners]

    def _describe(self, member: Member) -> dict[str, Any]:
        beat = member.beat
        return {
            "name": beat.name,
            "incarnation": beat.incarnation,
            "endpoint": beat.endpoint,
            "metrics_url": beat.metrics_url,
            "pid": beat.pid,
            "groups": len(self._epochs_of(beat.owner)),
        }

    def _count_roles(self, now_s: float) -> None:
        alive = [member for member in self._members.values() if now_s - member.heard_s < self._lease_s]
        serving = {member.beat.name for member in self._serving()}
        self.metrics.workers.labels("serving").set(sum(member.beat.name in serving for member in alive))
        self.metrics.workers.labels("standby").set(sum(member.beat.name not in serving for member in alive))
        self.metrics.workers.labels("silent").set(len(self._members) - len(alive))
