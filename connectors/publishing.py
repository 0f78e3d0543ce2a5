"""Segments of one source on their way into the runtime: what it refuses is counted, what nobody has yet is known."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from connectors.delivery import Delivery
from connectors.known_streams import StreamName
from connectors.metrics import ConnectMetrics
from connectors.numbered_streams import Segment
from connectors.pipeline import Pipeline
from connectors.routes import Target
from connectors.sink import Sink
from runtime.client import StreamRefused

log = logging.getLogger("grf.connect")


class Publishing:
    def __init__(
        self, source: str, pipeline: Pipeline, sink: Sink, metrics: ConnectMetrics, delivery: Delivery | None
    ) -> None:
        """`delivery` of a replayable source; None: a live one, whose segments the client numbers."""
        self.refused: set[StreamName] = set()
        """streams that the runtime refused for good; the others go on"""
        self._source = source
        self._pipeline = pipeline
        self._sink = sink
        self._metrics = metrics
        self._delivery = delivery
        self._waiting = 0
        """segments that are made and wait for room"""

    @property
    def unfinished(self) -> int:
        """Segments of which nobody knows yet whether they will be durable."""
        return self._sink.unfinished + self._waiting

    def begin(self, begun: Sequence[tuple[Target, int]]) -> None:
        """Segments of these streams may follow, from these numbers on: words do seconds after they were said, and their
        sessions are to wait for them."""
        for target, sequence in begun:
            number = None if self._delivery is None else sequence
            with suppress(StreamRefused, ValueError):  # told with the first segment
                self._sink.begin(target.session, target.stream, target.modality, sequence=number)

    async def publish(self, segments: Sequence[Segment]) -> None:
        for place, segment in enumerate(segments):
            self._waiting = len(segments) - place
            if (segment.session, segment.stream) in self.refused:
                self._metrics.refused(self._source, "stream")
            else:
                await self._publish(segment)
        self._waiting = 0

    async def _publish(self, segment: Segment) -> None:
        session, stream, modality, frames, event_time_s, sequence = segment
        number = None if self._delivery is None else sequence
        try:
            receipt = await self._sink.publish(session, stream, modality, frames, event_time_s, sequence=number)
        except StreamRefused as error:
            self.refused.add((session, stream))
            log.error("%s: stream %s of %s is refused: %s", self._source, stream, session, error)
            self._metrics.refused(self._source, error.code)
        except ValueError as error:  # no worker could read it: a bad id, a frame of no width
            tally = self._pipeline.tally
            tally.segments -= 1  # it was made, and will never be published
            tally.bad["shape"] += 1
            tally.last_bad = f"{session}/{stream}: {error}"
        else:
            if self._delivery is not None:
                self._delivery.published(receipt)

    def forget(self, name: StreamName) -> None:
        """Nothing more comes of this stream; if something does, it begins anew."""
        self._sink.forget(*name)
        self.refused.discard(name)

    def end(self) -> None:
        """Nothing more comes of any stream for now."""
        for name in self._pipeline.streams:
            if name not in self.refused:
                self._sink.end(*name)
