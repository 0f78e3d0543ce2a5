"""A whole connector (source, pipeline, encoders, snapshots, commits) into a sink that takes everything at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client import CollectorRegistry

from connectors.backoff import Backoff, RestartOptions
from connectors.base import Source
from connectors.clock import ClockOptions
from connectors.cutting import Values
from connectors.delivery import SnapshotOptions
from connectors.encoders.base import EncoderFactory
from connectors.metrics import ConnectMetrics
from connectors.pipeline import Pipeline
from connectors.routes import RouteOptions
from connectors.runner import Runner
from connectors.snapshots import SnapshotFile
from runtime.client.published import Receipt


class Taking:
    """A sink that has everything durable at once. `enough` is set once so many frames have come."""

    unfinished = 0

    def __init__(self, frames: float = float("inf")) -> None:
        self.enough = asyncio.Event()
        self.frames: dict[str, int] = {}
        """by stream"""
        self._missing = frames

    def begin(self, session: str, stream: str, modality: str, *, sequence: int | None) -> None:
        pass

    async def publish(
        self, session: str, stream: str, modality: str, frames: Values, event_time_s: float, *, sequence: int | None
    ) -> Receipt:
        self.frames[stream] = self.frames.get(stream, 0) + len(frames)
        self._missing -= len(frames)
        if self._missing <= 0:
            self.enough.set()
        receipt = Receipt()
        receipt.is_durable = True
        return receipt

    def end(self, session: str, stream: str) -> None:
        pass

    def forget(self, session: str, stream: str) -> None:
        pass

    async def wait_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            await asyncio.sleep(3600.0)

    async def flush(self, timeout_s: float | None = None) -> None:
        pass


def runner_of(
    source: Source, routes: Sequence[Any], factories: Mapping[int, EncoderFactory], sink: Taking, kept: Path
) -> Runner:
    """`kept`: the file of its snapshots."""
    pipeline = Pipeline(
        [RouteOptions.model_validate(route) for route in routes],
        ClockOptions(),
        may_repeat=source.may_repeat,
        redelivers_at_most=source.redelivers_at_most,
    )
    return Runner(
        "bench",
        source,
        pipeline,
        factories,
        sink,
        SnapshotFile(kept, "bench"),
        ConnectMetrics(CollectorRegistry(), ["bench"]),
        options=SnapshotOptions(),
        backoff=Backoff(RestartOptions()),
    )


def told(name: str, bare: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    """Medians of alternating rounds, in what the name says of one second; and the ratio of the two."""
    bare_median, our_median = median(bare), median(ours)
    ratio = our_median / bare_median
    print(f"{name}: bare {bare_median:,.2f}, connector {our_median:,.2f}, {ratio:.2f} of it", flush=True)
    return {
        name: round(our_median, 2),
        f"{name}_bare": round(bare_median, 2),
        f"{name.partition('_')[0]}_ratio": round(ratio, 3),
    }
