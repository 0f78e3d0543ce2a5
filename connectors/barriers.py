"""Sees the barriers of one replayable source through: all is durable, the snapshot written, the position committed.

When a barrier is due, and what is before it, is decided in `delivery`; here is what waits. Anyone may begin one; one
task, `see_through`, sees them to their end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from connectors.base import Source
from connectors.delivery import Delivery
from connectors.encoding import Encoding
from connectors.errors import SourceBroken, SourceUnavailable
from connectors.metrics import ConnectMetrics
from connectors.pipeline import Pipeline
from connectors.sink import Sink
from connectors.snapshots import Snapshots

log = logging.getLogger("grf.connect")


class Barriers:
    def __init__(
        self,
        name: str,
        source: Source,
        pipeline: Pipeline,
        encoding: Encoding,
        sink: Sink,
        snapshots: Snapshots,
        metrics: ConnectMetrics,
        delivery: Delivery,
        wall_s: Callable[[], float],
    ) -> None:
        """`name`: of the source."""
        self._name = name
        self._source = source
        self._pipeline = pipeline
        self._encoding = encoding
        self._sink = sink
        self._snapshots = snapshots
        self._metrics = metrics
        self._delivery = delivery
        self._wall_s = wall_s
        self._has_begun = asyncio.Event()
        self._none_under_way = asyncio.Event()
        self._none_under_way.set()

    def restore(self) -> bool:
        """Go on from the last snapshot; False if there is none."""
        snapshot = self._snapshots.load()
        if snapshot is None:
            return False
        self._encoding.restore(snapshot)
        return True

    def begin(self) -> None:
        """A barrier here, while none is under way."""
        self._delivery.begin(self._pipeline.position, self._encoding.snapshot())
        self._none_under_way.clear()
        self._has_begun.set()

    async def last(self) -> None:
        """After the one under way, one more for the rest; where nothing was ever taken there is no position."""
        await self._none_under_way.wait()
        if self._pipeline.position is None:
            return
        self.begin()
        await self._none_under_way.wait()

    async def see_through(self) -> None:
        """For ever. Raises SourceBroken if a snapshot cannot be written."""
        while True:
            await self._has_begun.wait()
            self._has_begun.clear()
            await self._see_through()
            self._none_under_way.set()

    async def _see_through(self) -> None:
        barrier = self._delivery.barrier
        assert barrier is not None
        await self._sink.wait_until(barrier.is_safe)
        try:
            await self._snapshots.save(barrier.snapshot)
        except OSError as error:
            raise SourceBroken(f"the snapshot cannot be written: {error}") from error
        self._delivery.written()
        self._metrics.snapshot_s.labels(self._name).set(self._wall_s())
        try:
            await self._source.commit(position=barrier.position)
        except SourceUnavailable as error:
            # The snapshot is written, so nothing depends on it: what is handed over again will be known.
            log.info("%s: position not committed: %s", self._name, error)
