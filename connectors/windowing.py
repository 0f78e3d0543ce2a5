"""Frames of one stream into segments: by count or by time, with overlap. Pure; its carry-over is part of the snapshot.

- By count: every `frames` frames, beginning `hop` frames apart.
- By time: the frames in [k * hop_s, k * hop_s + seconds), of event time. A window is closed by a frame after it,
  or once the encoder will give no frame of its time any more (`pass_by`).

A pause of more than `gap_s` ends what came before it: no segment has frames from both sides of a gap. Where a window
ends early (gap, end of stream), what has come of it becomes a segment of its own if it has `min_frames` frames at
least, and any that were in no segment yet. The event time of a segment is that of its last frame.

Shapes: T frames, F features.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from connectors.base import Options
from connectors.resampling import Resampler

Values = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]


class WindowOptions(Options):
    frames: int | None = Field(None, ge=1, le=65_536, description="Frames in a segment. Without any window: 1.")
    hop: int | None = Field(None, ge=1, description="Frames from the start of one to the next.  [default: frames]")
    seconds: float | None = Field(None, gt=0, description="Instead of frames: length of a window in event time.")
    hop_s: float | None = Field(None, gt=0, description="From the start of one to the next.  [default: seconds]")
    max_frames: int = Field(1024, ge=1, description="A window by time with more frames becomes several segments.")
    min_frames: int = Field(1, ge=1, description="A window that ends early with fewer frames is left out, and counted.")
    gap_s: float = Field(math.inf, gt=0, description="A longer pause between two frames ends the window.")
    resample_hz: float | None = Field(
        None, gt=0, description="Linear interpolation onto a grid of event time; off by default. Not across gaps."
    )

    @model_validator(mode="after")
    def _is_one_window(self) -> Self:
        if self.frames is not None and self.seconds is not None:
            raise ValueError("a window is by frames or by seconds, not both")
        if self.seconds is None and self.hop_s is not None:
            raise ValueError("hop_s belongs to a window by seconds")
        if self.seconds is not None and self.hop is not None:
            raise ValueError("hop belongs to a window by frames")
        return self


class Windowed(NamedTuple):
    values: Values
    """[T, F]"""
    event_time_s: float


class Window:
    """Of one stream. `left_out` counts frames that came into no segment: short remains, skipped by a long hop, late."""

    def __init__(self, options: WindowOptions, *, set_back_s: float = math.inf) -> None:
        """`set_back_s`: a frame so long before the newest one is not late: the clock was set back."""
        self._options = options
        self._set_back_s = set_back_s
        self._cutter: _ByCount | _ByTime = _ByTime(options) if options.seconds is not None else _ByCount(options)
        self._resampler = None if options.resample_hz is None else Resampler(options.resample_hz)
        self._newest_s: float | None = None
        """time of the newest frame since the clock was last set back, before it was resampled"""

    @property
    def left_out(self) -> int:
        return self._cutter.left_out

    def add(self, values: Values, times_s: Times) -> list[Windowed]:
        """Segments that these frames, [T, F] at times [T], complete. Raises ValueError if F is not as before."""
        if not len(times_s):
            return []
        done: list[Windowed] = []
        newest_s = self._newest(times_s)
        is_after_gap = times_s - newest_s[:-1] > self._options.gap_s
        edges = [0, *(np.flatnonzero(is_after_gap[1:]) + 1).tolist(), len(times_s)]
        for begin, end in pairwise(edges):
            if is_after_gap[begin]:
                done += self.end()
            done += self._add(values[begin:end], times_s[begin:end])
            self._newest_s = float(newest_s[end])
        return done

    def _newest(self, times_s: Times) -> Times:
        """[T + 1]: the time of the newest frame before each of these, then after all."""
        before_s = -math.inf if self._newest_s is None else self._newest_s
        newest_s = np.maximum.accumulate(np.concatenate([[before_s], times_s]))
        if (times_s >= newest_s[:-1] - self._set_back_s).all():
            return newest_s
        for row, time_s in enumerate(times_s.tolist()):
            is_set_back = time_s < newest_s[row] - self._set_back_s
            newest_s[row + 1] = time_s if is_set_back else max(newest_s[row], time_s)
        return newest_s

    def pass_by(self, until_s: float) -> list[Windowed]:
        """Segments that are complete since no frame to come is before this time; the very ones that it would close."""
        if self._newest_s is None:
            return []
        if until_s - self._newest_s > self._options.gap_s:
            return self.end()
        if self._resampler is not None or not self._closes_before_gap:
            return []
        return self._cutter.pass_by(until_s)

    @property
    def _closes_before_gap(self) -> bool:
        """Overlapping windows that a gap may end are not: which of them are told would depend on when this is asked."""
        overlap = self._options.hop_s is not None and self._options.hop_s < (self._options.seconds or 0)
        return self._options.gap_s == math.inf or not overlap

    def end(self) -> list[Windowed]:
        """Nothing more comes, or not for a while."""
        if self._resampler is not None:
            self._resampler.forget()
        return self._cutter.end()

    def snapshot(self) -> list[Any]:
        resampler = None if self._resampler is None else self._resampler.snapshot()
        return [self._newest_s, self._cutter.snapshot(), resampler]

    def restore(self, state: list[Any]) -> None:
        self._newest_s, cutter, resampler = state
        self._cutter.restore(cutter)
        if self._resampler is not None:
            self._resampler.restore(resampler)

    def _add(self, values: Values, times_s: Times) -> list[Windowed]:
        if self._resampler is not None:
            values, times_s = self._resampler.add(values, times_s)
            if not len(times_s):
                return []
        return self._cutter.add(values, times_s)


class _Carry:
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


class _ByCount:
    def __init__(self, options: WindowOptions) -> None:
        self._frames = options.frames or 1
        self._hop = options.hop or self._frames
        self._min_frames = min(options.min_frames, self._frames)
        self._carry = _Carry()
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


class _ByTime:
    def __init__(self, options: WindowOptions) -> None:
        assert options.seconds is not None
        self._seconds = options.seconds
        self._hop_s = options.hop_s or options.seconds
        self._max_frames = options.max_frames
        self._min_frames = options.min_frames
        self._carry = _Carry()
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
