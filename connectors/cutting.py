"""What cuts a run of frames into windows, by count or by time, and what it carries over from one call to the next.

`left_out` counts frames that came into no segment. Shapes: T frames, F features.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]


class Windowed(NamedTuple):
    values: Values
    """[T, F]"""
    event_time_s: float


class Carry:
    """Frames kept for the next window."""

    def __init__(self) -> None:
        self._values: list[Values] = []
        self._times: list[Times] = []
        self.length = 0

    @property
    def newest_s(self) -> float:
        return float(self._times[-1][-1]) if self.length else -math.inf

    def append(self, values: Values, times_s: Times) -> None:
        if self._values and values.shape[1] != self._values[0].shape[1]:
            raise ValueError(f"frames of width {values.shape[1]} after frames of width {self._values[0].shape[1]}")
        self._values.append(values)
        self._times.append(times_s)
        self.length += len(values)

    def whole(self) -> tuple[Values, Times]:
        if len(self._values) != 1:
            self._values = [np.concatenate(self._values)]
            self._times = [np.concatenate(self._times)]
        return self._values[0], self._times[0]

    def keep_from(self, start: int) -> None:
        if start >= self.length:
            self._values, self._times, self.length = [], [], 0
            return
        values, times_s = self.whole()
        # A copy: the view would hold on to all that went before.
        self._values, self._times = [values[start:].copy()], [times_s[start:].copy()]
        self.length -= start

    def sort(self) -> None:
        """By time: a frame was put behind a later one."""
        values, times_s = self.whole()
        order = np.argsort(times_s, kind="stable")
        self._values, self._times = [values[order]], [times_s[order]]

    def snapshot(self) -> list[Any]:
        if not self.length:
            return []
        values, times_s = self.whole()
        return [values.shape[1], values.astype("<f4").tobytes(), times_s.astype("<f8").tobytes()]

    def restore(self, state: list[Any]) -> None:
        self._values, self._times, self.length = [], [], 0
        if state:
            width, values, times_s = state
            self.append(
                np.frombuffer(values, dtype="<f4").astype(np.float32).reshape(-1, width),
                np.frombuffer(times_s, dtype="<f8").astype(np.float64),
            )


class ByCount:
    """A window of so many `frames` begins every `hop` frames."""

    def __init__(self, frames: int, hop: int, min_frames: int) -> None:
        self._frames = frames
        self._hop = hop
        self._min_frames = min(min_frames, frames)
        self._carry = Carry()
        self._skip = 0
        """frames still to be left out, where the hop is longer than the window"""
        self._fresh = 0
        """of the carried frames, the last so many were in no segment yet"""
        self.left_out = 0

    def add(self, values: Values, times_s: Times) -> list[Windowed]:
        if self._skip:
            skipped = min(self._skip, len(values))
            self._skip -= skipped
            self.left_out += skipped
            values, times_s = values[skipped:], times_s[skipped:]
            if not len(values):
                return []
        if not self._carry.length and len(values) == self._frames == self._hop:
            return [Windowed(values, float(times_s[-1]))]
        self._carry.append(values, times_s)
        self._fresh += len(values)
        if self._carry.length < self._frames:
            return []
        return self._complete()

    def _complete(self) -> list[Windowed]:
        values, times_s = self._carry.whole()
        done = []
        start = 0
        while start + self._frames <= len(values):
            end = start + self._frames
            done.append(Windowed(values[start:end], float(times_s[end - 1])))
            start += self._hop
            begin = min(max(end, start), len(values))
            self.left_out += begin - end
            self._fresh = len(values) - begin
        self._skip = max(start - len(values), 0)
        self._carry.keep_from(start)
        return done

    def pass_by(self, until_s: float) -> list[Windowed]:
        return []

    def end(self) -> list[Windowed]:
        done = []
        if self._fresh:
            values, times_s = self._carry.whole()
            if len(values) >= self._min_frames:
                done.append(Windowed(values, float(times_s[-1])))
            else:
                self.left_out += self._fresh
        self._carry.keep_from(self._carry.length)
        self._fresh = self._skip = 0
        return done

    def snapshot(self) -> list[Any]:
        return [self._carry.snapshot(), self._skip, self._fresh, self.left_out]

    def restore(self, state: list[Any]) -> None:
        carry, self._skip, self._fresh, self.left_out = state
        self._carry.restore(carry)


class ByTime:
    """A window of so many `seconds` of event time begins every `hop_s`."""

    def __init__(self, seconds: float, hop_s: float, min_frames: int, max_frames: int) -> None:
        self._seconds = seconds
        self._hop_s = hop_s
        self._max_frames = max_frames
        self._min_frames = min_frames
        self._carry = Carry()
        self._index: int | None = None
        """of the open window: it begins at index * hop_s"""
        self._fresh = 0
        """of the carried frames, so many were in no segment yet"""
        self.left_out = 0

    def add(self, values: Values, times_s: Times) -> list[Windowed]:
        done: list[Windowed] = []
        for row, time_s in enumerate(times_s.tolist()):
            if self._index is not None and time_s < self._index * self._hop_s:
                self.left_out += 1  # its window is closed
                continue
            if self._index is None or time_s >= self._index * self._hop_s + self._seconds:
                done += self._close_until(time_s)
            if self._index is not None and time_s < self._index * self._hop_s:
                self.left_out += 1  # between two windows, where the hop is longer than they are
                continue
            newest_s = self._carry.newest_s
            self._carry.append(values[row : row + 1], times_s[row : row + 1])
            self._fresh += 1
            if time_s < newest_s:
                self._carry.sort()
        return done

    def pass_by(self, until_s: float) -> list[Windowed]:
        if self._index is None or not self._carry.length or until_s < self._index * self._hop_s + self._seconds:
            return []
        return self._close_until(until_s)

    def _close_until(self, time_s: float) -> list[Windowed]:
        """Close all windows that end at or before this time; the next open one is the first that may hold it."""
        first = math.floor((time_s - self._seconds) / self._hop_s) + 1
        if first * self._hop_s + self._seconds <= time_s:  # rounding
            first += 1
        done: list[Windowed] = []
        while self._index is not None and self._index < first and self._carry.length:
            done += self._segments()
            self._index += 1
            self._leave_before(self._index * self._hop_s)
        self._index = first
        self._leave_before(first * self._hop_s)
        return done

    def _segments(self) -> list[Windowed]:
        assert self._index is not None
        values, times_s = self._carry.whole()
        inside = times_s < self._index * self._hop_s + self._seconds
        values, times_s = values[inside], times_s[inside]
        if len(values) < self._min_frames:
            return []
        self._fresh = min(self._fresh, self._carry.length - len(values))
        pieces = -(-len(values) // self._max_frames)
        return [
            Windowed(part, float(part_times_s[-1]))
            for part, part_times_s in zip(np.array_split(values, pieces), np.array_split(times_s, pieces), strict=True)
        ]

    def _leave_before(self, begin_s: float) -> None:
        """Drop the carried frames of before; those that were in no segment are left out for good."""
        if self._carry.length:
            _, times_s = self._carry.whole()
            start = int(np.searchsorted(times_s, begin_s))
            if start:
                self._carry.keep_from(start)
                if self._fresh > self._carry.length:
                    self.left_out += self._fresh - self._carry.length
                    self._fresh = self._carry.length

    def end(self) -> list[Windowed]:
        done: list[Windowed] = []
        if self._fresh and self._carry.length >= self._min_frames:
            done = self._segments()
        self.left_out += self._fresh
        self._fresh = 0
        self._carry.keep_from(self._carry.length)
        self._index = None
        return done

    def snapshot(self) -> list[Any]:
        return [self._carry.snapshot(), self._index, self._fresh, self.left_out]

    def restore(self, state: list[Any]) -> None:
        carry, self._index, self._fresh, self.left_out = state
        self._carry.restore(carry)
