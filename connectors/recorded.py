"""Sources that are files: read in a thread, handed over in batches, as fast as they are taken or in their own time."""

from __future__ import annotations

import asyncio
import math
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import islice
from typing import Literal

from pydantic import Field

from connectors.base import MAX_BATCH, Position, Sample, Source, SourceOptions
from connectors.errors import ConnectorError


class RecordedOptions(SourceOptions):
    speed: float | Literal["max"] = Field(
        "max", description="max: as fast as it is taken. 1: in real time, 2: twice as fast, by the samples' times."
    )


class Pace:
    """When a sample of this time is due. Pure; times that go back are due at once."""

    def __init__(self, speed: float | Literal["max"]) -> None:
        self._speed = math.inf if speed == "max" else float(speed)
        self._first: tuple[float, float] | None = None

    def wait_s(self, sample: Sample, now_s: float) -> float:
        time_s = sample.event_time_s if sample.event_time_s is not None else sample.arrival_s
        if self._speed == math.inf or time_s is None:
            return 0.0
        if self._first is None:
            self._first = (time_s, now_s)
        begins_s, began_s = self._first
        return began_s + (time_s - begins_s) / self._speed - now_s


class RecordedSource(Source):
    """A transport gives `samples`, an ordinary generator; its exceptions are ours already."""

    delivery = "replayable"
    seeks = True
    samples_at_once: int = MAX_BATCH

    def __init__(self, options: RecordedOptions) -> None:
        self._speed = options.speed
        self._samples: Iterator[Sample] | None = None
        self._error: Exception | None = None

    @abstractmethod
    def samples(self, position: Position) -> Iterator[Sample]:
        """All after this position. Runs in a thread, one call of `next` at a time; may block."""

    async def open(self, *, position: Position) -> None:
        self._error = None
        self._samples = await asyncio.to_thread(self._begin, position)

    def _take(self) -> list[Sample]:
        """The next ones; what was read before an error is handed over first, and the error raised by the next call."""
        assert self._samples is not None, "the source is not open"
        if self._error is not None:
            raise self._error
        batch: list[Sample] = []
        try:
            batch.extend(islice(self._samples, self.samples_at_once))
        except ConnectorError as error:
            if not batch:
                raise
            self._error = error
        return batch

    def _begin(self, position: Position) -> Iterator[Sample]:
        """The generator, with its first sample read: a file that is not there is told by `open`."""
        samples = self.samples(position)
        first = list(islice(samples, 1))
        return _chained(first, samples)

    async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
        pace = Pace(self._speed)
        while batch := await asyncio.to_thread(self._take):
            begin = 0
            for end, sample in enumerate(batch):
                wait_s = pace.wait_s(sample, time.monotonic())
                if wait_s > 0:
                    if end > begin:
                        yield batch[begin:end]
                        begin = end
                    await asyncio.sleep(pace.wait_s(sample, time.monotonic()))
            yield batch[begin:]

    async def close(self) -> None:
        self._samples = None


def _chained(first: list[Sample], rest: Iterator[Sample]) -> Iterator[Sample]:
    yield from first
    yield from rest
