"""Which key groups this worker owns, since which epoch, and which of them it is about to give up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from zlib import crc32

from runtime.keys import SessionKey, key_group


class OwnedGroups:
    def __init__(self, incarnation: str) -> None:
        """`incarnation`: of the worker; another one has other marks, also where a new store begins its epochs anew."""
        self._epochs: dict[int, int] = {}
        self._frozen: set[int] = set()
        """still ours to write to, not to be served any more"""
        self._released: dict[int, int] = {}
        """given up, with their epochs; the controller may not know it yet"""
        self._lost: Counter[int] = Counter()
        """how often each group was lost"""
        self._marks = crc32(incarnation.encode()) >> 1

    def replace(self, epochs: Mapping[int, int]) -> set[int]:
        """Own these groups and no others; return those lost, a group that came back at another epoch included.

        What was given up stays so until it comes with another epoch.
        """
        self._released = {group: epoch for group, epoch in self._released.items() if epochs.get(group) == epoch}
        mine = {group: epoch for group, epoch in epochs.items() if group not in self._released}
        lost = {group for group, epoch in self._epochs.items() if mine.get(group) != epoch}
        self._lost.update(lost)
        self._epochs = mine
        self._frozen -= lost
        return lost

    def freeze(self, groups: Iterable[int]) -> set[int]:
        """Serve these no more, but let what is settled of them be saved; return those of which that is news."""
        news = (self._epochs.keys() & set(groups)) - self._frozen
        self._frozen |= news
        return news

    def give_up(self, group: int) -> None:
        """Nothing of a frozen group is left here."""
        self._frozen.remove(group)
        self._released[group] = self._epochs.pop(group)

    def owns(self, key: SessionKey) -> bool:
        group = key_group(key)
        return group in self._epochs and group not in self._frozen

    def epochs_of(self, keys: Iterable[SessionKey]) -> dict[int, int]:
        """The epoch of every group these keys belong to; the store fences a write by them."""
        return {group: self._epochs[group] for group in {key_group(key) for key in keys}}

    def tenure_of(self, key: SessionKey) -> str:
        """Another one whenever a session may have been cut off since: the group was lost, or changed hands."""
        group = key_group(key)
        return f"{self._epochs.get(group, 0)}.{self._lost[group]}"

    def next_mark(self, key: SessionKey) -> int:
        """A number above all that a session of this name has had in this store: no two workers have a group at the same
        epoch."""
        self._marks += 1
        return self._epochs[key_group(key)] << 32 | self._marks

    @property
    def epochs(self) -> dict[int, int]:
        return dict(self._epochs)

    @property
    def frozen(self) -> Set[int]:
        return self._frozen

    @property
    def released(self) -> dict[int, int]:
        return dict(self._released)
