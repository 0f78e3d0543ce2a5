"""A source that does what a script says, for tests of pipelines, encoders and sinks.

    source = ScriptedSource([row(1.0), row(2.0), LATE(by_s=0.5), row(3.0), DUPLICATE, CRASH, row(4.0), END])

Marks: END nothing more comes; CRASH the other side goes away, and is there again when the source is opened again;
PAUSE so long nothing comes; LATE the next sample is stamped so much earlier; DUPLICATE the last sample comes again;
CLOCK_JUMP from here on, all stamps are moved. A sample's position is its number in the script.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from connectors.base import MAX_BATCH, Position, Sample, Source
from connectors.errors import SourceUnavailable


@dataclass(frozen=True, slots=True)
class _Plain:
    name: str


@dataclass(frozen=True, slots=True)
class PAUSE:
    seconds: float


@dataclass(frozen=True, slots=True)
class LATE:
    by_s: float


@dataclass(frozen=True, slots=True)
class CLOCK_JUMP:  # noqa: N801 - a mark, like the others
    by_s: float


END = _Plain("END")
CRASH = _Plain("CRASH")
DUPLICATE = _Plain("DUPLICATE")
Step = Sample | _Plain | PAUSE | LATE | CLOCK_JUMP


def row(time_s: float, *values: float, key: str = "sensor", **more: Any) -> Sample:
    """A sample of numbers."""
    return Sample(key, list(values) or [time_s], time_s, **more)


class ScriptedSource(Source):
    """Replayable unless told otherwise. `redelivers`: it does not seek, and hands over again what is not committed."""

    def __init__(
        self,
        script: Sequence[Step],
        *,
        delivery: Literal["replayable", "live"] = "replayable",
        redelivers: bool = False,
        batch: int = MAX_BATCH,
    ) -> None:
        self.delivery = delivery
        self.seeks = delivery == "replayable" and not redelivers
        self.redelivers_at_most = len(script) if redelivers else 0
        self.opened_at: list[Position] = []
        """every position it was opened with"""
        self.committed: list[Position] = []
        self.closed = 0
        self._script = list(script)
        self._batch = batch
        self._next = 0
        self._crashes_seen: set[int] = set()
        self._is_open = False

    async def open(self, *, position: Position) -> None:
        self.opened_at.append(position)
        begin = position if self.seeks else (self.committed[-1] if self.committed else None)
        self._next = begin + 1 if isinstance(begin, int) and self.delivery == "replayable" else 0
        self._is_open = True

    async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
        assert self._is_open, "the source is not open"
        moved_s, late_s = self._moved_before(self._next), 0.0
        last: Sample | None = None
        batch: list[Sample] = []
        for number in range(self._next, len(self._script)):
            step = self._script[number]
            if isinstance(step, Sample) or step is DUPLICATE:
                if isinstance(step, Sample):
                    last = self._sample(step, number, moved_s - late_s)
                    late_s = 0.0
                elif last is None:
                    last = self._last_before(number)
                batch.append(last if isinstance(step, Sample) else self._again(last, number))
                if len(batch) == self._batch:
                    self._next = number + 1
                    yield batch
                    batch = []
                continue
            self._next = number
            if batch:
                yield batch
                batch = []
            if step is END:
                return
            if step is CRASH and number not in self._crashes_seen:
                self._crashes_seen.add(number)
                raise SourceUnavailable(f"the script says so at step {number}")
            if isinstance(step, PAUSE):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, LATE):
                late_s = step.by_s
            elif isinstance(step, CLOCK_JUMP):
                moved_s += step.by_s
        self._next = len(self._script)
        if batch:
            yield batch

    def _moved_before(self, number: int) -> float:
        return sum(step.by_s for step in self._script[:number] if isinstance(step, CLOCK_JUMP))

    def _last_before(self, number: int) -> Sample:
        before = max(at for at in range(number) if isinstance(self._script[at], Sample))
        step = self._script[before]
        assert isinstance(step, Sample)
        previous = self._script[before - 1] if before else None
        late_s = previous.by_s if isinstance(previous, LATE) else 0.0
        return self._sample(step, before, self._moved_before(before) - late_s)

    def _sample(self, step: Sample, number: int, moved_s: float) -> Sample:
        time_s = None if step.event_time_s is None else step.event_time_s + moved_s
        identity = step.identity or (f"step-{number}" if self.redelivers_at_most else "")
        return step._replace(event_time_s=time_s, identity=identity, position=self._position(number))

    def _again(self, last: Sample, number: int) -> Sample:
        return last._replace(position=self._position(number))

    def _position(self, number: int) -> Position:
        return number if self.delivery == "replayable" else None

    async def commit(self, *, position: Position) -> None:
        self.committed.append(position)

    async def close(self) -> None:
        self.closed += 1
        self._is_open = False
