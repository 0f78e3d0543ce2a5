"""Who serves what, as the controller tells it to the workers and these to their clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.messages import Routes
from runtime.store.base import Ownership


@dataclass(frozen=True, slots=True)
class Table:
    """Of two tables the one with the larger version is the newer: it is the sum of all epochs, and these only grow.
    Unless the store is replaced (emptied, or restored from a copy): its epochs begin anew."""

    version: int
    groups_of: dict[str, tuple[int, ...]]
    """endpoint -> key groups; groups whose owner is not known now are left out"""
    others: tuple[str, ...] = ()
    """endpoints of workers without groups: they hear news as early as those that serve"""


def make_table(ownership: Mapping[int, Ownership], endpoint_of: Mapping[str, str]) -> Table:
    """`endpoint_of` names the living workers, by owner."""
    groups_of: dict[str, list[int]] = {}
    for group, item in sorted(ownership.items()):
        if item.owner in endpoint_of:
            groups_of.setdefault(endpoint_of[item.owner], []).append(group)
    others = sorted(set(endpoint_of.values()) - groups_of.keys())
    version = sum(item.epoch for item in ownership.values())
    return Table(version, {endpoint: tuple(groups) for endpoint, groups in groups_of.items()}, tuple(others))


def as_message(table: Table) -> Routes:
    workers = [{"endpoint": endpoint, "groups": list(groups)} for endpoint, groups in sorted(table.groups_of.items())]
    workers += [{"endpoint": endpoint, "groups": []} for endpoint in table.others]
    return Routes(table.version, workers)
