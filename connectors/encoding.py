"""Samples through the encoders of their routes, one encoder per stream; then into the pipeline's windows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from connectors.base import Sample
from connectors.encoders.base import Encoder, EncoderFactory
from connectors.errors import BadSample
from connectors.known_streams import StreamName
from connectors.media import time_of
from connectors.numbered_streams import Segment
from connectors.pipeline import Accepted, Pipeline
from connectors.routes import Target


class Encoding:
    """Of one source. Factories are by number of the route, open, and owned by whoever opened them."""

    def __init__(self, pipeline: Pipeline, factories: Mapping[int, EncoderFactory]) -> None:
        self._pipeline = pipeline
        self._factories = factories
        self._encoders: dict[Target, Encoder] = {}
        self._begun: list[tuple[Target, int]] = []

    def take_begun(self) -> list[tuple[Target, int]]:
        """Streams whose encoders have begun since this was last called, with the number of the first segment to come,
        which may be much later."""
        begun, self._begun = self._begun, []
        return begun

    async def take(self, samples: Sequence[Sample], *, wall_s: float) -> list[Segment]:
        """All that these samples complete; streams keep their order."""
        accepted = self._pipeline.accept(samples, wall_s=wall_s)
        if not self._factories:
            return self._pipeline.window(accepted)
        # Stable, so each stream's samples stay in order while its encoder gets as many at once as there are.
        groups = [(target, list(group)) for target, group in groupby(sorted(accepted, key=_target_of), key=_target_of)]
        # Side by side, for encoders work in processes of their own; all are waited for, whatever becomes of one.
        done = await asyncio.gather(*(self._take(*group) for group in groups), return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome
        return [segment for outcome in done if not isinstance(outcome, BaseException) for segment in outcome]

    async def _take(self, target: Target, accepted: Sequence[Accepted]) -> list[Segment]:
        factory = self._factories.get(target.route)
        if factory is None:
            return self._pipeline.window(accepted)
        if math.isinf(factory.lag_s):
            return await self._encode(target, accepted)
        segments: list[Segment] = []
        for part in _parts_that_grow(accepted):  # else what a time closes would depend on what comes with it
            segments += await self._encode(target, part)
        return segments

    async def _encode(self, target: Target, accepted: Sequence[Accepted]) -> list[Segment]:
        samples = [one.sample for one in accepted if one.sample is not None]
        try:
            frames = await self._encoder(target).encode(samples=samples)
            factory = self._factories[target.route]
            if factory.a_frame_each:
                self._pipeline.tally.frames_left_out += len(samples) - sum(len(some.times_s) for some in frames)
            until_s = time_of(samples[-1]) - factory.lag_s
            return self._pipeline.window_frames(target, frames, until_s=until_s)
        except BadSample as bad:
            if len(samples) == 1:
                self._count(target, bad)
                return []
        segments: list[Segment] = []
        for one in accepted:  # the good ones among them
            segments += await self._encode(target, [one])
        return segments

    def _encoder(self, target: Target) -> Encoder:
        encoder = self._encoders.get(target)
        if encoder is None:
            name = f"{target.session}/{target.stream}"
            encoder = self._encoders[target] = self._factories[target.route].encoder(stream=name)
            self._begun.append((target, self._pipeline.begin(target)))
        return encoder

    def _count(self, target: Target, bad: BadSample) -> None:
        self._pipeline.tally.bad[bad.reason] += 1
        self._pipeline.tally.last_bad = f"{target.session}/{target.stream}: {bad}"

    async def end(self) -> list[Segment]:
        """Nothing more comes: what the encoders hold back, then what is left in the windows."""
        segments: list[Segment] = []
        for target, encoder in self._encoders.items():
            segments += await self._last_of(target, encoder)
        return segments + self._pipeline.end()

    async def forget_one(self) -> tuple[StreamName, list[Segment]]:
        """Make room for another stream: which one was forgotten, and what was held back of it."""
        target = self._pipeline.longest_silent
        encoder = self._encoders.pop(target, None)
        segments = [] if encoder is None else await self._last_of(target, encoder)
        return target.name, [*segments, *self._pipeline.forget(target.name)]

    async def _last_of(self, target: Target, encoder: Encoder) -> list[Segment]:
        try:
            return self._pipeline.window_frames(target, await encoder.end())
        except BadSample as bad:
            self._count(target, bad)
            return []

    def snapshot(self) -> dict[str, Any]:
        encoders = [[list(target), encoder.snapshot()] for target, encoder in self._encoders.items()]
        return {"pipeline": self._pipeline.snapshot(), "encoders": encoders}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises SnapshotError."""
        self._pipeline.restore(state["pipeline"])
        for target, encoder_state in state["encoders"]:
            self._encoder(Target(*target)).restore(state=encoder_state)


def _target_of(accepted: Accepted) -> Target:
    return accepted.target


def _parts_that_grow(accepted: Sequence[Accepted]) -> Iterator[Sequence[Accepted]]:
    """Cut where time goes back: a clock was set back, or several keys are one stream."""
    begin, newest_s = 0, -math.inf
    for at, one in enumerate(accepted):
        assert one.sample is not None
        time_s = time_of(one.sample)
        if time_s < newest_s:
            yield accepted[begin:at]
            begin = at
        newest_s = time_s
    yield accepted[begin:]
