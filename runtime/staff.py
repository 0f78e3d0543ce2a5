"""Which workers are wanted, on their way, or about to end. Decides; the controller's hands do it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from runtime.placement import Beat, Facts, Member, targets, worker_of

START_WITHIN_S = 60.0
"""a worker that was asked for has so long to beat, and Ray so long to restart one that has died"""


@dataclass(slots=True)
class Changes:
    starts: list[str] = field(default_factory=list)
    """names of workers to be started"""
    stay: list[str] = field(default_factory=list)
    """names of the others that are there, or coming, and not about to leave"""
    ends: list[str] = field(default_factory=list)
    """owners that have nothing, to be ended for good"""


class Staff:
    def __init__(self, expected: Collection[str], now_s: float) -> None:
        """`expected` names workers that may be running already."""
        self._coming = dict.fromkeys(expected, now_s + START_WITHIN_S)
        """by name, and until when that is believed"""
        self.leaving: set[str] = set()
        """owners that are to give up all they have"""
        self.ending: set[str] = set()
        """owners that were told to end"""
        self._tried: set[str] = set()
        """empty nodes for which somebody was called away; Ray may not have put the next one there"""

    def came(self, name: str) -> None:
        self._coming.pop(name, None)

    def went(self, beat: Beat, now_s: float) -> None:
        """This process has ended. Unless it was told to, Ray starts another in its place."""
        if beat.owner not in self.ending:
            self._coming[beat.name] = now_s + START_WITHIN_S
        self.ending.discard(beat.owner)
        self.leaving.discard(beat.owner)

    def change(self, facts: Facts, standbys: int, is_moving: bool, now_s: float) -> Changes:
        """Whom to start and whom to end now, so that `facts.serving` serve and `standbys` stand by."""
        self._coming = {name: by_s for name, by_s in self._coming.items() if by_s > now_s}
        staying = [owner for owner in facts.alive if owner not in self.leaving]
        wanted = facts.serving + standbys
        # Starting one takes seconds of processor: who stands by may wait until nothing is on the move.
        now_wanted = facts.serving if is_moving else wanted
        missing = now_wanted - len(staying) - len(self._coming)
        changes = Changes([self._new_name(facts.members, now_s) for _ in range(missing)])
        changes.stay = [*(worker_of(owner) for owner in staying), *self._coming]
        serving, owning = targets(facts), {item.owner for item in facts.ownership.values()}
        joined_s = {member.beat.owner: member.joined_s for member in facts.members.values()}
        spare = sorted((owner for owner in staying if owner not in {*owning, *serving}), key=lambda one: joined_s[one])
        surplus = spare[wanted - len(serving) :] if len(staying) > wanted else []
        empty = [owner for owner in facts.alive if owner in self.leaving and owner not in owning]
        crowded = [] if missing or is_moving or self._coming else self._called_away(spare, staying, facts)
        changes.ends = sorted({*surplus, *empty, *crowded})
        self.ending.update(changes.ends)
        return changes

    def _called_away(self, spare: list[str], staying: list[str], facts: Facts) -> list[str]:
        """Somebody who stands by beside another on a node, while a node is empty: to be started there, for who is lost
        with the one he is to stand in for is no help. Ray restarts a worker where it likes."""
        self._tried &= set(facts.nodes)
        node_of = {member.beat.owner: member.beat.node for member in facts.members.values()}
        used = Counter(node_of[owner] for owner in staying)
        crowded = [owner for owner in spare if used[node_of[owner]] > 1]
        empty = sorted(set(facts.nodes) - used.keys() - self._tried)
        if not crowded or not empty:
            return []
        self._tried.add(empty[0])
        return [crowded[-1]]

    def _new_name(self, members: Mapping[str, Member], now_s: float) -> str:
        taken = members.keys() | self._coming.keys()
        name = next(name for name in (f"worker-{number}" for number in range(len(taken) + 1)) if name not in taken)
        self._coming[name] = now_s + START_WITHIN_S
        return name
