"""Which key groups this worker owns, and since which epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runtime.keys import SessionKey, key_group


class OwnedGroups:
    def __init__(self) -> None:
        self._epochs: dict[int, int] = {}

    def replace(self, epochs: Mapping[int, int]) -> set[int]:
        """Own these groups and no others; return those lost, a group that came back at another epoch included."""
        lost = {group for group, epoch in self._epochs.items() if epochs.get(group) != epoch}
        self._epochs = dict(epochs)
        return lost

    def owns(self, key: SessionKey) -> bool:
        return key_group(key) in self._epochs

    def epochs_of(self, keys: Iterable[SessionKey]) -> dict[int, int]:
        """The epoch of every group these keys belong to; the store fences a write by them."""
        return {group: self._epochs[group] for group in {key_group(key) for key in keys}}

    @property
    def epochs(self) -> dict[int, int]:
        return dict(self._epochs)
