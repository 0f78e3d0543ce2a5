"""What is remembered of a source that runs for months."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from connectors.backoff import Backoff, RestartOptions
from connectors.clock import ClockOptions
from connectors.contract import run
from connectors.delivery import SnapshotOptions
from connectors.encoders.base import Encoder, EncoderFactory, Frames
from connectors.encoding import Encoding
from connectors.errors import SourceBroken
from connectors.known_streams import KnownStreams
from connectors.metrics import ConnectMetrics
from connectors.pipeline import Pipeline
from connectors.routes import RouteOptions, Target
from connectors.runner import Clocks, Runner
from connectors.testing import ScriptedSource, row
from tests.connectors.fake_runtime import FakeRuntime, FakeSink, MemorySnapshots
from tests.connectors.virtual_loop import run_virtually

ROUTE = {"match": "{bed}", "session": "{bed}", "stream": "all", "modality": "x", "window": {"frames": 2}}


class Echo(EncoderFactory):
    """Holds back the newest sample of every stream."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def encoder(self, *, stream: str) -> Encoder:
        return _Echo(self, stream)


class _Echo(Encoder):
    def __init__(self, factory: Echo, stream: str) -> None:
        self._factory, self._stream = factory, stream
        self._held: list[float] = []

    async def encode(self, *, samples: Sequence[Any]) -> Sequence[Frames]:
        self._held += [sample.event_time_s for sample in samples]
        times_s, self._held = self._held[:-1], self._held[-1:]
        return [_frames(times_s)]

    async def end(self) -> Sequence[Frames]:
        self._factory.ended.append(self._stream)
        return [_frames(self._held)]


def _frames(times_s: Sequence[float]) -> Frames:
    return Frames(np.array(times_s, np.float32)[:, None], np.array(times_s))


def ran(keys: Sequence[str], max_streams: int) -> tuple[Any, FakeRuntime]:
    """The last snapshot, and what the runtime got."""
    runtime, rng = FakeRuntime(), random.Random(3)
    snapshots = MemorySnapshots(rng)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        source = ScriptedSource([row(5_000.0 + number, number, key=key) for number, key in enumerate(keys)])
        runner = Runner(
            "scripted",
            source,
            Pipeline([RouteOptions.model_validate(ROUTE)], ClockOptions(), max_streams=max_streams),
            {},
            FakeSink(runtime, rng),
            snapshots,
            ConnectMetrics(CollectorRegistry(), ["scripted"]),
            options=SnapshotOptions(),
            backoff=Backoff(RestartOptions(), rng),
            clocks=Clocks(loop.time, loop.time),
        )
        await runner.run()
        assert runner.health == "ended", runner.reason

    run_virtually(main())
    return snapshots.kept, runtime


def test_snapshots_stay_small_over_many_sessions() -> None:
    keys = [f"bed-{number // 4}" for number in range(4_000)]
    kept, runtime = ran(keys, 10)
    assert len(kept["pipeline"]["streams"]) == len(kept["pipeline"]["clocks"]) == 10
    assert len(msgpack.packb(kept)) < 4_000
    assert len(runtime.segments) == len(runtime.ended) == 1_000
    assert sum(map(len, runtime.segments.values())) == 2_000


def test_one_that_returns_is_numbered_above_all_that_were_forgotten() -> None:
    _, runtime = ran([*"aaaaaa", *"bb", *"cc", *"aa"], 2)
    assert list(runtime.segments["a", "all"]) == [1, 2, 3, 4]
    assert list(runtime.segments["b", "all"]) == [1]
    assert list(runtime.segments["c", "all"]) == [4]


def test_what_an_encoder_and_a_window_hold_back_comes_before_a_stream_is_forgotten() -> None:
    echo = Echo()
    encoded = {**ROUTE, "encoder": {"kind": "image_sketch"}}
    pipeline = Pipeline([RouteOptions.model_validate(encoded)], ClockOptions(), max_streams=1)
    encoding = Encoding(pipeline, {0: echo})

    async def main() -> None:
        samples = [row(5_000.0 + number, number, key="a") for number in range(4)]
        (first,) = await encoding.take(samples, wall_s=0.0)
        name, rest = await encoding.forget_one()
        assert (name, echo.ended) == (("a", "all"), ["a/all"])
        assert [first.event_time_s, *(segment.event_time_s for segment in rest)] == [5_001.0, 5_003.0]

    run(main())


def test_a_stream_made_by_two_routes_is_told() -> None:
    known = KnownStreams(10)
    known.touch(Target(0, "s", "all", "x"))
    with pytest.raises(SourceBroken, match="two routes make stream 'all'"):
        known.touch(Target(1, "s", "all", "x"))


def test_a_snapshot_from_before_streams_were_forgotten_is_read() -> None:
    routes = [RouteOptions.model_validate({**ROUTE, "window": {"frames": 1}})]
    first, again = Pipeline(routes, ClockOptions()), Pipeline(routes, ClockOptions())
    first.window(first.accept([row(5_000.0, 1.0, key="a"), row(5_001.0, 2.0, key="b")], wall_s=0.0))
    snapshot = first.snapshot()
    del snapshot["known"], snapshot["first_sequence"]
    again.restore(snapshot)
    assert again.longest_silent == Target(0, "a", "all", "x")
    (segment,) = again.window(again.accept([row(5_002.0, 3.0, key="a")], wall_s=0.0))
    assert (segment.session, segment.sequence) == ("a", 2)
