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
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from connectors.base import Options
from connectors.cutting import ByCount, ByTime, Times, Values, Windowed
from connectors.resampling import MAX_BETWEEN, Resampler


class WindowOptions(Options):
    frames: int | None = Field(None, ge=1, le=65_536, description="Frames in a segment. Without any window: 1.")
    hop: int | None = Field(None, ge=1, description="Frames from the start of one to the next.  [default: frames]")
    seconds: float | None = Field(None, gt=0, description="Instead of frames: length of a window in event time.")
    hop_s: float | None = Field(None, gt=0, description="From the start of one to the next.  [default: seconds]")
    max_frames: int = Field(1024, ge=1, description="A window by time with more frames becomes several segments.")
    min_frames: int = Field(1, ge=1, description="A window that ends early with fewer frames is left out, and counted.")
    gap_s: float = Field(math.inf, gt=0, description="A longer pause between two frames ends the window.")
    resample_hz: float | None = Field(
        None,
        gt=0,
        description="Linear interpolation onto a grid of event time; off by default. Not across gaps, nor a pause of "
        f"more than {MAX_BETWEEN:,} of its frames.",
    )

    @property
    def longest_pause_s(self) -> float:
        return min(self.gap_s, math.inf if self.resample_hz is None else MAX_BETWEEN / self.resample_hz)

    @model_validator(mode="after")
    def _is_one_window(self) -> Self:
        if self.frames is not None and self.seconds is not None:
            raise ValueError("a window is by frames or by seconds, not both")
        if self.seconds is None and self.hop_s is not None:
            raise ValueError("hop_s belongs to a window by seconds")
        if self.seconds is not None and self.hop is not None:
            raise ValueError("hop belongs to a window by frames")
        return self


class Window:
    """Of one stream. `left_out` counts frames that came into no segment: short remains, skipped by a long hop, late."""

    def __init__(self, options: WindowOptions, *, set_back_s: float = math.inf) -> None:
        """`set_back_s`: a frame so long before the newest one is not late: the clock was set back."""
        self._options = options
        self._set_back_s = set_back_s
        self._cutter = _cutter(options)
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
        is_after_gap = times_s - newest_s[:-1] > self._options.longest_pause_s
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
        if until_s - self._newest_s > self._options.longest_pause_s:
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


def _cutter(options: WindowOptions) -> ByCount | ByTime:
    if options.seconds is not None:
        hop_s = options.hop_s or options.seconds
        return ByTime(options.seconds, hop_s, options.min_frames, options.max_frames)
    frames = options.frames or 1
    return ByCount(frames, options.hop or frames, options.min_frames)
