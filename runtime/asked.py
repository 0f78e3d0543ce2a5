"""The key groups that their owners were asked to give up, and have not given up yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from runtime.store.base import Ownership


class Asked(NamedTuple):
    owned: Ownership
    """by whom, and in which epoch, when it was asked for"""
    at_s: float


class AskedGroups:
    def __init__(self) -> None:
        self._asked: dict[int, Asked] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def ask(self, groups: Iterable[int], ownership: Mapping[int, Ownership], now_s: float) -> None:
        self._asked |= {group: Asked(ownership[group], now_s) for group in groups}

    def forget_answered(self, ownership: Mapping[int, Ownership], living: Collection[str]) -> None:
        """What has changed hands, or whose owner is not one of the living any more."""
        self._asked = {
            group: asked
            for group, asked in self._asked.items()
            if ownership.get(group) == asked.owned and asked.owned.owner in living
        }

    def waited_s(self, groups: Iterable[int], now_s: float) -> list[float]:
        """How long each of these that was asked for has been on the move."""
        return [now_s - self._asked[group].at_s for group in groups if group in self._asked]

    def by_owner(self) -> dict[str, tuple[int, ...]]:
        groups_of: dict[str, list[int]] = {}
        for group, asked in self._asked.items():
            groups_of.setdefault(asked.owned.owner, []).append(group)
        return {owner: tuple(groups) for owner, groups in groups_of.items()}
