from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest

from grf_core.step import StepBatch, StepResult
from runtime.engine.engine import SILENT_PER_TICK, Engine
from runtime.engine.policies import BatchPolicy, EnginePolicy, OrderPolicy, QuotaPolicy
from runtime.engine.quota import Refusal
from runtime.engine.residents import LOOK_AT
from runtime.engine.session import Session
from runtime.keys import SessionKey
from tests.runtime.engine.bench import KEY, WALL_S, Bench
from tests.runtime.engine.offline import assert_close
from tests.runtime.toy_model import POISON, ToyModel

OTHER = KEY._replace(session="2")


# ---- segments that are refused ----


@pytest.mark.parametrize(
    ("code", "event_time_s", "frames"),
    [
        ("bad_segment", 1.0, np.zeros((1, 2), np.float32)),
        ("bad_segment", 1.0, np.zeros((9, 3), np.float32)),
        ("bad_segment", 1.0, np.full((1, 3), nan, np.float32)),
        ("bad_segment", 1.0, np.full((1, 3), inf, np.float32)),
        ("far_future", WALL_S + 61.0, None),
        ("far_future", 3710.0, None),
        ("late", -5.0, None),
    ],
)
def test_a_segment_refused_for_good_is_told_counted_and_done_with(
    code: str, event_time_s: float, frames: np.ndarray | None
) -> None:
    bench = Bench()
    bench.send("a", 100.0)
    bench.send("a", 101.0)
    verdict = bench.send("a", event_time_s, frames=frames)
    assert verdict.code == code
    assert verdict.text
    stream = bench.session().streams["a"]
    assert stream.received.upto == 3
    assert bench.engine.take_tally().rejected_by_reason == {code: 1}
    assert bench.send("a", 102.0).code == "accepted"
    bench.rest()
    assert bench.session().settled_version == 3
    assert stream.settled.upto == stream.fused.upto == 4
    bench.commit()
    assert stream.durable == 4


def test_a_refusal_is_told_again_to_a_sender_that_missed_it_and_not_counted_again() -> None:
    bench = Bench()
    bench.send("a", 1.0)
    bad = np.zeros((1, 2), np.float32)
    assert bench.send("a", 2.0, frames=bad).code == "bad_segment"
    assert bench.send("a", 2.0, sequence=2).code == "bad_segment"
    bench.commit()
    assert bench.after_a_crash().send("a", 2.0, sequence=2).code == "bad_segment"
    tally = bench.engine.take_tally()
    assert tally.rejected_by_reason == {"bad_segment": 1}
    bench.engine.skip_below(bench.session(), "a", 3, bench.now_s)
    assert bench.send("a", 2.0, sequence=2).code == "duplicate"


def test_one_bad_stamp_does_not_stall_its_session() -> None:
    bench = Bench()
    for t in range(5):
        bench.send("a", float(t))
        assert bench.send("b", 9e5 if t == 2 else float(t)).code == ("far_future" if t == 2 else "accepted")
    bench.rest()
    assert bench.session().settled_version == 9


def test_a_duplicate_changes_nothing_and_is_acknowledged_again() -> None:
    bench = Bench()
    bench.send("a", 1.0)
    bench.drain()
    bench.engine.take_progress()
    before = bench.engine.slab.contexts.clone()
    assert bench.send("a", 99.0, sequence=1).code == "duplicate"
    assert not bench.engine.has_work
    assert bench.engine.take_progress().streams == {KEY: {"a": None}}
    assert bool((bench.engine.slab.contexts == before).all())
    assert bench.engine.take_tally().duplicates == {"audio": 1}


def test_a_sequence_number_too_far_ahead_is_not_taken_until_what_lies_before_it_is() -> None:
    bench = Bench()
    bench.send("a", 1.0)
    verdict = bench.send("a", 2.0, sequence=1 + 65536 + 1)
    assert verdict.code == "slow_down"
    assert "sequence 65538 is more than 65536 ahead of 1" in verdict.text
    assert bench.send("a", 2.0, sequence=1 + 65536).code == "accepted"
    assert bench.send("a", 2.0, sequence=2).code == "accepted"
    assert bench.send("a", 2.0, sequence=2 + 65536).code == "accepted"
    assert bench.engine.take_tally().slowed_by_reason == {"sequence_ahead": 1}


@pytest.mark.parametrize(
    ("quota", "reason"),
    [
        (QuotaPolicy(max_pending_bytes=1200), "tenant_bytes"),
        (QuotaPolicy(worker_pending_bytes=1200), "worker_bytes"),
        (QuotaPolicy(max_segments_per_s=2), "tenant_rate"),
    ],
)
def test_at_a_limit_the_sender_is_slowed_down_and_the_segment_taken_later(quota: QuotaPolicy, reason: str) -> None:
    bench = Bench(quota=quota, lateness_s=0.5)
    assert [bench.send("a", t).code for t in (1.0, 1.1)] == ["accepted", "accepted"]
    verdict = bench.send("a", 1.2)
    assert verdict.code == "slow_down"
    assert verdict.retry_after_ms > 0
    assert bench.engine.take_tally().slowed_by_reason == {reason: 1}
    bench.drain()
    bench.wait(2.1 if reason.endswith("bytes") else verdict.retry_after_ms / 1000)
    bench.drain()
    assert bench.send("a", 1.3, sequence=3).code == "accepted"


def test_a_stream_slowed_down_by_its_rate_is_waited_for() -> None:
    bench = Bench(quota=QuotaPolicy(max_segments_per_s=2))
    bench.open("b")
    bench.send("a", 10.0)
    bench.send("a", 20.0)
    for _ in range(20):
        verdict = bench.send("b", 1.0, sequence=1)
        if verdict.code == "slow_down":
            bench.wait(0.4)
        assert verdict.code != "late"


@pytest.mark.parametrize("pace", [0.0, 0.01, 1.0])
def test_streams_that_fill_their_tenant_s_bytes_while_they_wait_for_each_other_go_on(pace: float) -> None:
    """One stream is far behind the other, both send again until they are taken: nobody waits for ever."""
    limit = 6000
    bench = Bench(quota=QuotaPolicy(max_pending_bytes=limit))
    frames, sent = bench.frames(), {"behind": 0, "ahead": 0}
    for stream in sent:
        bench.open(stream)
    for _ in range(400):
        for stream, start_s in (("behind", 1.0), ("ahead", 500.0)):
            event_time_s = start_s + pace * sent[stream]
            verdict = bench.send(stream, event_time_s, sequence=sent[stream] + 1, frames=frames)
            sent[stream] += verdict.code != "slow_down"
            assert bench.engine.quotas.pending_bytes <= limit
        bench.drain()
        bench.wait(0.05)
    assert sent["behind"] > 100, "the one that holds the session back is let in first"
    bench.rest()
    assert bench.engine.quotas.pending_bytes == 0


def test_a_session_whose_steps_lag_behind_is_slowed_down_and_its_order_kept() -> None:
    bench = Bench(max_unsettled_segments=4, lateness_s=1000.0)
    sent = 0
    while bench.send("a", float(sent)).code == "accepted":
        sent += 1
        assert sent < 100
    assert sent == 8
    assert bench.engine.take_tally().slowed_by_reason == {"session_backlog": 1}
    bench.drain()
    assert bench.send("a", float(sent), sequence=sent + 1).code == "accepted"
    bench.rest()
    assert bench.session().settled_version == 9


# ---- gaps and streams ----


def test_numbers_that_their_publisher_gave_up_are_gaps_and_counted() -> None:
    bench = Bench()
    bench.send("a", 1.0)
    bench.send("a", 2.0, sequence=4)
    session = bench.session()
    bench.engine.skip_below(session, "a", 6, bench.now_s)
    assert bench.engine.take_tally().gaps == 3
    assert session.streams["a"].received.upto == 5
    bench.engine.skip_below(session, "a", 6, bench.now_s)
    bench.engine.skip_below(session, "a", 2, bench.now_s)
    assert bench.engine.take_tally().gaps == 0
    bench.rest()
    bench.commit()
    assert session.streams["a"].durable == 5
    assert session.settled_version == 2


def test_giving_up_what_is_pending_neither_loses_nor_repeats_it() -> None:
    bench = Bench(lateness_s=10.0)
    bench.send("a", 1.0)
    bench.send("a", 2.0)
    bench.engine.skip_below(bench.session(), "a", 3, bench.now_s)
    assert bench.send("a", 1.0, sequence=1).code == "duplicate"
    assert bench.engine.take_tally().gaps == 0
    bench.rest()
    assert bench.session().settled_version == 2


@pytest.mark.parametrize("mode", ["rewind", "hold"])
def test_what_is_given_up_while_it_is_pending_is_neither_fused_nor_durable_before_its_time(mode: str) -> None:
    bench = Bench(lateness_s=10.0, mode=mode)
    bench.send("a", 1.0)
    bench.send("a", 2.0, sequence=3)
    bench.engine.skip_below(bench.session(), "a", 7, bench.now_s)
    bench.drain()
    bench.commit()
    stream = bench.session().streams["a"]
    assert (stream.received.upto, stream.fused.upto, stream.durable) == (6, 6 if mode == "rewind" else 0, 0)
    bench.rest()
    bench.commit()
    assert (stream.fused.upto, stream.durable) == (6, 6)
    assert bench.session().settled_version == 2


def test_a_crash_loses_nothing_that_was_called_durable_because_its_publisher_gave_it_up() -> None:
    bench = Bench(lateness_s=10.0)
    bench.send("a", 1.0)
    bench.engine.skip_below(bench.session(), "a", 5, bench.now_s)
    bench.commit()
    bench = bench.after_a_crash()
    assert bench.send("a", 1.0, sequence=1).code == "accepted"
    bench.engine.skip_below(bench.session(), "a", 5, bench.now_s)
    bench.rest()
    bench.commit()
    assert bench.session().settled_version == 1
    assert bench.session().streams["a"].durable == 4


def test_a_gap_is_passed_though_what_came_before_it_fails_at_its_step() -> None:
    bench = Bench(lateness_s=10.0, mode="hold")
    bench.send("a", 1.0, frames=bench.frames(value=POISON))
    bench.engine.skip_below(bench.session(), "a", 5, bench.now_s)
    bench.rest()
    bench.commit()
    assert bench.session().streams["a"].durable == 4


def test_a_gap_holds_the_watermark_until_it_is_filled_or_given_up() -> None:
    bench = Bench(lateness_s=1.0)
    bench.send("a", 1.0)
    bench.send("a", 30.0, sequence=3)
    assert bench.session().timeline.watermark_s < 1.0
    assert bench.send("a", 2.0, sequence=2).code == "accepted"
    assert bench.session().timeline.watermark_s == np.nextafter(29.0, -inf)
    bench.send("a", 40.0, sequence=5)
    bench.engine.skip_below(bench.session(), "a", 5, bench.now_s)
    assert bench.session().timeline.watermark_s == np.nextafter(39.0, -inf)


def test_a_stream_starts_at_the_base_its_publisher_names() -> None:
    bench = Bench()
    bench.open("a", base=100)
    assert bench.send("a", 1.0, sequence=99).code == "duplicate"
    assert bench.send("a", 1.0, sequence=100).code == "accepted"
    bench.rest()
    bench.commit()
    assert bench.session().streams["a"].durable == 100


def test_a_stream_keeps_its_modality_and_the_model_s_modalities_are_all_there_are() -> None:
    bench = Bench()
    bench.open("a", "audio")
    with pytest.raises(ValueError, match="'a' is of modality audio"):
        bench.open("a", "imu")
    with pytest.raises(KeyError):
        bench.open("s", "smell")
    assert set(bench.session().streams) == {"a"}


def test_opening_a_stream_names_the_owner_before() -> None:
    bench = Bench()
    owners = ["one", "one", "two", "one"]
    assert [bench.open("a", owner=owner) for owner in owners] == ["", "", "one", "two"]


def test_an_ended_stream_lets_its_session_settle_at_once_and_may_be_opened_again() -> None:
    bench = Bench()
    bench.send("a", 1.0)
    bench.send("b", 2.0)
    for stream in "ab":
        bench.engine.end_stream(bench.session(), stream, bench.now_s)
    bench.drain()
    assert bench.session().settled_version == 2
    bench.open("a")
    assert bench.send("a", 3.0).code == "accepted"
    assert bench.session().timeline.watermark_s == 2.0


def test_after_an_end_the_session_settles_when_the_others_fall_silent_and_not_later() -> None:
    bench = Bench()
    bench.open("a")
    bench.send("b", 2.0)
    bench.now_s += 1.9
    bench.send("a", 2.0)
    bench.engine.end_stream(bench.session(), "a", bench.now_s)
    bench.drain()
    bench.wait(0.2)
    assert bench.session().settled_version == 2


def test_unknown_modalities_in_the_policy_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="smell"):
        Engine(ToyModel(), EnginePolicy(order=OrderPolicy(lateness_by_modality_s={"smell": 1.0})))


# ---- late segments ----


def test_a_late_segment_is_fused_at_the_watermark_where_the_policy_says_so() -> None:
    bench = Bench(late="fuse", lateness_s=1.0)
    bench.send("a", 10.0)
    verdict = bench.send("a", 2.0)
    assert verdict.code == "late_fused"
    assert "7.0000" in verdict.text
    assert bench.engine.take_tally().late_fused == {"audio": 1}
    bench.rest()
    assert [step.event_time_s for step in bench.session().history] == [9.0, 10.0]
    assert bench.session().settled_version == 2


def test_in_the_mode_arrival_nothing_is_late_and_order_is_arrival() -> None:
    bench = Bench(mode="arrival")
    assert [bench.send("a", t).code for t in (10.0, 2.0, 2.0, 11.0)] == ["accepted"] * 4
    bench.drain()
    assert bench.session().settled_version == 4
    tally = bench.engine.take_tally()
    assert (tally.rewinds, tally.late_fused, tally.late_dropped) == (0, {}, {})


def test_the_horizon_is_cut_when_a_session_holds_too_much_and_it_is_counted() -> None:
    bench = Bench(max_unsettled_segments=3, lateness_s=1000.0)
    for t in range(10):
        assert bench.send("a", float(t)).code == "accepted"
        bench.drain()
    assert bench.session().settled_version == 7
    assert bench.engine.take_tally().horizon_cuts == 7
    assert bench.send("a", 5.5).code == "late"


# ---- rewinds ----


def test_a_rewind_shows_the_earlier_state_until_all_that_was_shown_is_fused_again() -> None:
    bench = Bench(lateness_s=100.0)
    for stream in "abc":
        bench.open(stream)
    bench.send("a", 30.0)
    bench.drain()
    assert bench.engine.take_progress().states == {KEY: False}
    bench.send("b", 10.0)
    bench.send("c", 20.0)
    session = bench.session()
    for fused in (1, 2):
        bench.engine.step(bench.now_s)
        assert session.live_version == fused
        assert session.shown is not None
        assert session.shown.version == 1
        progress = bench.engine.take_progress()
        assert (progress.states, progress.streams) == ({}, {}), "nothing to tell before it shows"
    bench.engine.step(bench.now_s)
    assert session.shown is None
    progress = bench.engine.take_progress()
    assert progress.states == {KEY: True}
    assert set(progress.streams[KEY]) == {"a", "b", "c"}
    tally = bench.engine.take_tally()
    assert (tally.rewinds, tally.fused_again) == (1, 1)


def test_a_segment_at_the_end_is_no_correction() -> None:
    bench = Bench(lateness_s=100.0)
    for t in (1.0, 2.0, 3.0):
        bench.send("a", t)
        bench.drain()
        assert bench.engine.take_progress().states == {KEY: False}
    assert bench.engine.take_tally().rewinds == 0


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("poison", [POISON, -POISON])
def test_a_segment_that_breaks_the_step_in_the_middle_of_a_rewind_leaves_the_state_as_it_was(poison: float) -> None:
    bench = Bench(lateness_s=100.0)
    for t in (1.0, 3.0, 4.0):
        bench.send("a", t)
    bench.drain()
    before = bench.engine.slab.contexts[bench.session().live_slot].clone()
    bench.send("a", 2.0, frames=bench.frames(value=poison))
    bench.drain()
    session = bench.session()
    assert (session.live_version, session.shown) == (3, None)
    assert_close(bench.engine.slab.contexts[session.live_slot], before, "context")
    (failure,) = bench.engine.take_progress().failures
    assert failure[:3] == (KEY, "a", 4)
    bench.rest()
    assert (session.settled_version, session.streams["a"].settled.upto) == (3, 4)
    assert bench.engine.quotas.pending_bytes == 0


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_first_segment_that_breaks_the_step_leaves_its_session_empty_and_usable() -> None:
    bench = Bench()
    bench.send("a", 1.0, frames=bench.frames(value=-POISON))
    bench.drain()
    assert (bench.session().live_version, bench.session().live_slot) == (0, -1)
    bench.send("a", 2.0)
    bench.rest()
    bench.commit()
    assert bench.session().settled_version == 1
    assert bench.session().streams["a"].durable == 2


# ---- isolation ----


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_when_memory_runs_out_nothing_is_lost_and_the_step_can_be_tried_again(error: BaseException) -> None:
    class Exhausted(ToyModel):
        recovered = False

        def step(self, batch: StepBatch) -> StepResult:
            if not self.recovered:
                raise error
            return super().step(batch)

    model = Exhausted()
    bench = Bench(model=model)
    bench.send("a", 1.0)
    bench.send("a", 1.0, key=OTHER)
    for _ in range(3):
        with pytest.raises(type(error)):
            bench.engine.step(bench.now_s)
        assert bench.engine.slab.available == bench.engine.slab.capacity
    model.recovered = True
    assert bench.drain() == 2


def test_a_session_takes_part_in_a_batch_once_and_sessions_share_batches() -> None:
    bench = Bench(batch=BatchPolicy(max_segments=10))
    for n in range(3):
        for t in (1.0, 2.0):
            bench.send("a", t, key=KEY._replace(session=str(n)))
    assert [bench.engine.step(bench.now_s) for _ in range(3)] == [3, 3, 0]
    assert bench.model.batches == [3, 3]


def test_the_same_session_id_in_two_tenants_is_two_sessions() -> None:
    bench = Bench()
    south = SessionKey("south", KEY.session)
    bench.send("a", 1.0)
    bench.send("a", 2.0, key=south)
    bench.rest()
    assert bench.session().lineage != bench.session(south).lineage


# ---- memory: the slab, eviction, forgetting ----


def test_more_sessions_than_the_slab_holds_are_told_to_slow_down_and_come_in_once_others_have_left() -> None:
    bench = Bench(capacity=4)
    keys = [KEY._replace(session=str(n)) for n in range(4)]
    for key in keys[:3]:
        bench.send("a", 1.0, key=key)
    bench.drain()
    refusal = bench.engine.create(keys[3], bench.now_s)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.retry_after_ms > 0) == ("slab", True)
    assert bench.engine.take_tally().slowed_by_reason == {"slab": 1}
    bench.rest()
    assert isinstance(bench.engine.create(keys[3], bench.now_s), Refusal), "nothing is saved yet"
    bench.commit()
    bench.engine.take_progress()
    assert isinstance(bench.engine.create(keys[3], bench.now_s), Session)
    assert keys[0] not in bench.engine.sessions, "the longest inactive has left"
    assert bench.engine.take_tally().evicted == 1


@pytest.mark.parametrize("mode", ["rewind", "hold", "arrival"])
def test_sessions_that_fill_the_slab_never_keep_each_other_from_going_on(mode: str) -> None:
    bench = Bench(capacity=4, mode=mode, lateness_s=0.5)
    keys = []
    for n in range(9):
        key = KEY._replace(session=str(n))
        if isinstance(bench.engine.create(key, bench.now_s), Session):
            bench.open("a", key=key)
            keys.append(key)
    assert len(keys) == 3
    for t in range(10):
        for key in keys:
            assert bench.send("a", float(t), key=key).code == "accepted"
        bench.drain()
    bench.rest()
    assert [bench.session(key).settled_version for key in keys] == [10] * len(keys)


def test_a_slab_exhausted_in_the_middle_of_a_rewind_goes_on_when_rows_are_free_again() -> None:
    bench = Bench(capacity=8, lateness_s=100.0)
    for t in (2.0, 3.0, 4.0, 5.0):
        bench.send("a", t)
    bench.drain()
    bench.open("b")
    bench.send("b", 1.0)
    for t in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0):
        bench.send("a", t, key=OTHER)
    bench.drain()
    session = bench.session()
    if session.shown is not None:
        assert session.shown.version == 4
    assert bench.engine.slab.available == 2, "the last row is for steps that settle at once, one for other tenants"
    bench.rest()
    assert (session.settled_version, session.shown) == (5, None)
    assert bench.session(OTHER).settled_version == 7


def test_a_tenant_that_takes_all_the_rows_it_can_leaves_some_to_others() -> None:
    bench = Bench(capacity=160, lateness_s=100.0)
    greedy = [KEY._replace(session=str(n)) for n in range(40)]
    for t in range(10):
        for key in greedy:
            bench.send("a", float(t), key=key)
    assert bench.drain() == 140, "of 160 rows, 10 are for steps that settle at once and 10 for other tenants"
    modest = [SessionKey("south", str(n)) for n in range(12)]
    for n, key in enumerate(modest):
        bench.send("a", 0.0, key=key)
        assert bench.engine.step(bench.now_s) == (1 if n < 10 else 0), "it holds too much itself by now"
    bench.rest()
    assert {bench.session(key).settled_version for key in modest} == {1}
    assert {bench.session(key).settled_version for key in greedy} == {10}


def test_idle_sessions_leave_for_a_tenant_that_wants_rows_and_for_no_other() -> None:
    bench = Bench(capacity=160, lateness_s=100.0)
    idle = [SessionKey("south", str(n)) for n in range(135)]
    for key in idle:
        bench.send("a", 0.0, key=key)
        bench.drain()
        bench.engine.end_stream(bench.session(key), "a", bench.now_s)
    bench.rest()
    bench.commit()
    bench.engine.take_progress()
    bench.send("a", 0.0)
    assert bench.drain() == 1
    assert len(bench.engine.sessions) == 136, "there are rows enough"
    for t in range(1, 20):
        bench.send("a", float(t))
    assert sum(bench.drain() for _ in range(3)) == 19
    assert len(bench.engine.sessions) < 136


def test_an_idle_session_leaves_memory_and_comes_back_at_its_next_segment() -> None:
    bench = Bench(evict_after_s=30.0)
    bench.send("a", 1.0)
    bench.rest()
    bench.commit()
    bench.engine.take_progress()
    lineage = bench.session().lineage
    bench.wait(17.9)
    assert KEY in bench.engine.sessions
    bench.wait(0.2)
    assert KEY not in bench.engine.sessions
    assert bench.engine.slab.available == bench.engine.slab.capacity
    assert bench.session().lineage == lineage
    assert bench.send("a", 2.0).code == "accepted"
    bench.rest()
    assert bench.session().settled_version == 2


@pytest.mark.parametrize("what", ["unsettled", "unsaved", "untold", "waited for"])
def test_a_session_does_not_leave_while_something_of_it_is(what: str) -> None:
    bench = Bench(evict_after_s=1.0, idle_timeout_s=1000.0 if what in ("unsettled", "waited for") else 2.0)
    bench.send("a", 1.0)
    bench.drain()
    if what == "waited for":
        bench.engine.end_stream(bench.session(), "a", bench.now_s)
        bench.open("b")
    bench.wait(3.0)
    bench.drain()
    if what != "unsaved":
        bench.commit()
    if what != "untold":
        bench.engine.take_progress()
    bench.wait(500.0)
    assert KEY in bench.engine.sessions
    assert not bench.engine.residents.make_room(bench.engine.slab.capacity, bench.now_s)
    assert KEY in bench.engine.sessions


def test_to_find_who_may_leave_a_few_are_looked_at_each_time_and_others_the_next() -> None:
    """Where nobody may leave, each step asks: it must not look at all sessions in memory each time."""
    bench = Bench(capacity=1024, idle_timeout_s=1000.0)
    for number in range(3 * LOOK_AT):
        bench.send("a", 1.0, key=SessionKey("t", f"busy{number}"))
    idle = [SessionKey("t", f"idle{number}") for number in range(3)]
    for key in idle:
        bench.send("a", 1.0, key=key)
        bench.engine.end_stream(bench.session(key), "a", bench.now_s)
    bench.drain()
    bench.commit()
    bench.engine.take_progress()
    for _ in range(3):
        in_turn = list(bench.engine.sessions)
        assert not bench.engine.residents.make_room(1024, bench.now_s)
        assert list(bench.engine.sessions) == in_turn[LOOK_AT:] + in_turn[:LOOK_AT], "those looked at are the last now"
    assert set(idle) <= bench.engine.sessions.keys()
    assert not bench.engine.residents.make_room(1024, bench.now_s)
    assert not set(idle) & bench.engine.sessions.keys(), "all that may leave have left"


def test_forgetting_a_session_with_all_it_has_pending_frees_all_it_held() -> None:
    bench = Bench(lateness_s=100.0)
    for t in (1.0, 3.0):
        bench.send("a", t)
    bench.drain()
    bench.send("a", 2.0)
    bench.send("a", 9.0, key=OTHER)
    bench.engine.forget(KEY)
    engine = bench.engine
    assert engine.quotas.pending_bytes == engine.sessions[OTHER].timeline.n_bytes
    assert engine.slab.available == engine.slab.capacity
    progress = engine.take_progress()
    assert KEY not in progress.streams
    assert KEY not in progress.states
    assert bench.drain() == 1
    bench.wait(1000.0)
    assert engine.sessions.keys() == {OTHER}


def test_a_session_that_was_forgotten_and_made_again_starts_from_nothing() -> None:
    bench = Bench(lateness_s=100.0)
    bench.send("a", 1.0)
    bench.send("a", 2.0)
    bench.drain()
    bench.engine.forget(KEY)
    assert bench.send("a", 1.0, sequence=1).code == "accepted"
    assert bench.session().live_version == 0
    bench.rest()
    assert bench.session().settled_version == 1


def test_sessions_that_come_and_go_leave_nothing_behind() -> None:
    bench = Bench(capacity=8, evict_after_s=1.0)
    engine = bench.engine
    for n in range(500):
        key = SessionKey(f"tenant-{n}", "s")
        bench.send("a", 1.0, key=key)
        if n % 2:
            bench.drain()
            engine.end_stream(engine.sessions[key], "a", bench.now_s)
            bench.commit()
            engine.take_progress()
            bench.wait(1.1)
        else:
            engine.forget(key)
            bench.wait(0.1)
    bench.wait(60.0)
    assert not engine.sessions
    assert not engine.dirty
    assert not engine._flow.silent_at
    assert not engine._flow.ready._tenants
    assert not engine.quotas._tenants
    assert engine.slab.available == engine.slab.capacity


def test_streams_opened_and_ended_over_and_over_leave_no_trace_in_the_watch() -> None:
    bench = Bench(lateness_s=1000.0)
    bench.send("a", 1.0)
    for _ in range(1000):
        bench.open("b")
        bench.engine.end_stream(bench.session(), "b", bench.now_s)
    assert len(bench.engine._flow.silent_at) <= 3


def test_sessions_that_fall_silent_together_are_looked_at_some_at_a_time() -> None:
    bench = Bench(capacity=1024)
    keys = [SessionKey("t", f"s{number}") for number in range(3 * SILENT_PER_TICK)]
    for key in keys:
        bench.send("a", 1.0, key=key)
    bench.drain()
    bench.now_s += 2.0

    def settled() -> int:
        return sum(bench.session(key).settled_version for key in keys)

    for looks in (1, 2):
        bench.engine.tick(bench.now_s)
        assert settled() == looks * SILENT_PER_TICK
        assert bench.engine.silent_at_s <= bench.now_s, "the others at once"
    bench.engine.tick(bench.now_s)
    assert (settled(), bench.engine.silent_at_s) == (len(keys), inf)


def test_as_many_silent_sessions_settle_as_segments_were_fused() -> None:
    """Else a worker at its limit would fuse more than ever settles, until no row of the slab is left."""
    bench = Bench(capacity=1024)
    keys = [SessionKey("t", f"s{number}") for number in range(3 * SILENT_PER_TICK)]
    for key in keys:
        bench.send("a", 1.0, key=key)
    fused = bench.drain()
    bench.now_s += 2.0
    bench.engine.tick(bench.now_s, fused)
    assert sum(bench.session(key).settled_version for key in keys) == len(keys)


def test_the_engine_says_when_it_wants_to_look_again() -> None:
    bench = Bench()
    assert bench.engine.silent_at_s == inf
    bench.send("a", 1.0)
    assert bench.engine.silent_at_s == bench.now_s + 2.0
    bench.wait(2.0)
    assert bench.session().timeline.watermark_s == 1.0
    assert bench.engine.silent_at_s == inf
