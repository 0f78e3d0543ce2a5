"""Frames at uneven times onto a grid: linear interpolation, stream by stream. Pure.

Shapes: T frames, F features.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]

MAX_BETWEEN = 4096
"""frames made between two that came: across a longer pause, or the leap of a wrong clock, nothing is made up"""


class Resampler:
    """Values at k / hz, between the two frames around that time; nothing before the first frame or after the last."""

    def __init__(self, hz: float) -> None:
        self._hz = hz
        self._last: tuple[float, Values] | None = None

    def add(self, values: Values, times_s: Times) -> tuple[Values, Times]:
        if self._last is not None:
            values = np.concatenate([self._last[1][None], values])
            times_s = np.concatenate([[self._last[0]], times_s])
        begin = math.ceil(times_s[0] * self._hz)
        if self._last is not None and begin / self._hz <= times_s[0]:
            begin += 1  # it was given out with the frames before
        ticks_s = np.arange(begin, math.floor(times_s[-1] * self._hz) + 1) / self._hz
        self._last = (float(times_s[-1]), values[-1])
        columns = [np.interp(ticks_s, times_s, column) for column in values.T]
        return np.stack(columns, axis=1).astype(np.float32), ticks_s

    def forget(self) -> None:
        self._last = None

    def snapshot(self) -> list[Any] | None:
        return None if self._last is None else [self._last[0], self._last[1].astype("<f4").tobytes()]

    def restore(self, state: list[Any] | None) -> None:
        self._last = None if state is None else (state[0], np.frombuffer(state[1], dtype="<f4").astype(np.float32))
