"""Several segments of one message, taken together, come to the same as one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.policies import QuotaPolicy
from runtime.messages import SegmentEntry
from tests.runtime.engine.bench import WALL_S, Bench

FRAMES = np.ones((2, 3), np.float32)


def entries(*times_s: float) -> list[SegmentEntry]:
    return [SegmentEntry(number, time_s, FRAMES * number) for number, time_s in enumerate(times_s, 1)]


def take(bench: Bench, segments: list[SegmentEntry]) -> list[str]:
    bench.open("a")
    verdicts = bench.engine.take(bench.session(), "a", segments, bench.now_s, WALL_S)
    return [verdict.code for verdict in verdicts]


@settings(max_examples=300, derandomize=True)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=12),
    st.sampled_from(["rewind", "hold", "arrival"]),
    st.integers(1, 12),
)
def test_one_message_or_many_settle_the_same(times: list[int], mode: str, size: int) -> None:
    def settled(pieces: list[list[SegmentEntry]]) -> Any:
        bench = Bench(mode=mode, lateness_s=20.0)
        for piece in pieces:
            assert take(bench, piece) == ["accepted"] * len(piece)
        bench.engine.end_stream(bench.session(), "a", bench.now_s)
        bench.drain()
        session = bench.session()
        assert session.settled_version == len(times)
        return session.lineage, bench.engine.slab.contexts[session.settled_slot].tolist()

    segments = entries(*map(float, times))
    assert settled([segments[at : at + size] for at in range(0, len(segments), size)]) == settled(
        [[segment] for segment in segments]
    )


def test_a_bad_segment_in_the_middle_costs_nobody_else() -> None:
    bench = Bench()
    segments = entries(1.0, 2.0, 3.0)
    segments[1] = segments[1]._replace(frames=np.full((2, 3), np.nan, np.float32))
    assert take(bench, segments) == ["accepted", "bad_segment", "accepted"]
    assert bench.drain() == 2
    assert bench.session().streams["a"].fused.upto == 3


def test_nothing_is_looked_at_behind_the_one_that_is_to_be_sent_again() -> None:
    bench = Bench(max_unsettled_segments=1)
    assert take(bench, entries(1.0, 2.0, 3.0, 4.0)) == ["accepted", "accepted", "slow_down"]
    assert bench.session().streams["a"].received.highest == 2


def test_frames_of_a_message_are_kept_one_by_one() -> None:
    bench = Bench()
    whole = np.ones((4, 3), np.float32)
    take(bench, [SegmentEntry(1, 1.0, whole[:2]), SegmentEntry(2, 2.0, whole[2:])])
    assert not any(np.shares_memory(entry.frames, whole) for entry in bench.session().timeline.entries)


def test_a_segment_that_no_limit_would_ever_let_in_is_refused_for_good() -> None:
    bench = Bench(quota=QuotaPolicy(max_pending_bytes=700))
    (first,) = entries(1.0)
    assert take(bench, [first._replace(frames=np.ones((8, 3), np.float32))]) == ["too_large"]
    assert take(bench, [first._replace(sequence=2, frames=FRAMES[:1])]) == ["accepted"]


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_large_values_are_no_infinite_ones(value: float) -> None:
    assert take(Bench(), [SegmentEntry(1, 1.0, np.full((2, 3), value, np.float32))]) == ["accepted"]
