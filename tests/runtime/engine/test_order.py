from __future__ import annotations

from math import inf, nextafter
from typing import Any

import numpy as np
import pytest

from runtime.engine.order import Entry, FusionKey, Timeline
from runtime.engine.policies import OrderPolicy

FRAMES = np.zeros((1, 3), np.float32)


def just_below(seconds: float) -> float:
    return nextafter(seconds, -inf)


class Chain:
    """A timeline whose segments are told by stream and event time."""

    def __init__(self, **policy: Any) -> None:
        self.timeline = Timeline(OrderPolicy(**{"lateness_s": 1.0, "idle_timeout_s": 2.0} | policy))
        self._sequence = 0

    def open(self, stream: str, now_s: float, modality: str = "audio") -> None:
        self.timeline.open_stream(stream, modality, now_s + self.timeline.policy.idle_timeout_s)

    def land(
        self, stream: str, event_time_s: float, now_s: float, rank: int = 0, reached_s: float | None = None
    ) -> list[int]:
        self._sequence += 1
        stale = self.timeline.insert(Entry(FusionKey(event_time_s, rank, stream, self._sequence), FRAMES, now_s))
        self.timeline.land(stream, event_time_s if reached_s is None else reached_s, now_s, now_s)
        return stale

    def fuse(self, *slots: int) -> None:
        for slot in slots:
            assert self.timeline.next_entry() is not None
            self.timeline.advance(slot)

    def times(self) -> list[float]:
        return [entry.key.event_time_s for entry in self.timeline.entries]


# ---- the watermark ----


def test_the_watermark_follows_the_stream_that_is_furthest_behind() -> None:
    chain = Chain()
    chain.open("a", 0)
    chain.open("b", 0)
    chain.land("a", 10.0, 0.1)
    assert chain.timeline.watermark_s == -inf
    chain.land("b", 4.0, 0.2)
    assert chain.timeline.watermark_s == just_below(3.0)
    chain.land("b", 12.0, 0.3)
    assert chain.timeline.watermark_s == just_below(9.0)


def test_a_segment_exactly_at_the_allowed_lateness_is_not_late() -> None:
    chain = Chain()
    chain.open("a", 0)
    chain.land("a", 10.0, 0.1)
    assert not chain.timeline.is_late(9.0)
    assert chain.timeline.is_late(just_below(9.0))


def test_equal_stamps_are_not_late_without_any_lateness() -> None:
    chain = Chain(lateness_s=0.0)
    chain.open("a", 0)
    chain.land("a", 10.0, 0.1)
    assert not chain.timeline.is_late(10.0)


def test_the_watermark_does_not_reverse_when_a_stream_goes_back_in_time_or_opens_late() -> None:
    chain = Chain()
    chain.open("a", 0)
    chain.land("a", 10.0, 0.1)
    chain.land("a", 9.5, 0.2)
    assert chain.timeline.watermark_s == just_below(9.0)
    chain.open("b", 0.3)
    chain.timeline.advance_watermark(0.3)
    assert chain.timeline.watermark_s == just_below(9.0)
    chain.land("a", 20.0, 0.4)
    assert chain.timeline.watermark_s == just_below(9.0), "b is waited for"
    chain.land("b", 9.5, 0.5)
    assert chain.timeline.watermark_s == just_below(9.0)


def test_a_silent_stream_is_waited_for_until_the_idle_time_out_and_no_longer() -> None:
    chain = Chain()
    chain.open("a", 0)
    chain.open("b", 0)
    chain.land("a", 10.0, 1.99)
    assert chain.timeline.watermark_s == -inf
    chain.land("a", 10.5, 2.0)
    assert chain.timeline.watermark_s == just_below(9.5)


@pytest.mark.parametrize("resumes_s", [1.5, 2.005, 2.01, 2.1, 3.0])
def test_streams_that_paused_together_go_on_together_however_long_the_pause_was(resumes_s: float) -> None:
    """Between the time-outs of the two as well: the first to go on would have overtaken the other."""
    chain = Chain(lateness_s=0.5)
    chain.open("a", 0)
    chain.open("b", 0)
    chain.land("b", 9.9, 0.0)
    chain.land("a", 10.0, 0.01)
    if resumes_s >= chain.timeline.idle_at_s:
        chain.timeline.advance_watermark(resumes_s)
    for position in range(8):
        chain.land("a", 10.2 + position / 5, resumes_s)
    assert not chain.timeline.is_late(10.1)
    chain.land("b", 10.1, resumes_s)


def chain_whose_b_is_gone() -> Chain:
    """It was heard of once, at 0."""
    chain = Chain(lateness_s=0.0)
    chain.open("a", 0)
    chain.open("b", 0)
    chain.land("b", 9.0, 0.0)
    return chain


def test_a_stream_that_is_gone_is_excused_once_however_slow_the_others_are() -> None:
    chain = chain_whose_b_is_gone()
    for turn in range(1, 4):
        chain.land("a", 10.0 * turn, 1.9 * turn)
    assert chain.timeline.watermark_s == just_below(9.0), "waited for until 3.8 s and the idle time-out"
    chain.land("a", 40.0, 7.6)
    assert chain.timeline.watermark_s == just_below(40.0)


def test_a_stream_that_is_silent_while_others_go_on_is_not_excused() -> None:
    chain = chain_whose_b_is_gone()
    for turn in range(1, 5):
        chain.land("a", 10.0 + turn, 0.5 * turn)
    assert chain.timeline.watermark_s == just_below(14.0)


def test_a_session_that_is_silent_altogether_settles_all_it_has() -> None:
    chain = Chain()
    chain.open("a", 0)
    chain.land("a", 10.0, 1.0)
    assert chain.timeline.idle_at_s == 3.0
    chain.timeline.advance_watermark(2.99)
    assert chain.timeline.watermark_s == just_below(9.0)
    chain.timeline.advance_watermark(3.0)
    assert chain.timeline.watermark_s == 10.0


def test_an_ended_stream_is_not_waited_for_until_it_is_opened_again() -> None:
    chain = Chain()
    chain.open("a", 0)
    chain.open("b", 0)
    chain.land("a", 10.0, 0.1)
    chain.timeline.end_stream("b")
    chain.timeline.end_stream("never opened")
    chain.timeline.advance_watermark(0.2)
    assert chain.timeline.watermark_s == just_below(9.0)
    chain.open("b", 0.3)
    chain.land("a", 30.0, 0.4)
    assert chain.timeline.watermark_s == just_below(9.0)


def test_after_a_silence_the_other_streams_are_waited_for_again_when_one_goes_on_but_not_those_that_ended() -> None:
    chain = Chain()
    for stream in ("a", "b", "ended"):
        chain.open(stream, 0)
        chain.land(stream, 10.0, 0.1)
    chain.timeline.end_stream("ended")
    chain.timeline.advance_watermark(5.0)
    assert chain.timeline.watermark_s == 10.0
    chain.land("a", 30.0, 5.1)
    assert chain.timeline.watermark_s == 10.0
    chain.land("b", 30.5, 5.2)
    assert chain.timeline.watermark_s == just_below(29.0)


def test_while_a_new_session_gathers_its_streams_nothing_settles() -> None:
    chain = Chain()
    chain.timeline.gather_until_s = 2.0
    chain.open("a", 0)
    chain.land("a", 10.0, 0.1)
    chain.timeline.end_stream("a")
    chain.timeline.advance_watermark(1.9)
    assert (chain.timeline.watermark_s, chain.timeline.idle_at_s) == (-inf, 2.0)
    chain.timeline.advance_watermark(2.0)
    assert chain.timeline.watermark_s == 10.0


def test_a_gap_in_a_stream_holds_the_watermark_where_the_stream_is_complete() -> None:
    chain = Chain()
    chain.open("a", 0)
    chain.land("a", 10.0, 0.1)
    chain.land("a", 50.0, 0.2, reached_s=-inf)
    assert chain.timeline.watermark_s == just_below(9.0)
    assert chain.timeline.newest_s == 50.0


def test_the_slowest_modality_with_a_stream_gives_its_lateness_to_the_session() -> None:
    chain = Chain(lateness_by_modality_s={"text": 5.0})
    chain.open("a", 0)
    chain.land("a", 10.0, 0.1)
    chain.open("t", 0.2, modality="text")
    chain.timeline.end_stream("t")
    chain.land("a", 12.0, 0.3)
    assert chain.timeline.watermark_s == just_below(9.0), "it does not go back"
    chain.land("a", 20.0, 0.4)
    assert chain.timeline.watermark_s == just_below(15.0)


def test_in_the_mode_arrival_what_has_landed_is_not_waited_behind() -> None:
    chain = Chain(mode="arrival")
    chain.open("a", 0)
    chain.open("b", 0)
    chain.land("a", 10.0, 0.1)
    assert chain.timeline.watermark_s == 10.0
    assert chain.timeline.is_late(10.0)
    assert chain.timeline.just_after_watermark() == nextafter(10.0, inf)


def test_a_jump_is_believed_only_once_the_session_is_idle() -> None:
    chain = Chain(max_jump_s=100.0)
    chain.open("a", 0)
    assert not chain.timeline.is_jump(1e9, 0.0), "the first stamp is as good as any"
    chain.land("a", 10.0, 0.1)
    assert not chain.timeline.is_jump(110.0, 0.0)
    assert chain.timeline.is_jump(110.1, 0.0)
    assert chain.timeline.is_jump(1e9, 1.99)
    assert not chain.timeline.is_jump(1e9, 2.0)


# ---- the chain ----


def test_entries_stand_in_fusion_order_however_they_land() -> None:
    chain = Chain(lateness_s=100.0)
    for stream in "ab":
        chain.open(stream, 0)
    for stream, event_time_s, rank in [("b", 2, 1), ("a", 2, 1), ("b", 1, 2), ("b", 2, 0), ("a", 1, 2)]:
        chain.land(stream, event_time_s, 0.1, rank)
    keys = [(entry.key.event_time_s, entry.key.rank, entry.key.stream) for entry in chain.timeline.entries]
    assert keys == [(1, 2, "a"), (1, 2, "b"), (2, 0, "b"), (2, 1, "a"), (2, 1, "b")]


def test_a_segment_before_what_is_fused_rewinds_to_the_snapshot_before_it() -> None:
    chain = Chain(lateness_s=100.0)
    chain.open("a", 0)
    for event_time_s in (1, 3, 5):
        chain.land("a", event_time_s, 0.1)
    chain.fuse(11, 13, 15)
    assert chain.land("a", 2, 0.2) == [13, 15]
    assert chain.timeline.fused == 1
    assert [entry.slot for entry in chain.timeline.entries] == [11, -1, -1, -1]
    assert chain.land("a", 4, 0.3) == []
    assert chain.land("a", 6, 0.3) == []


def test_a_segment_before_all_rewinds_everything() -> None:
    chain = Chain(lateness_s=100.0)
    chain.open("a", 0)
    chain.land("a", 5, 0.1)
    chain.fuse(7)
    assert chain.land("a", 1, 0.2) == [7]
    assert chain.timeline.fused == 0


def test_removing_a_fused_entry_gives_back_the_snapshots_that_held_it() -> None:
    chain = Chain(lateness_s=100.0)
    chain.open("a", 0)
    for event_time_s in (1, 2, 3):
        chain.land("a", event_time_s, 0.1)
    chain.fuse(11, 12)
    assert chain.timeline.remove(chain.timeline.entries[2]) == []
    assert chain.timeline.remove(chain.timeline.entries[0]) == [11, 12]
    assert chain.times() == [2]
    assert chain.timeline.n_bytes == chain.timeline.entries[0].n_bytes


def test_only_what_is_fused_and_passed_by_the_watermark_settles() -> None:
    chain = Chain(lateness_s=1.0)
    chain.open("a", 0)
    for event_time_s in (1, 2, 3, 4):
        chain.land("a", event_time_s, 0.1)
    assert chain.timeline.settle() == []
    chain.fuse(11)
    assert [entry.slot for entry in chain.timeline.settle()] == [11]
    chain.fuse(12, 13, 14)
    assert [entry.slot for entry in chain.timeline.settle()] == [12]
    assert (chain.times(), chain.timeline.fused) == ([3, 4], 2)


def test_a_checkpoint_s_watermark_stays_before_what_still_waits_for_its_step() -> None:
    chain = Chain(lateness_s=0.0)
    chain.open("a", 0)
    for event_time_s in (1, 2, 3):
        chain.land("a", event_time_s, 0.1)
    chain.fuse(11)
    chain.timeline.settle()
    assert chain.timeline.watermark_s == just_below(3)
    assert chain.timeline.settled_watermark_s == just_below(2)


def test_in_the_mode_hold_nothing_is_fused_before_the_watermark_has_passed_it() -> None:
    chain = Chain(mode="hold", lateness_s=1.0)
    chain.open("a", 0)
    chain.land("a", 1, 0.1)
    chain.land("a", 2, 0.1)
    assert chain.timeline.next_entry() is None
    chain.land("a", 2.5, 0.2)
    assert chain.timeline.next_entry() is chain.timeline.entries[0]
    chain.fuse(11)
    assert chain.timeline.next_entry() is None


# ---- its limits ----


def test_the_horizon_is_cut_at_the_limit_of_segments_oldest_first() -> None:
    chain = Chain(lateness_s=1000.0, max_unsettled_segments=3)
    chain.open("a", 0)
    for event_time_s in (1, 2, 3):
        chain.land("a", event_time_s, 0.1)
        assert not chain.timeline.cut()
    chain.land("a", 4, 0.1)
    assert chain.timeline.cut()
    assert chain.timeline.watermark_s == 1
    assert not chain.timeline.cut(), "once is enough"
    chain.fuse(11, 12, 13, 14)
    chain.timeline.settle()
    assert chain.times() == [2, 3, 4]


def test_the_horizon_is_cut_at_the_limit_of_bytes_and_keeps_the_newest() -> None:
    n_bytes = Entry(FusionKey(0, 0, "a", 1), FRAMES, 0).n_bytes
    chain = Chain(lateness_s=1000.0, max_unsettled_bytes=int(2.5 * n_bytes))
    chain.open("a", 0)
    for event_time_s in (1, 2, 3, 4):
        chain.land("a", event_time_s, 0.1)
    assert chain.timeline.cut()
    assert chain.timeline.watermark_s == 2
    tight = Chain(lateness_s=1000.0, max_unsettled_bytes=1)
    tight.open("a", 0)
    tight.land("a", 1, 0.1)
    assert not tight.timeline.cut(), "one segment always fits"


def test_a_chain_whose_steps_lag_behind_is_full_at_twice_its_limit() -> None:
    chain = Chain(lateness_s=1000.0, max_unsettled_segments=2)
    chain.open("a", 0)
    for event_time_s in (1, 2, 3):
        chain.land("a", event_time_s, 0.1)
        chain.timeline.cut()
    assert not chain.timeline.is_full
    chain.land("a", 4, 0.1)
    assert chain.timeline.is_full
    chain.timeline.cut()
    chain.fuse(11, 12)
    chain.timeline.settle()
    assert not chain.timeline.is_full


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"mode": "sideways"}, "mode must be rewind, hold or arrival: 'sideways'"),
        ({"late": "keep"}, "late must be drop or fuse: 'keep'"),
        ({"lateness_s": -1.0}, "lateness_s must not be negative: -1.0"),
        ({"lateness_s": float("nan")}, "lateness_s must not be negative: nan"),
        ({"idle_timeout_s": -1.0}, "idle_timeout_s must not be negative"),
        ({"lateness_by_modality_s": {"text": -2.0}}, r"lateness_by_modality_s\['text'\] must not be negative: -2.0"),
        ({"max_unsettled_segments": 0}, "must be positive"),
    ],
)
def test_an_order_policy_that_cannot_work_is_refused(setting: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        OrderPolicy(**setting)
