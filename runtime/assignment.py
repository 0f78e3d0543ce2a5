"""Who owns which key group, as the store has it: what the controller saw or wrote there last.

Owners that are none of ours and have taken groups of ours are strangers: workers of another runtime on the same store
(`rival.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from runtime.placement import NOBODY
from runtime.store.base import Ownership, Store


class Assignment:
    def __init__(self, store: Store) -> None:
        """Raises StoreError."""
        self._store = store
        self.groups: Mapping[int, Ownership] = store.ownership()
        self.strangers: set[str] = set()
        """all there ever were"""

    @property
    def owners(self) -> set[str]:
        return {item.owner for item in self.groups.values()}

    @property
    def taken_by(self) -> list[str]:
        """The strangers that have groups now."""
        return sorted(self.strangers & self.owners)

    def owner_of(self, group: int) -> str:
        """Empty if nobody ever had it."""
        return self.groups.get(group, NOBODY).owner

    def epochs_of(self, groups: Iterable[int]) -> dict[int, int]:
        return {group: self.groups.get(group, NOBODY).epoch for group in groups}

    def is_stale(self) -> bool:
        """The store has something else. Raises StoreError."""
        return self._store.ownership() != self.groups

    def read(self, ours: Collection[str]) -> Counter[str]:
        """Begin anew with what the store has; return which stranger has taken how many groups. Raises StoreError."""
        before, self.groups = self.groups, self._store.ownership()
        former = {item.owner for item in before.values()} | {*ours}
        changed = (item.owner for group, item in self.groups.items() if before.get(group) != item)
        taken = Counter(owner for owner in changed if owner not in former)
        self.strangers |= taken.keys()
        return taken

    def claim(self, owner: str, expected: Mapping[int, int]) -> dict[int, int]:
        """Give these groups to an owner; their new epochs. Raises StoreFenced if their epochs are others than expected,
        StoreError."""
        epochs = self._store.claim(owner, expected)
        self.groups = {**self.groups, **{group: Ownership(owner, epoch) for group, epoch in epochs.items()}}
        return epochs
