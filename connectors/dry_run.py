"""What would a file publish? Opens each source, takes a few samples and shows their segments. Nothing is committed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from connectors.base import Source
from connectors.config import SourceEntry
from connectors.encoding import Encoding
from connectors.errors import ConnectorError
from connectors.numbered_streams import Segment
from connectors.pipeline import Pipeline
from connectors.routes import NO_KEY
from connectors.supervisor import pipeline_of
from connectors.tally import Tally

MAX_SAMPLES = 2_000


@dataclass(slots=True)
class Trial:
    """What came of one source."""

    keys: dict[str, int] = field(default_factory=dict)
    """samples by stream key"""
    streams: dict[tuple[str, str, str], list[Segment]] = field(default_factory=dict)
    """segments by session, stream and modality"""
    tally: Tally = field(default_factory=Tally)
    error: str = ""


async def try_out(source: Source, entry: SourceEntry, seconds: float) -> Trial:
    """For so long, or until a number of samples has come; never raises for what a source does."""
    trial = Trial()
    # A look is given nothing twice; but what could not be recognised in the connector's own session is shown.
    pipeline = pipeline_of(entry.from_.build(), entry)
    try:
        async with AsyncExitStack() as stack:
            factories = {
                index: await stack.enter_async_context(route.encoder.build())
                for index, route in enumerate(entry.routes)
                if route.encoder is not None
            }
            encoding = Encoding(pipeline, factories)
            await stack.enter_async_context(source.opened())
            async for segments in _segments(source, pipeline, encoding, trial, seconds):
                for segment in segments:
                    trial.streams.setdefault(segment[:3], []).append(segment)
    except ConnectorError as error:
        trial.error = str(error)
    trial.tally = pipeline.take_tally()
    return trial


async def _segments(
    source: Source, pipeline: Pipeline, encoding: Encoding, trial: Trial, seconds: float
) -> AsyncIterator[list[Segment]]:
    samples = aiter(source)
    ends_s = time.monotonic() + seconds
    taken = 0
    try:
        while taken < MAX_SAMPLES:
            async with asyncio.timeout(max(ends_s - time.monotonic(), 0.001)):
                batch = await anext(samples, None)
            if batch is None:
                yield await encoding.end()
                return
            taken += len(batch)
            batch = pipeline.keyed(batch)
            for sample in batch:
                if sample.stream_key == NO_KEY:
                    continue  # told among those that cannot be used
                trial.keys[sample.stream_key] = trial.keys.get(sample.stream_key, 0) + 1
            yield await encoding.take(batch, wall_s=time.time())
    except TimeoutError:
        return
    finally:
        await samples.aclose()
