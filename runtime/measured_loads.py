"""How much is asked of each key group, as its owners have measured it (`dispatch/group_load.py`)."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.placement import Beat

MEASURED_AFTER_S = 5.0
"""a worker has to own a group for so long before its measure of the group's load is believed: at first it has seen
little"""


class MeasuredLoads:
    def __init__(self, now_s: float) -> None:
        self._began_s = now_s
        self._since_s: dict[int, float] = {}
        """when each group came to its owner"""
        self.rates: dict[int, float] = {}
        """segments per second of each group; of one that has just moved, what its last owner measured"""

    def moved(self, groups: Iterable[int], now_s: float) -> None:
        self._since_s |= dict.fromkeys(groups, now_s)

    def hear(self, beat: Beat, owned: Iterable[int], now_s: float) -> None:
        """What an owner says of the groups that are its own."""
        for group in owned:
            if now_s - self._since_s.get(group, self._began_s) > MEASURED_AFTER_S or group not in self.rates:
                self.rates[group] = beat.loads.get(group, 0.0)
