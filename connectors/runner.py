"""Runs one source: opens it, takes samples through the pipeline, publishes, and moves its position on.

What decides is in `pipeline`, `clock`, `delivery` and `backoff`; here is what waits. Three tasks: one reads and
publishes, one sees barriers through (`barriers`), one hears of a refusal.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence, Set
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Literal

from connectors.backoff import Backoff
from connectors.barriers import Barriers
from connectors.base import Sample, Source
from connectors.delivery import Delivery, SnapshotOptions
from connectors.encoders.base import EncoderFactory
from connectors.encoding import Encoding
from connectors.errors import ConnectorError, SourceBroken, SourceUnavailable
from connectors.known_streams import StreamName
from connectors.metrics import ConnectMetrics
from connectors.pipeline import Pipeline
from connectors.publishing import Publishing
from connectors.sink import Sink
from connectors.snapshots import Snapshots
from runtime.client import Refused

log = logging.getLogger("grf.connect")

LOOK_EVERY_S = 0.25
"""at a source that is silent, and between two flushes of its metrics"""
TELL_EVERY_S = 10.0
"""of bad samples in the log, and of those given up; the metrics count each"""
STOP_WITHIN_S = 10.0
"""for what was published to become durable when the command is stopped, or the source is broken"""

Health = Literal["starting", "running", "waiting", "ended", "stopped", "broken"]


@dataclass(frozen=True, slots=True)
class Clocks:
    """Both clocks, passed in so that tests can drive them."""

    now_s: Callable[[], float] = time.monotonic
    wall_s: Callable[[], float] = time.time


class Runner:
    """Of one source. `run` returns once the source has ended, or is broken: never raises for what a source does."""

    def __init__(
        self,
        name: str,
        source: Source,
        pipeline: Pipeline,
        factories: Mapping[int, EncoderFactory],
        sink: Sink,
        snapshots: Snapshots,
        metrics: ConnectMetrics,
        *,
        options: SnapshotOptions,
        backoff: Backoff,
        clocks: Clocks | None = None,
    ) -> None:
        self.name = name
        self.health: Health = "starting"
        self.reason = ""
        """why it waits or is broken"""
        self._source = source
        self._pipeline = pipeline
        self._encoding = Encoding(pipeline, factories)
        self._sink = sink
        self._metrics = metrics
        self._backoff = backoff
        self._clocks = clocks or Clocks()
        self._delivery = Delivery(_often_enough(options, source))
        self._is_replayable = source.delivery == "replayable"
        self._publishing = Publishing(name, pipeline, sink, metrics, self._delivery if self._is_replayable else None)
        self._barriers = Barriers(
            name, source, pipeline, self._encoding, sink, snapshots, metrics, self._delivery, self._clocks.wall_s
        )
        self._stopping = asyncio.Event()
        self._limit: asyncio.Timeout | None = None
        """of all that is waited for; none until the command is stopped"""
        self._is_within_batch = False
        """some of a batch's samples are segments and some are not: no barrier can be here"""
        self._dropped = 0
        self._dropped_told = 0
        self._dropped_told_at_s = -math.inf
        self._flushed_at_s = -math.inf
        self._bad_told_at_s = -math.inf
        self._bad_untold = 0
        self._factories = factories
        source.ask(pipeline.fault_of)

    @property
    def refused(self) -> Set[StreamName]:
        """Streams that the runtime refused for good; the others go on."""
        return self._publishing.refused

    # ---- from start to end ----

    async def run(self) -> None:
        try:
            await self._start()
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(self._watch()), tasks.create_task(self._barriers.see_through())]
                await self._read_until_limit()
                for task in beside:
                    task.cancel()
        except* (ConnectorError, Refused) as errors:
            self._say("broken", str(errors.exceptions[0]))
        finally:
            self._metrics.up.labels(self.name).set(0)
            self._count_lost()
            self._flush_tally()
            await asyncio.gather(*(factory.close() for factory in self._factories.values()))

    def stop(self) -> None:
        """Take no more samples; what was published becomes durable and the position is committed, if time allows."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._limit is not None:
            self._limit.reschedule(_stopped_by_s())

    async def _start(self) -> None:
        if self._factories:
            log.info("%s: starting its encoders (%d)", self.name, len(self._factories))
        async with asyncio.TaskGroup() as opening:  # each loads for seconds, most of them in processes of their own
            for factory in self._factories.values():
                opening.create_task(factory.open())
        if self._is_replayable and self._barriers.restore():
            # Else a recording that was read to its end looks like one with nothing in it.
            log.info("%s: goes on where its last run was, and reads nothing again", self.name)

    async def _watch(self) -> None:
        """Raises Refused once the runtime wants nothing of us: a bad token, a tenant that does not exist."""
        await self._sink.wait_until(lambda: False)

    async def _read_until_limit(self) -> None:
        """A runtime that does not answer must not hold up a command that is stopped, wherever that waits for it."""
        try:
            async with asyncio.timeout_at(_stopped_by_s() if self._stopping.is_set() else None) as limit:
                self._limit = limit
                await self._read_until_end()
        except TimeoutError:
            if not limit.expired():
                raise
            self._say("stopped")  # what is not durable the next run makes again, if its source can be read again
        finally:
            self._limit = None

    async def _read_until_end(self) -> None:
        """Open and read, again and again while the source is only unavailable."""
        while not self._stopping.is_set():
            opened_at_s = self._clocks.now_s()
            try:
                async with self._source.opened(position=self._pipeline.position):
                    self._say("running")
                    try:
                        ended = await self._read()
                    except SourceBroken:
                        if not self._is_within_batch:
                            with suppress(TimeoutError):
                                async with asyncio.timeout(STOP_WITHIN_S):
                                    await self._finish(ended=False)  # what came before it is good
                        raise
                    await self._finish(ended)
                    return
            except SourceUnavailable as error:
                if self._is_within_batch:
                    raise SourceBroken(f"an encoder failed: {error}") from error
                wait_s = self._backoff.after_failure(lasted_s=self._clocks.now_s() - opened_at_s)
                self._say("waiting", f"{error}; again in {wait_s:.1f} s")
                self._metrics.restarts.labels(self.name, "unavailable").inc()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait_s)
        await self._finish(ended=False)

    async def _read(self) -> bool:
        """Take batches until the source ends (True) or the command is stopped."""
        stopping = asyncio.create_task(self._stopping.wait())
        async with aclosing(aiter(self._source)) as batches:
            pull = asyncio.create_task(_next(batches))
            try:
                while True:
                    await asyncio.wait((pull, stopping), timeout=self._patience_s, return_when=asyncio.FIRST_COMPLETED)
                    if stopping.done() and not await self._has_more(pull):
                        return False
                    if pull.done():
                        samples = pull.result()
                        if samples is None:
                            return True
                        await self._take(samples)
                        # Not before: a thread that reads ahead would only take turns with this one at the interpreter.
                        pull = asyncio.create_task(_next(batches))
                    self._look_after()
            finally:
                for task in (pull, stopping):
                    task.cancel()
                await asyncio.wait((pull, stopping))

    async def _has_more(self, pull: asyncio.Task[Sequence[Sample] | None]) -> bool:
        """The command is stopped: what a live source has taken from its senders is nowhere else."""
        if not self._is_replayable:
            await asyncio.wait((pull,), timeout=0)
        return not self._is_replayable and pull.done()

    @property
    def _patience_s(self) -> float:
        """How long to wait for the source before looking whether something else is due."""
        wake_in_s = self._delivery.wake_in_s(self._clocks.now_s()) if self._is_replayable else None
        return LOOK_EVERY_S if wake_in_s is None else min(wake_in_s, LOOK_EVERY_S)

    async def _take(self, samples: Sequence[Sample]) -> None:
        if self._is_replayable and samples and samples[-1].position is None:
            raise SourceBroken("a sample of a replayable source has no position: nothing could go on after it")
        self._is_within_batch = True
        rest = self._pipeline.keyed(samples)
        while rest:
            fits = self._pipeline.fits(rest)
            segments = await self._encoding.take(rest[:fits], wall_s=self._clocks.wall_s())
            self._publishing.begin(self._encoding.take_begun())
            await self._publishing.publish(segments)
            rest = rest[fits:]
            if rest:
                await self._forget_one()
        self._is_within_batch = False
        if self._is_replayable:
            self._delivery.took(len(samples), self._clocks.now_s())

    async def _forget_one(self) -> None:
        """Make room for a stream that begins."""
        name, segments = await self._encoding.forget_one()
        await self._publishing.publish(segments)
        self._publishing.forget(name)
        self._metrics.forgotten.labels(self.name).inc()

    def _look_after(self) -> None:
        """After every batch, and while there is none."""
        now_s = self._clocks.now_s()
        if self._is_replayable and self._delivery.is_due(now_s):
            self._barriers.begin()
        if now_s >= self._flushed_at_s + LOOK_EVERY_S:
            self._flushed_at_s = now_s
            self._flush_tally()

    # ---- the end ----

    async def _finish(self, ended: bool) -> None:
        if ended or not self._is_replayable:  # else what is in the windows is in the snapshot
            await self._publishing.publish(await self._encoding.end())
        self._publishing.end()
        await (self._barriers.last() if self._is_replayable else self._sink.flush())
        self._say("ended" if ended else "stopped")

    def _count_lost(self) -> None:
        """Nobody can read a live source again: what is not durable now never will be."""
        unfinished = self._publishing.unfinished
        if unfinished and self._is_replayable:
            log.info("%s: %d segments are not durable yet; the next run publishes them again", self.name, unfinished)
        elif unfinished:
            log.warning("%s: %d segments given up: the runtime did not make them durable", self.name, unfinished)
            self._metrics.dropped(self.name, "segments", unfinished)

    def _say(self, health: Health, reason: str = "") -> None:
        if (health, reason) != (self.health, self.reason):
            level = {"broken": logging.ERROR, "waiting": logging.WARNING}.get(health, logging.INFO)
            log.log(level, "%s: %s%s", self.name, health, f": {reason}" if reason else "")
        self.health, self.reason = health, reason
        self._metrics.up.labels(self.name).set(health == "running")

    def _flush_tally(self) -> None:
        tally = self._pipeline.take_tally()
        self._metrics.flush(self.name, tally)
        self._metrics.uncommitted.labels(self.name).set(self._delivery.uncommitted)
        self._metrics.dropped(self.name, "samples", self._source.dropped - self._dropped)
        self._dropped = self._source.dropped
        self._tell_dropped()
        self._bad_untold += sum(tally.bad.values())
        if tally.last_bad and self._clocks.now_s() >= self._bad_told_at_s + TELL_EVERY_S:
            log.warning("%s: %d samples left out, the last: %s", self.name, self._bad_untold, tally.last_bad)
            self._bad_told_at_s, self._bad_untold = self._clocks.now_s(), 0

    def _tell_dropped(self) -> None:
        untold = self._dropped - self._dropped_told
        if untold > 0 and self._clocks.now_s() >= self._dropped_told_at_s + TELL_EVERY_S:
            log.warning("%s: %d samples given up: nobody took them in time", self.name, untold)
            self._dropped_told_at_s, self._dropped_told = self._clocks.now_s(), self._dropped


def _stopped_by_s() -> float:
    return asyncio.get_running_loop().time() + STOP_WITHIN_S


def _often_enough(options: SnapshotOptions, source: Source) -> SnapshotOptions:
    """A broker sends only so many messages before the first is acknowledged: it should never have to wait for that."""
    if not source.may_repeat:
        return options
    most = max(1, source.redelivers_at_most // 4)
    return options.model_copy(update={"every_samples": min(options.every_samples, most)})


async def _next(batches: AsyncGenerator[Sequence[Sample], None]) -> Sequence[Sample] | None:
    """None at the end: a task cannot raise StopAsyncIteration."""
    return await anext(batches, None)
