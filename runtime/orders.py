"""What the controller tells a worker in answer to its beat."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.placement import Beat
from runtime.routes import Table, make_table
from runtime.store.base import Ownership


@dataclass(frozen=True, slots=True)
class Orders:
    epochs: dict[int, int]
    """the key groups it owns, with their epochs: all of them, every time"""
    releases: tuple[int, ...] = ()
    """of these, the ones it is to give up: flush, forget, and say so in the next beat"""
    table: Table | None = None
    """unless the worker has it: its beat said so"""
    table_stamp: str = ""
    """to be repeated in the beats to come"""
    leaves: bool = False
    """it is to say in its beats from now on that it leaves"""


class OrderBook:
    """What all beats are answered with until something changes: beats come by the thousand."""

    def __init__(self) -> None:
        self.table = Table(-1, {})
        self._stamp = ""
        self._epochs: dict[str, dict[int, int]] = {}
        self._releases: dict[str, tuple[int, ...]] = {}

    def write(
        self,
        ownership: Mapping[int, Ownership],
        releases: Mapping[str, tuple[int, ...]],
        endpoint_of: Mapping[str, str],
    ) -> None:
        """`releases`: groups that their owner was asked to give up; `endpoint_of`: the living workers, by owner."""
        self._epochs = {}
        for group, item in ownership.items():
            self._epochs.setdefault(item.owner, {})[group] = item.epoch
        self._releases = dict(releases)
        table = make_table(ownership, endpoint_of)
        if table != self.table:
            self.table, self._stamp = table, f"{table.version}.{secrets.token_hex(4)}"

    def epochs_of(self, owner: str) -> dict[int, int]:
        """The key groups that it owns, with their epochs."""
        return self._epochs.get(owner, {})

    def answer(self, beat: Beat, leaves: bool) -> Orders:
        """`leaves`: that worker is to give up all it has."""
        table = self.table if beat.table_stamp != self._stamp else None
        return Orders(self.epochs_of(beat.owner), self._releases.get(beat.owner, ()), table, self._stamp, leaves)
