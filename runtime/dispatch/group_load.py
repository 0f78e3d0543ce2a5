"""How much each key group asks of this worker: segments per second, smoothed. The controller weighs groups by it."""

from __future__ import annotations

from math import exp

from runtime.keys import KEY_GROUPS

SMOOTHED_OVER_S = 5.0
NEGLIGIBLE = 0.01
"""segments per second below which a group counts as unused"""


class GroupLoad:
    def __init__(self) -> None:
        self._counted = [0] * KEY_GROUPS
        self._rates: dict[int, float] = {}
        self._read_s: float | None = None

    def count(self, group: int, segments: int) -> None:
        self._counted[group] += segments

    def rates(self, now_s: float) -> dict[int, float]:
        """Segments per second by group, since this was last asked and, fading, before."""
        if self._read_s is None:
            self._read_s = now_s
        passed_s = now_s - self._read_s
        if passed_s <= 0:
            return dict(self._rates)
        fade = exp(-passed_s / SMOOTHED_OVER_S)
        counted, self._counted, self._read_s = self._counted, [0] * KEY_GROUPS, now_s
        for group, segments in enumerate(counted):
            rate = fade * self._rates.get(group, 0.0) + (1 - fade) * segments / passed_s
            if rate > NEGLIGIBLE:
                self._rates[group] = rate
            else:
                self._rates.pop(group, None)
        return dict(self._rates)
