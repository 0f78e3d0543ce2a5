"""Which worker serves which key group. Pure: the controller brings the facts and the time, and carries out the plan.

An owner is one incarnation of a worker (`name/incarnation`). A group changes hands when its owner is gone (known to be
dead, or unheard of for the lease: `is_over`), when its owner has given it up (`released`), or, one step earlier, when
the plan asks the owner to give it up: to even out the load, to empty a worker that is to leave, to fill a new one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from runtime.keys import KEY_GROUPS
from runtime.store.base import Ownership

IDLE_GROUP_LOAD = 1e-3
"""of a group that nobody uses: without it all of those would go to one worker"""
CLOCKS_MAY_DRIFT = 1.02
"""a lease counts as over a little later than it ends at the worker, whose clock may be slower"""
NOBODY = Ownership("", 0)
_NOT_NEGATIVE = ("settle_s", "scale_up_pending_bytes", "scale_up_lag_s", "scale_up_after_s", "scale_down_after_s")


class Place(NamedTuple):
    """Where a worker is."""

    address: str
    """by which others reach it"""
    node: str = ""


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """How many workers, and when groups move."""

    workers: int = 1
    """that serve; `grf scale` changes it while the runtime is up, its crashes included"""
    standbys: int = 0
    """workers beside them that own nothing and take over at once from one that dies"""
    num_cpus: float = 0.0
    """CPUs that each worker reserves in Ray"""
    num_gpus: float = 0.0
    """GPUs, or a fraction of one, that each worker reserves in Ray"""
    moves_at_once: int = 128
    """key groups on the move at one time, at most"""
    imbalance: float = 1.25
    """groups move once the busiest worker has so many times the mean load"""
    settle_s: float = 15.0
    """after groups have moved the loads are measured for so long before others do; a new worker is filled at once"""
    max_workers: int = 0
    """autoscaling between `workers` and so many; 0: none"""
    scale_up_busy: float = 0.75
    """mean share of its time that a worker works; above it one more is wanted"""
    scale_down_busy: float = 0.3
    """below it one less"""
    scale_up_pending_bytes: int = 256 << 20
    """of unsettled segments per worker; above it one more is wanted"""
    scale_up_lag_s: float = 5.0
    """how long segments wait for their first look; above it one more is wanted"""
    scale_up_after_s: float = 10.0
    """it has to be so for so long"""
    scale_down_after_s: float = 120.0
    """and for so long to take one away"""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.standbys < 0 or self.workers + self.standbys > KEY_GROUPS:
            raise ValueError(f"workers ({self.workers}) and standbys ({self.standbys}) must be 1 .. {KEY_GROUPS}")
        if self.max_workers and not self.workers <= self.max_workers <= KEY_GROUPS:
            raise ValueError(f"max_workers ({self.max_workers}) must be 0, or between workers and {KEY_GROUPS}")
        if self.moves_at_once < 1 or not self.imbalance > 1.0:
            raise ValueError("moves_at_once must be at least 1, and imbalance more than 1")
        if not 0 <= self.scale_down_busy < self.scale_up_busy <= 1:
            raise ValueError("0 <= scale_down_busy < scale_up_busy <= 1")
        for name in ("num_cpus", "num_gpus"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name} must be finite and not negative: {getattr(self, name):g}")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name):g}")


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker's sign of life."""

    name: str
    incarnation: str
    endpoint: str
    metrics_url: str
    life_port: int = 0
    """where its life line is held out (`runtime.life_line`), at the endpoint's host; 0: nowhere"""
    pid: int = 0
    node: str = ""
    sessions: int = 0
    pending_bytes: int = 0
    busy: float = 0.0
    """share of its time that the loop has been working"""
    lag_s: float = 0.0
    """how long what has come has waited for its first look"""
    fenced: bool = False
    """the store has refused a write of an old epoch"""
    store_error: str = ""
    """why the store does not do what it is asked; "" while it does"""
    loads: Mapping[int, float] = field(default_factory=dict)
    """segments per second of the groups that are used, and a little for each session in memory"""
    released: Mapping[int, int] = field(default_factory=dict)
    """groups that it has given up since they were its own, with their epochs: flushed and forgotten"""
    table_stamp: str = ""
    """of the table that it has (`Orders.table_stamp`)"""
    leaves: bool = False
    """it is to end: it wants to give up all it has"""
    model: str = ""
    """digest of its model; "" of a worker that is older than such"""

    @property
    def owner(self) -> str:
        return f"{self.name}/{self.incarnation}"


def of_another_model(beat: Beat, serving: Iterable[Beat]) -> Beat | None:
    """One of those that serve, if its model is not the newcomer's: each move from one to the other would begin the
    sessions anew. Nobody serves who is gone: where all are, the newcomer's model is the runtime's."""
    return next((one for one in serving if beat.model and one.model and one.model != beat.model), None)


def worker_of(owner: str) -> str:
    """The name of the worker that this owner is, or was, an incarnation of."""
    return owner.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Member:
    beat: Beat
    joined_s: float
    heard_s: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan is made from."""

    members: Mapping[str, Member]
    """by name, those that are not known to be dead"""
    ownership: Mapping[int, Ownership]
    over: Collection[str]
    """owners whose groups may be given to others"""
    serving: int
    """how many workers are to serve"""
    alive: Collection[str] = ()
    """owners that were heard of within the lease"""
    leaving: Collection[str] = ()
    """owners that are to give up all they have"""
    loads: Mapping[int, float] = field(default_factory=dict)
    """segments per second of each group; of one that has just moved, what its last owner measured"""
    is_settled: bool = True
    """the loads have been measured since a group last moved"""
    nodes: Collection[str] = ()
    """that live and are not about to end"""


@dataclass(frozen=True, slots=True)
class Plan:
    claims: dict[str, tuple[int, ...]]
    """owner -> groups it is to get now"""
    releases: dict[str, tuple[int, ...]]
    """owner -> groups it is to give up"""


def is_over(heard_s: float, now_s: float, lease_s: float) -> bool:
    """Has the lease of an owner that was heard of then run out by now, on the owner's own clock too?"""
    return now_s - heard_s >= lease_s * CLOCKS_MAY_DRIFT


def plan(facts: Facts, policy: ClusterPolicy) -> Plan:
    """What to do now. Given up and orphaned groups find an owner first; the rest moves a little at a time."""
    stay = targets(facts)
    if not stay:
        return Plan({}, {})
    load_of = {group: IDLE_GROUP_LOAD + facts.loads.get(group, 0.0) for group in range(KEY_GROUPS)}
    of_owner: dict[str, list[int]] = {owner: [] for owner in stay}
    homeless, leaving = [], dict[str, list[int]]()
    for group in range(KEY_GROUPS):
        now = facts.ownership.get(group, NOBODY)
        if _is_free(facts, group, now):
            homeless.append(group)
        elif now.owner in of_owner:
            of_owner[now.owner].append(group)
        else:
            leaving.setdefault(now.owner, []).append(group)
    loads = {owner: sum(load_of[group] for group in groups) for owner, groups in of_owner.items()}
    claims: dict[str, list[int]] = {}
    for group in sorted(homeless, key=lambda group: (-load_of[group], group)):
        owner = min(loads, key=lambda owner: (loads[owner], owner))
        claims.setdefault(owner, []).append(group)
        loads[owner] += load_of[group]
    releases = {
        owner: groups[: policy.moves_at_once]
        for owner, groups in leaving.items()
        if owner in facts.alive  # the others are silent: their leases decide
    }
    if not homeless and not releases and (facts.is_settled or not all(of_owner.values())):
        releases = _even_out(of_owner, loads, load_of, policy)
    return Plan(
        {owner: tuple(sorted(groups)) for owner, groups in claims.items()},
        {owner: tuple(sorted(groups)) for owner, groups in releases.items() if groups},
    )


def targets(facts: Facts) -> list[str]:
    """The owners that are to serve: those that do, then those that have been there longest; but none shares a node
    while another node has none, for a lost node should cost as few groups as it can.

    An owner that has not been heard of, though its lease is in force, keeps its place: the controller may be new.
    """
    has = {item.owner for item in facts.ownership.values()} - {""}
    members = {member.beat.owner: member for member in facts.members.values()}
    unheard = has - members.keys() - {*facts.over}
    candidates = [owner for owner in facts.alive if owner in members and owner not in facts.leaving]

    def rank(owner: str) -> tuple[bool, float, str]:
        return (owner not in has, members[owner].joined_s, owner)

    ranked = sorted(candidates, key=rank)
    first_of_node = {members[owner].beat.node: owner for owner in reversed(ranked)}.values()
    ranked.sort(key=lambda owner: owner not in first_of_node)
    return ranked[: max(0, facts.serving - len(unheard))]


def _is_free(facts: Facts, group: int, now: Ownership) -> bool:
    if not now.owner or now.owner in facts.over:
        return True
    member = facts.members.get(worker_of(now.owner))
    return member is not None and member.beat.owner == now.owner and member.beat.released.get(group) == now.epoch


def _even_out(
    of_owner: Mapping[str, list[int]], loads: dict[str, float], load_of: Mapping[int, float], policy: ClusterPolicy
) -> dict[str, list[int]]:
    """From the busiest to the least busy, each group at most once, while that brings the two closer together."""
    mean = sum(loads.values()) / len(loads)
    if max(loads.values()) <= policy.imbalance * mean + IDLE_GROUP_LOAD:
        return {}
    releases: dict[str, list[int]] = {}
    groups_of = {owner: sorted(groups, key=lambda group: (load_of[group], group)) for owner, groups in of_owner.items()}
    for _ in range(policy.moves_at_once):
        busiest = max(loads, key=lambda owner: (loads[owner], owner))
        idlest = min(loads, key=lambda owner: (loads[owner], owner))
        gap = loads[busiest] - loads[idlest]
        group = next((group for group in reversed(groups_of[busiest]) if load_of[group] <= gap / 2), None)
        if group is None or loads[busiest] <= mean * (1 + policy.imbalance) / 2:
            break
        groups_of[busiest].remove(group)
        releases.setdefault(busiest, []).append(group)
        loads[busiest] -= load_of[group]
        loads[idlest] += load_of[group]
    return releases
