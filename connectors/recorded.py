"""Sources that are files: read in a thread, handed over in batches, as fast as they are taken or in their own time."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from connectors.base import MAX_BATCH, Position, Sample, Source, SourceOptions
from connectors.errors import ConnectorError, SourceBroken

log = logging.getLogger("grf.connect")

LONG_WAIT_S = 60.0
"""so long a recording is rarely silent: one wrong time, or milliseconds taken for seconds, looks like that"""
Message = TypeVar("Message")


class RecordedOptions(SourceOptions):
    speed: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["max"] = Field(
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
                    if wait_s > LONG_WAIT_S:
                        log.warning("the next sample of %s is due in %.0f s, by its time", sample.stream_key, wait_s)
                    await asyncio.sleep(pace.wait_s(sample, time.monotonic()))
            yield batch[begin:]

    async def close(self) -> None:
        self._samples = None


def _chained(first: list[Sample], rest: Iterator[Sample]) -> Iterator[Sample]:
    yield from first
    yield from rest


# ---- recordings of stamped messages: a position is a stamp, and how many of that stamp were read ----


def stamp_of(position: Position) -> tuple[int | None, int]:
    """Nanoseconds and number of the last one read; None, 0 at the beginning. Raises SourceBroken."""
    match position:
        case None:
            return None, 0
        case [int(stamp_ns), int(number)]:
            return stamp_ns, number
    raise SourceBroken("a position of another kind of source")


def after(position: Position, stamped: Iterable[tuple[int, Message]]) -> Iterator[tuple[Message, Position]]:
    """Messages behind this position, each with its own. `stamped`: by time, from the stamp of the position on."""
    at_ns, skip = stamp_of(position)
    number = 0
    for stamp_ns, message in stamped:
        if stamp_ns != at_ns:
            at_ns, number, skip = stamp_ns, 0, 0
        number += 1
        if number > skip:
            yield message, [at_ns, number]


def decoded_or_none(decode: Callable[..., Any], *arguments: Any) -> Any:
    """None for a message that does not fit its schema: the pipeline counts it, for it has no fields."""
    try:
        return decode(*arguments)
    except Exception:  # whatever the generated reader stumbles over
        return None
