"""Sound into log-mel frames, 100 a second; or four of them side by side, 25 a second, as `bundles/grid-s1` takes them.

The features are those of `grf_core.data.log_mel`, whatever the sizes of the blocks. A frame's time is the end of its
window, when a listener can have it; of stacked frames, that of the last.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field

from connectors.base import JsonValue, Sample
from connectors.encoders.base import Encoder, EncoderFactory, EncoderOptions, Frames
from connectors.media import SAMPLE_RATE_HZ, Sound, sound_of, time_of
from grf_core.data.log_mel import BANDS, HOP, WINDOW, log_mel


class LogMelOptions(EncoderOptions):
    kind: Literal["log_mel"] = "log_mel"
    stack: int = Field(1, ge=1, le=100, description="Frames side by side in one: 4 for bundles/grid-s1.")
    gap_s: float = Field(
        0.1, gt=0, description="Sound missing for longer is a gap: no window has sound from both sides of it."
    )

    def build(self) -> LogMelFactory:
        return LogMelFactory(self)


class LogMelFactory(EncoderFactory):
    def __init__(self, options: LogMelOptions) -> None:
        self._options = options

    def encoder(self, *, stream: str) -> LogMelEncoder:
        return LogMelEncoder(self._options)


class LogMelEncoder(Encoder):
    """A block of 0.1 s takes about 0.2 ms, so it is done where it is called."""

    def __init__(self, options: LogMelOptions) -> None:
        self._stack = options.stack
        self._gap_s = options.gap_s
        self._held: Sound = np.zeros(0, np.int16)
        """sound that the next frame begins with"""
        self._end_s = -math.inf
        """time just after the last number held"""
        self._last_s = -math.inf
        """of the last frame"""

    async def encode(self, *, samples: Sequence[Sample]) -> Sequence[Frames]:
        blocks = [(sound_of(sample), time_of(sample)) for sample in samples]
        return [frames for sound, start_s in blocks for frames in self._add(sound, start_s)]

    def _add(self, sound: Sound, start_s: float) -> list[Frames]:
        if abs(start_s - self._end_s) > self._gap_s:
            self._held = sound[:0]
        self._held = np.concatenate([self._held, sound])
        self._end_s = start_s + len(sound) / SAMPLE_RATE_HZ
        # Whole stacks only: what is held is at most one stack's sound, and the frames of it are computed again.
        frames_TM = log_mel(self._held)
        stacks = len(frames_TM) // self._stack
        if not stacks:
            return []
        values = frames_TM[: stacks * self._stack].reshape(stacks, self._stack * BANDS)
        first_s = self._end_s - len(self._held) / SAMPLE_RATE_HZ
        last_of_each = np.arange(1, stacks + 1) * self._stack - 1
        times_s = first_s + (last_of_each * HOP + WINDOW) / SAMPLE_RATE_HZ
        self._held = self._held[stacks * self._stack * HOP :].copy()
        return self._growing(values, times_s)

    def _growing(self, values: Any, times_s: Any) -> list[Frames]:
        """A clock may go back by less than a gap; the times of frames may not."""
        later = times_s > self._last_s
        if not later.any():
            return []
        self._last_s = float(times_s[-1])
        return [Frames(values[later], times_s[later])]

    def snapshot(self) -> JsonValue:
        held = base64.b64encode(self._held.astype("<i2").tobytes()).decode()
        return [held, _finite(self._end_s), _finite(self._last_s)]

    def restore(self, *, state: JsonValue) -> None:
        held, end_s, last_s = cast(list[Any], state)
        self._held = np.frombuffer(base64.b64decode(held), "<i2").astype(np.int16)
        self._end_s = -math.inf if end_s is None else end_s
        self._last_s = -math.inf if last_s is None else last_s


def _finite(seconds: float) -> float | None:
    """JSON has no infinity."""
    return seconds if math.isfinite(seconds) else None
