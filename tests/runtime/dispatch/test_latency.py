"""How long a segment took from its arrival until it was fused: what `grf_latency_seconds` and the beat's lag tell."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from grf_core.step import StepBatch, StepResult
from runtime import messages as m
from runtime.client import Publisher
from tests.runtime.dispatch.desk import FRAMES, Desk
from tests.runtime.test_worker_cluster import wait_until
from tests.runtime.toy_model import ToyModel
from tests.runtime.worker_harness import RunningWorker

STEP_S = 0.03


def opened() -> Desk:
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", m.Open("s", "mic", "audio", 1))
    desk.dispatcher.take_waited_s()
    return desk


def hear(desk: Desk, *numbers: int) -> None:
    entries = tuple(m.SegmentEntry(number, number / 10, FRAMES) for number in numbers)
    desk.deliver_message(b"a", m.Segments((m.StreamSegments("s", "mic", 1, entries),)))


def test_a_latency_is_from_the_arrival_to_the_end_of_the_turn_that_has_fused_the_segment() -> None:
    desk = opened()
    hear(desk, 1)
    desk.dispatcher.work(desk.now_s + 0.3)
    desk.dispatcher.turn_took(0.05, desk.now_s + 0.35)
    assert desk.dispatcher.engine.take_tally().latencies_s == pytest.approx([0.35])
    assert desk.dispatcher.take_waited_s() == pytest.approx(0.3)
    desk.dispatcher.turn_took(0.01, desk.now_s + 1.0)
    assert desk.dispatcher.engine.take_tally().latencies_s == [], "once"
    assert desk.dispatcher.take_waited_s() == 0.0


def test_slices_of_one_message_have_waited_since_it_arrived() -> None:
    desk = opened()
    hear(desk, *range(1, 40))
    for turn in range(1, 60):
        desk.dispatcher.work(desk.now_s + turn)
        desk.dispatcher.turn_took(0.0, desk.now_s + turn + 0.5)
    latencies_s = desk.dispatcher.engine.take_tally().latencies_s
    assert len(latencies_s) == 39
    assert {latency_s % 1.0 for latency_s in latencies_s} == {0.5}
    assert min(latencies_s) == 1.5


class SlowModel(ToyModel):
    def step(self, batch: StepBatch) -> StepResult:
        time.sleep(STEP_S)
        return super().step(batch)


def test_a_running_worker_counts_the_step_in(tmp_path: Path) -> None:
    with RunningWorker(tmp_path, model=SlowModel) as worker, Publisher(worker.endpoint) as publisher:
        publisher.publish("s", "mic", "audio", FRAMES, 1.0)
        tally = worker.dispatcher.engine.tally
        wait_until(lambda: bool(worker.call(lambda: tally.latencies_s)))
        assert STEP_S <= tally.latencies_s[0] < 5.0
