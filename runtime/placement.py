"""Which worker serves which key group. Pure: the controller brings the facts and the time, and carries out the plan.

An owner is one incarnation of a worker (`name/incarnation`). A group changes hands only when its owner is gone: its
worker has come back as another incarnation, or has not been heard of for the lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.keys import KEY_GROUPS
from runtime.store.base import Ownership


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker's sign of life."""

    name: str
    incarnation: str
    endpoint: str
    metrics_url: str
    pid: int = 0
    sessions: int = 0
    pending_bytes: int = 0
    busy: float = 0.0
    """share of its time that the loop has been working"""
    fenced: bool = False
    """the store has refused a write of an old epoch"""

    @property
    def owner(self) -> str:
        return f"{self.name}/{self.incarnation}"


@dataclass(frozen=True, slots=True)
class Member:
    beat: Beat
    joined_s: float
    heard_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    claims: dict[str, tuple[int, ...]]
    """owner -> groups it is to get"""
    workers_wanted: int
    """how many more workers have to be started"""


NOBODY = Ownership("", 0)


def plan(
    members: Mapping[str, Member], ownership: Mapping[int, Ownership], now_s: float, lease_s: float, started_s: float
) -> Plan:
    """What to do now. A controller that has just started waits one lease for owners it has not heard of yet."""
    alive = {member.beat.owner: member for member in members.values() if now_s - member.heard_s < lease_s}
    had_time = now_s - started_s >= lease_s

    def is_orphan(owner: str) -> bool:
        return owner not in alive and (not owner or owner.rpartition("/")[0] in members or had_time)

    orphans = [group for group in range(KEY_GROUPS) if is_orphan(ownership.get(group, NOBODY).owner)]
    if not orphans:
        return Plan({}, 0)
    if not alive:
        return Plan({}, 1)
    return Plan({_heir(alive, ownership): tuple(orphans)}, 0)


def _heir(alive: Mapping[str, Member], ownership: Mapping[int, Ownership]) -> str:
    """The worker that gets the orphans: one that serves already, else the one that has been there longest."""
    serving = {item.owner for item in ownership.values()} & alive.keys()
    candidates = serving or set(alive)
    return min(candidates, key=lambda owner: (alive[owner].joined_s, owner))
