"""Accidents for a demo: the microphone is cut, a hand is before the camera. Pure but for `Staged`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple

import numpy as np

from connectors.base import Position, Sample, Source

GREY = 96


class Span(NamedTuple):
    """Seconds from the beginning of a video, the end left out."""

    begin_s: float
    end_s: float

    def __contains__(self, time_s: object) -> bool:
        return isinstance(time_s, float) and self.begin_s <= time_s < self.end_s


NEVER = Span(0.0, 0.0)


def parse_span(text: str) -> Span:
    """`2..4`. Raises ValueError."""
    begin, _, end = text.partition("..")
    try:
        span = Span(float(begin), float(end))
    except ValueError:
        span = NEVER
    if not 0 <= span.begin_s < span.end_s:
        raise ValueError(f"{text!r} is no span of seconds such as 2..4")
    return span


class Staged(Source):
    """Another source, with its sound missing during `mute` and its pictures grey during `cover`.

    Muted means that no sound comes at all: silence would be sound. Covered pictures do come, and show no face.
    """

    def __init__(
        self, source: Source, *, mute: Span, cover: Span, on_samples: Callable[[Sequence[Sample]], None]
    ) -> None:
        self.delivery = source.delivery
        self.seeks = source.seeks
        self._source = source
        self._mute, self._cover = mute, cover
        self._on_samples = on_samples
        """told of every batch as it is handed on"""
        self._first_s: float | None = None

    async def open(self, *, position: Position) -> None:
        await self._source.open(position=position)

    async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
        async for samples in self._source:
            staged = [self._staged(sample) for sample in samples]
            batch = [sample for sample in staged if sample is not None]
            if batch:
                self._on_samples(batch)
                yield batch

    def _staged(self, sample: Sample) -> Sample | None:
        time_s = sample.event_time_s if sample.event_time_s is not None else sample.arrival_s
        if time_s is None:
            return sample
        self._first_s = time_s if self._first_s is None else self._first_s
        is_sound = sample.stream_key.endswith("/sound")
        if is_sound and time_s - self._first_s in self._mute:
            return None
        if not is_sound and time_s - self._first_s in self._cover and isinstance(sample.value, np.ndarray):
            return sample._replace(value=np.full_like(sample.value, GREY))
        return sample

    async def commit(self, *, position: Position) -> None:
        await self._source.commit(position=position)

    async def close(self) -> None:
        await self._source.close()
