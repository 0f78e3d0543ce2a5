"""A connector killed at any moment, in virtual time: lost 0, double 0, and every segment as it would have been."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from connectors.backoff import Backoff, RestartOptions
from connectors.base import Source
from connectors.clock import ClockOptions
from connectors.delivery import SnapshotOptions
from connectors.metrics import ConnectMetrics
from connectors.pipeline import Pipeline
from connectors.routes import RouteOptions
from connectors.runner import Clocks, Runner
from connectors.testing import CLOCK_JUMP, CRASH, DUPLICATE, LATE, PAUSE, ScriptedSource, Step, row
from tests.connectors.fake_runtime import FakeRuntime, FakeSink, MemorySnapshots
from tests.connectors.virtual_loop import run_virtually

SEEDS = 30
SNAPSHOT = SnapshotOptions(every_s=0.3, every_samples=7, idle_s=0.1)
WINDOWS: list[dict[str, Any]] = [
    {},
    {"frames": 3},
    {"frames": 4, "hop": 1},
    {"frames": 2, "hop": 5},
    {"frames": 4, "gap_s": 0.5, "min_frames": 2},
    {"seconds": 0.35},
    {"seconds": 0.5, "hop_s": 0.2},
    {"frames": 2, "resample_hz": 8.0},
]


def a_script(rng: random.Random, steps: int = 60) -> list[Step]:
    script: list[Step] = []
    time_s = 5_000.0
    for number in range(steps):
        time_s += rng.choice([0.0, 0.05, 0.1, 0.1, 0.2, 0.9])
        arrival_s = time_s + 100.0 + rng.uniform(0.01, 0.3)
        script.append(row(time_s, number, rng.random(), key=rng.choice("abc"), arrival_s=arrival_s))
        if rng.random() < 0.2:
            marks: list[Step] = [PAUSE(rng.uniform(0.0, 1.0)), CRASH, DUPLICATE, LATE(rng.choice([0.05, 9.0]))]
            script.append(rng.choice(marks))
        if rng.random() < 0.02:
            script.append(CLOCK_JUMP(rng.choice([-50.0, 30.0])))
    return script


def some_routes(rng: random.Random) -> list[RouteOptions]:
    window = rng.choice(WINDOWS)
    routes = [{"match": "{key}", "session": "s-{key}", "stream": "all", "modality": "x", "window": window}]
    if rng.random() < 0.5:
        other = rng.choice(WINDOWS)
        routes.append({"match": "a", "session": "s-a", "stream": "also", "modality": "x", "window": other})
    return [RouteOptions.model_validate(route) for route in routes]


def some_clock(rng: random.Random, routes: Sequence[RouteOptions]) -> ClockOptions:
    keep = "drop" if any(route.window.resample_hz for route in routes) else rng.choice(["drop", "keep", "clamp"])
    return ClockOptions.model_validate({"kind": rng.choice(["wall", "device"]), "on_backward": keep, "window_s": 1.0})


MANY_STREAMS = 1_000


class World:
    """What outlives a connector: the runtime, the snapshots, the source's own memory."""

    def __init__(self, seed: int, make_source: Callable[[], ScriptedSource], max_streams: int = MANY_STREAMS) -> None:
        self.rng = random.Random(seed)
        self.runtime = FakeRuntime()
        self.snapshots = MemorySnapshots(self.rng)
        self._make_source = make_source
        self._max_streams = max_streams
        self._committed: list[Any] = []

    def connector(self, routes: Sequence[RouteOptions], clock: ClockOptions) -> tuple[Runner, FakeSink, Source]:
        source = self._make_source()
        source.committed = self._committed
        sink = FakeSink(self.runtime, self.rng)
        loop = asyncio.get_running_loop()
        pipeline = Pipeline(
            routes,
            clock,
            may_repeat=source.may_repeat,
            redelivers_at_most=source.redelivers_at_most,
            max_streams=self._max_streams,
        )
        metrics = ConnectMetrics(CollectorRegistry(), ["scripted"])
        runner = Runner(
            "scripted",
            source,
            pipeline,
            {},
            sink,
            self.snapshots,
            metrics,
            options=SNAPSHOT,
            backoff=Backoff(RestartOptions(first_s=0.1, max_s=1.0), self.rng),
            clocks=Clocks(loop.time, loop.time),
        )
        return runner, sink, source


async def undisturbed(world: World, routes: Sequence[RouteOptions], clock: ClockOptions) -> None:
    runner, _, _ = world.connector(routes, clock)
    await runner.run()
    assert runner.health == "ended", runner.reason


async def killed_often(world: World, routes: Sequence[RouteOptions], clock: ClockOptions) -> int:
    """Kill after ever longer lives, until one comes to the end. Returns how often."""
    kills = 0
    while True:
        runner, sink, _ = world.connector(routes, clock)
        life = asyncio.create_task(runner.run())
        await asyncio.wait({life}, timeout=world.rng.uniform(0.0, 0.5 + 0.2 * kills))
        if life.done():
            await life
            assert runner.health == "ended", runner.reason
            return kills
        sink.kill()
        life.cancel()
        await asyncio.wait({life})
        kills += 1


@pytest.mark.parametrize("redelivers", [False, True], ids=["seeks", "redelivers"])
def test_whenever_it_is_killed_nothing_is_lost_and_nothing_counted_twice(redelivers: bool) -> None:
    kill_with(range(SEEDS), redelivers)


@pytest.mark.soak
@pytest.mark.parametrize("redelivers", [False, True], ids=["seeks", "redelivers"])
def test_the_same_with_many_more_scripts(redelivers: bool) -> None:
    kill_with(range(SEEDS, 40 * SEEDS), redelivers)


def kill_with(seeds: range, redelivers: bool) -> None:
    kills = 0
    for seed in seeds:
        rng = random.Random(seed)
        script, routes = a_script(rng), some_routes(rng)
        clock = some_clock(rng, routes)

        def make(script: list[Step] = script, batch: int = rng.choice([1, 3, 256])) -> ScriptedSource:
            return ScriptedSource(script, redelivers=redelivers, batch=batch)

        # A source that hands over again has its streams remembered in any case: it may hand over all of its script.
        max_streams = rng.choice([MANY_STREAMS, 1, 2, 3])
        right, disturbed = World(seed, make, max_streams), World(seed, make, max_streams)
        run_virtually(undisturbed(right, routes, clock))
        kills += run_virtually(killed_often(disturbed, routes, clock))

        assert disturbed.runtime.contradictions == [], seed
        assert disturbed.runtime.segments == right.runtime.segments, seed
        assert disturbed.runtime.ended == right.runtime.ended == set(right.runtime.segments), seed
        for stream in right.runtime.segments.values():
            assert list(stream) == sorted(stream), seed
            assert max_streams < MANY_STREAMS or list(stream) == list(range(1, len(stream) + 1)), seed
    assert kills > 3 * len(seeds), "the connector was hardly ever killed"
