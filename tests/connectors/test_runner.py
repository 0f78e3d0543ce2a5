"""What a runner does when things go wrong around it, in virtual time."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from connectors.backoff import Backoff, RestartOptions
from connectors.base import Sample, Source
from connectors.clock import ClockOptions
from connectors.delivery import SnapshotOptions
from connectors.encoders.base import Encoder, EncoderFactory, Frames
from connectors.errors import BadSample, SnapshotError, SourceBroken
from connectors.metrics import ConnectMetrics
from connectors.pipeline import Pipeline
from connectors.routes import RouteOptions
from connectors.runner import Clocks, Runner
from connectors.stream_keys import KeyOptions
from connectors.testing import CRASH, DUPLICATE, END, LATE, PAUSE, ScriptedSource, Step, row
from runtime.client import Refused, StreamRefused
from tests.connectors.fake_runtime import FakeRuntime, FakeSink, MemorySnapshots
from tests.connectors.virtual_loop import run_virtually

ROUTE = {"match": "{key}", "session": "s", "stream": "{key}", "modality": "x"}


class Bench:
    def __init__(
        self,
        source: Source,
        *routes: dict[str, Any],
        factories: dict[int, EncoderFactory] | None = None,
        key: KeyOptions | None = None,
    ) -> None:
        rng = random.Random(0)
        self.source = source
        self.runtime = FakeRuntime()
        self.sink = FakeSink(self.runtime, rng, slowest_s=0.2)
        self.snapshots = MemorySnapshots(rng)
        self.registry = CollectorRegistry()
        loop = asyncio.get_running_loop()
        models = [RouteOptions.model_validate(route) for route in routes or [ROUTE]]
        most = source.redelivers_at_most
        self.runner = Runner(
            "it",
            source,
            Pipeline(models, ClockOptions(), may_repeat=source.may_repeat, redelivers_at_most=most, key=key),
            factories or {},
            self.sink,
            self.snapshots,
            ConnectMetrics(self.registry, ["it"]),
            options=SnapshotOptions(every_s=0.5),
            backoff=Backoff(RestartOptions(first_s=1.0, max_s=4.0), rng),
            clocks=Clocks(loop.time, loop.time),
        )

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"grf_connect_{name}", {"source": "it", **labels}) or 0.0

    @property
    def values(self) -> dict[str, int]:
        return {stream: len(segments) for (_, stream), segments in self.runtime.segments.items()}


def rows(count: int, key: str = "a") -> list[Sample]:
    return [row(100.0 + number, number, key=key) for number in range(count)]


def test_a_source_that_ends_is_committed_at_its_end_and_its_streams_are_ended() -> None:
    async def main() -> None:
        source = ScriptedSource([*rows(5), END])
        bench = Bench(source)
        await bench.runner.run()
        assert (bench.runner.health, bench.values) == ("ended", {"a": 5})
        assert source.committed[-1] == 4
        assert bench.runtime.ended == {("s", "a")}
        assert (bench.metric("samples_total"), bench.metric("segments_total")) == (5, 5)

    run_virtually(main())


def test_a_source_that_goes_away_is_opened_again_after_ever_longer_waits() -> None:
    async def main() -> None:
        source = ScriptedSource([row(1.0), CRASH, CRASH, CRASH, row(2.0)])
        bench = Bench(source)
        began_s = asyncio.get_running_loop().time()
        await bench.runner.run()
        assert bench.values == {"sensor": 2}
        assert source.opened_at == [None, 0, 0, 0]
        assert 0.75 * 7 <= asyncio.get_running_loop().time() - began_s <= 9.0  # 1 + 2 + 4, and the end
        assert bench.metric("restarts_total", reason="unavailable") == 3

    run_virtually(main())


def test_a_broken_source_keeps_what_came_before_and_says_why() -> None:
    class Breaks(ScriptedSource):
        async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
            async for batch in super().__aiter__():
                yield batch
            raise SourceBroken("the file ends within a record")

    async def main() -> None:
        source = Breaks(rows(7))
        bench = Bench(source)
        await bench.runner.run()
        assert (bench.runner.health, bench.runner.reason) == ("broken", "the file ends within a record")
        assert bench.values == {"a": 7}
        assert source.committed == [6]
        assert bench.metric("source_up") == 0

    run_virtually(main())


def test_late_duplicate_and_bad_samples_are_counted_and_the_rest_goes_on() -> None:
    async def main() -> None:
        bad = Sample("sensor", b"bytes", 3.0)
        script: list[Step] = [row(1.0), row(2.0), DUPLICATE, LATE(0.5), row(2.0), bad, row(4.0)]
        bench = Bench(ScriptedSource(script, redelivers=True))
        await bench.runner.run()
        assert bench.values == {"sensor": 3}
        assert bench.metric("samples_duplicate_total") == 1
        assert bench.metric("samples_bad_total", reason="clock") == 1
        assert bench.metric("samples_bad_total", reason="format") == 1
        assert bench.metric("clock_events_total", what="backward") == 1
        assert bench.metric("samples_total") == 6

    run_virtually(main())


def test_devices_that_share_a_topic_are_told_apart_by_what_their_messages_say() -> None:
    def says(device: Any, at_s: float) -> Sample:
        return Sample("cars", json.dumps({"car": device, "t": at_s, "v": 1}).encode(), None, 110.0, identity="")

    route = {"match": "cars/{car}", "session": "{car}", "stream": "can", "modality": "x"}
    decode = {"format": "json", "fields": ["v"], "time": "t"}

    async def main() -> None:
        # The clock of one is behind the other's, and a broker may hand over a message twice.
        script: list[Step] = [says("a", 108.0), says("b", 105.0), says("a", 109.0), says("b", 106.0), DUPLICATE]
        source = ScriptedSource([*script, says(None, 1.0), says("c/d", 107.0)], redelivers=True)
        bench = Bench(source, {**route, "decode": decode}, key=KeyOptions(fields=("car",)))
        await bench.runner.run()
        assert {session: len(segments) for (session, _), segments in bench.runtime.segments.items()} == {"a": 2, "b": 2}
        assert bench.metric("samples_bad_total", reason="field") == 1
        assert bench.metric("samples_unrouted_total") == 1
        assert bench.metric("samples_duplicate_total") == 1

    run_virtually(main())


def test_a_live_source_is_told_what_no_route_takes_and_it_is_counted() -> None:
    class Asks(ScriptedSource):
        def ask(self, fault_of: Callable[[Sample], str]) -> None:
            self.fault_of = fault_of

    async def main() -> None:
        source = Asks([], delivery="live")
        bench = Bench(source, {**ROUTE, "match": "car/{car}", "stream": "{car}"}, key=KeyOptions(fields=("id",)))
        told = [source.fault_of(Sample(key, value)) for key, value in (("car", b'{"id": 7}'), ("van", b'{"id": 7}'))]
        assert told == ["", "no route matches 'van/7'"]
        assert source.fault_of(Sample("car", b"{}")) == "there is no 'id'"
        await bench.runner.run()
        assert bench.metric("samples_unrouted_total") == 1
        assert bench.metric("samples_bad_total", reason="field") == 1

    run_virtually(main())


def test_without_identities_a_stamp_from_the_future_does_not_make_the_others_look_known() -> None:
    def samples() -> list[Sample]:
        stamps = [100.0, 101.0, 9e9, 102.0, 102.0, 103.0]
        return [Sample("a", [1.0], stamp_s, 110.0) for stamp_s in stamps]

    pipeline = Pipeline([RouteOptions.model_validate(ROUTE)], ClockOptions(), may_repeat=True, redelivers_at_most=10)
    assert [one.times_s[0] for one in pipeline.accept(samples(), wall_s=0.0)] == [100.0, 101.0, 102.0, 103.0]
    assert pipeline.tally.bad == {"clock": 1}
    assert pipeline.tally.duplicates == 1
    assert pipeline.accept(samples()[:2], wall_s=0.0) == []
    assert pipeline.tally.duplicates == 3


def test_a_stamp_that_is_left_out_is_told_beside_the_others() -> None:
    pipeline = Pipeline([RouteOptions.model_validate(ROUTE)], ClockOptions())
    pipeline.accept([Sample("a", [1.0], stamp_s, 110.0) for stamp_s in (100.0, 1e5)], wall_s=0.0)
    assert pipeline.tally.bad == {"clock": 1}
    told = "a: left out by its time, 100000.000 s; the last one at 100.000 s, its arrival at 110.000 s"
    assert pipeline.tally.last_bad == told


def test_a_device_that_merely_counts_needs_identities_where_messages_may_come_again() -> None:
    clock = ClockOptions.model_validate({"kind": "device"})
    pipeline = Pipeline([RouteOptions.model_validate(ROUTE)], clock, may_repeat=True, redelivers_at_most=10)
    assert pipeline.accept([Sample("a", [1.0], 5.0, 110.0)], wall_s=0.0) == []
    assert pipeline.tally.bad == {"identity": 1}
    known = [Sample("a", [1.0], 50.0, 110.0, identity="m1"), Sample("a", [1.0], 0.1, 150.0, identity="m2")]
    assert [one.times_s[0] for one in pipeline.accept([*known, *known], wall_s=0.0)] == [110.0, 150.0]
    assert pipeline.tally.duplicates == 2


def test_a_replayable_source_whose_samples_have_no_position_is_broken_before_any_is_published() -> None:
    class Forgetful(ScriptedSource):
        def _position(self, number: int) -> Any:
            return None

    async def main() -> None:
        bench = Bench(Forgetful(rows(3)))
        await bench.runner.run()
        assert (bench.runner.health, bench.values) == ("broken", {})
        assert "no position" in bench.runner.reason

    run_virtually(main())


def test_a_batch_with_nothing_in_it_is_no_reason_to_stop() -> None:
    """As a source of one's own may give, that leaves out samples of a batch."""

    class Sparse(ScriptedSource):
        async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
            yield []
            async for batch in super().__aiter__():
                yield batch

    async def main() -> None:
        bench = Bench(Sparse(rows(3)))
        await bench.runner.run()
        assert (bench.runner.health, bench.values) == ("ended", {"a": 3})

    run_virtually(main())


def test_no_sample_of_a_live_source_is_taken_for_one_that_came_again() -> None:
    async def main() -> None:
        untimed = [Sample("arrival", [number], None, 100.0) for number in range(3)]
        source = ScriptedSource([*untimed, *[row(50.0, 1.0) for _ in range(4)]], delivery="live")
        bench = Bench(source)
        await bench.runner.run()
        assert bench.values == {"arrival": 3, "sensor": 4}
        assert bench.metric("samples_duplicate_total") == 0

    run_virtually(main())


def test_a_refused_stream_does_not_stop_the_others() -> None:
    class Refuses(FakeSink):
        async def publish(self, session: str, stream: str, *rest: Any, **more: Any) -> Any:
            if stream == "b":
                raise StreamRefused("unknown_modality", "no such modality")
            return await super().publish(session, stream, *rest, **more)

    async def main() -> None:
        bench = Bench(ScriptedSource([*rows(3), *rows(3, "b")]))
        bench.sink.__class__ = Refuses
        await bench.runner.run()
        assert (bench.runner.health, bench.values) == ("ended", {"a": 3})
        assert bench.runner.refused == {("s", "b")}
        assert bench.metric("segments_refused_total", code="unknown_modality") == 1

    run_virtually(main())


def test_a_segment_that_no_worker_could_read_is_bad_and_not_published() -> None:
    class Particular(FakeSink):
        async def publish(self, session: str, stream: str, *rest: Any, **more: Any) -> Any:
            if stream == "b":
                raise ValueError("session has 300 bytes, more than 200")
            return await super().publish(session, stream, *rest, **more)

    async def main() -> None:
        bench = Bench(ScriptedSource([*rows(3), *rows(2, "b")]))
        bench.sink.__class__ = Particular
        await bench.runner.run()
        assert (bench.metric("segments_total"), bench.metric("samples_bad_total", reason="shape")) == (3, 2)

    run_virtually(main())


@pytest.mark.parametrize("delivery", ["replayable", "live"])
def test_a_refused_token_breaks_the_source_at_once(delivery: Any) -> None:
    async def main() -> None:
        bench = Bench(ScriptedSource([*rows(3), PAUSE(1000.0), END], delivery=delivery))
        running = asyncio.create_task(bench.runner.run())
        await asyncio.sleep(5.0)
        bench.sink.refusal = Refused("unauthorised", "no such token")
        bench.sink.notify()
        await asyncio.sleep(5.0)
        assert running.done()
        assert (bench.runner.health, bench.runner.reason) == ("broken", "unauthorised: no such token")

    run_virtually(main())


def test_a_snapshot_that_cannot_be_written_breaks_the_source_and_commits_nothing() -> None:
    class Full(MemorySnapshots):
        async def save(self, snapshot: Any) -> None:
            raise OSError(28, "No space left on device")

    async def main() -> None:
        source = ScriptedSource(rows(3))
        bench = Bench(source)
        bench.snapshots.__class__ = Full
        await bench.runner.run()
        assert bench.runner.health == "broken"
        assert "No space left" in bench.runner.reason
        assert source.committed == []

    run_virtually(main())


def test_a_snapshot_that_does_not_fit_breaks_the_source_before_it_is_opened() -> None:
    class Foreign(MemorySnapshots):
        def load(self) -> Any:
            raise SnapshotError("made with other routes")

    async def main() -> None:
        source = ScriptedSource(rows(3))
        bench = Bench(source)
        bench.snapshots.__class__ = Foreign
        await bench.runner.run()
        assert (bench.runner.health, bench.runner.reason) == ("broken", "made with other routes")
        assert source.opened_at == []

    run_virtually(main())


def test_what_breaks_within_a_batch_leaves_the_position_before_it() -> None:
    """Some of its samples are segments and some are not, so there is nothing true to note."""

    async def main() -> None:
        source = ScriptedSource([*rows(3), PAUSE(10.0), *rows(2), row(200.0, key="b"), *rows(2)])
        both = {**ROUTE, "stream": "one"}
        bench = Bench(source, {**both, "match": "a"}, {**both, "match": "b"})
        await bench.runner.run()
        assert bench.runner.health == "broken"
        assert "two routes make stream 'one' of session 's'" in bench.runner.reason
        assert source.committed == [2]

    run_virtually(main())


def test_stopping_commits_what_is_durable_and_leaves_the_rest_for_the_next_run() -> None:
    async def main() -> None:
        source = ScriptedSource([*rows(3), PAUSE(1000.0), row(200.0)])
        bench = Bench(source, {**ROUTE, "window": {"frames": 2}})
        running = asyncio.create_task(bench.runner.run())
        await asyncio.sleep(0.1)
        bench.runner.stop()
        await running
        assert bench.runner.health == "stopped"
        assert bench.values == {"a": 1}, "the half window is in the snapshot, not in a segment"
        assert source.committed == [2]

    run_virtually(main())


def test_a_live_source_is_numbered_by_the_client_and_has_no_snapshot() -> None:
    async def main() -> None:
        bench = Bench(ScriptedSource([*rows(3), END], delivery="live"))
        await bench.runner.run()
        assert (bench.runner.health, bench.values, bench.snapshots.saved) == ("ended", {"a": 3}, 0)

    run_virtually(main())


def test_samples_given_up_are_told_as_it_happens_and_not_each(caplog: pytest.LogCaptureFixture) -> None:
    """A week may pass until the command ends, and tells its counts."""

    class Overrun(ScriptedSource):
        async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
            async for batch in super().__aiter__():
                for sample in batch:
                    self.dropped += 2
                    await asyncio.sleep(1.0)
                    yield [sample]

    async def main() -> None:
        bench = Bench(Overrun(rows(15), delivery="live"))
        await bench.runner.run()
        assert bench.metric("dropped_total", what="samples") == 30

    with caplog.at_level("WARNING", "grf.connect"):
        run_virtually(main())
    assert len(caplog.messages) == 2
    assert all("samples given up: nobody took them in time" in text for text in caplog.messages)


# ---- encoders ----


class Summing(Encoder):
    """A frame for every two samples: their sum. Knows one sample of memory."""

    def __init__(self) -> None:
        self.held: list[float] = []

    async def encode(self, *, samples: Sequence[Sample]) -> Sequence[Frames]:
        if any(isinstance(sample.value, bytes) for sample in samples):
            raise BadSample("codec", "not a number")
        await asyncio.sleep(0.001)
        frames = []
        for sample in samples:
            self.held.append(float(sample.value[0]))
            if len(self.held) == 2:
                frames.append(_frame(sum(self.held), sample.event_time_s))
                self.held = []
        return frames

    async def end(self) -> Sequence[Frames]:
        return [_frame(self.held[0], 999.0)] if self.held else []

    def snapshot(self) -> Any:
        return self.held

    def restore(self, *, state: Any) -> None:
        self.held = state


def _frame(value: float, time_s: float | None) -> Frames:
    return Frames(np.array([[value]], np.float32), np.array([time_s], np.float64))


class Meeting(EncoderFactory):
    """Opens, and closes, once as many do so as are to meet."""

    def __init__(self, met: asyncio.Barrier) -> None:
        self.met = met

    async def open(self) -> None:
        await self.met.wait()

    async def close(self) -> None:
        await self.met.wait()

    def encoder(self, *, stream: str) -> Encoder:
        return Summing()


def test_encoders_start_and_end_side_by_side() -> None:
    async def main() -> None:
        met = asyncio.Barrier(2)
        routes = [ENCODED | {"match": key} for key in "ab"]
        bench = Bench(ScriptedSource([END]), *routes, factories={0: Meeting(met), 1: Meeting(met)})
        await asyncio.wait_for(bench.runner.run(), 10.0)
        assert bench.runner.health == "ended"

    run_virtually(main())


def test_an_encoder_that_cannot_be_loaded_breaks_its_source_with_the_reason() -> None:
    class Missing(SummingFactory):
        async def open(self) -> None:
            raise SourceBroken("no such model")

    async def main() -> None:
        factories: dict[int, EncoderFactory] = {0: Missing(), 1: SummingFactory()}
        bench = Bench(ScriptedSource([END]), ENCODED, ENCODED | {"match": "b"}, factories=factories)
        await bench.runner.run()
        assert (bench.runner.health, bench.runner.reason) == ("broken", "no such model")

    run_virtually(main())


class SummingFactory(EncoderFactory):
    opened = closed = 0

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1

    def encoder(self, *, stream: str) -> Encoder:
        return Summing()


ENCODED = {**ROUTE, "encoder": {"kind": "python", "class": "any:Thing"}}


def test_encoders_make_frames_stream_by_stream_and_bad_samples_fail_alone() -> None:
    async def main() -> None:
        factory = SummingFactory()
        script = [
            *rows(3),
            *rows(4, "b"),
            Sample("a", b"broken", 200.0),
            row(201.0, 10.0, key="a"),
            row(202.0, 5.0, key="a"),
        ]
        bench = Bench(ScriptedSource(script), ENCODED, factories={0: factory})
        await bench.runner.run()
        assert bench.runner.health == "ended", bench.runner.reason
        told = {
            stream: [float(np.frombuffer(frames, np.float32)[0]) for frames, _ in segments.values()]
            for (_, stream), segments in bench.runtime.segments.items()
        }
        assert told == {"a": [1.0, 12.0, 5.0], "b": [1.0, 5.0]}
        assert bench.metric("samples_bad_total", reason="codec") == 1
        assert (factory.opened, factory.closed) == (1, 1)

    run_virtually(main())


def test_a_stream_begins_with_its_encoder_whose_first_frames_may_come_much_later() -> None:
    class Silence(EncoderFactory):
        def encoder(self, *, stream: str) -> Encoder:
            return Heard()

    class Heard(Encoder):
        async def encode(self, *, samples: Sequence[Sample]) -> Sequence[Frames]:
            return []

    async def main() -> None:
        bench = Bench(ScriptedSource([*rows(3), *rows(2, "b")]), ENCODED, factories={0: Silence()})
        await bench.runner.run()
        assert bench.runtime.begun == [("s", "a"), ("s", "b")]
        assert bench.runtime.segments == {}

    run_virtually(main())


def test_an_encoder_goes_on_from_its_snapshot() -> None:
    async def main() -> None:
        script: list[Step] = [*rows(3), PAUSE(1000.0), *rows(1, "late"), row(300.0, 7.0, key="a")]
        first = Bench(ScriptedSource(script), ENCODED, factories={0: SummingFactory()})
        running = asyncio.create_task(first.runner.run())
        await asyncio.sleep(5.0)
        running.cancel()
        await asyncio.wait({running})
        again = Bench(ScriptedSource(script), ENCODED, factories={0: SummingFactory()})
        again.runner._barriers._snapshots = first.snapshots
        again.sink._runtime = first.runtime
        await again.runner.run()
        sums = [float(np.frombuffer(frames, np.float32)[0]) for frames, _ in first.runtime.segments["s", "a"].values()]
        assert sums == [1.0, 9.0]
        assert again.sink._next["s", "a"] == 3

    run_virtually(main())
