from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grf_core.data.sessions import (
    Cutting,
    LabelledSession,
    LabelTrack,
    Segment,
    StreamFrames,
    cut_session,
    in_fusion_order,
)

MAX_FRAMES = {"audio": 8, "text": 100}


def stream(times_s: list[float], modality: str = "audio", name: str = "mic") -> StreamFrames:
    frames = np.arange(len(times_s), dtype=np.float32)[:, None]
    return StreamFrames(name, modality, frames, np.array(times_s))


def cut(*streams: StreamFrames, cutting: Cutting, seed: int = 0) -> list[Segment]:
    return cut_session(LabelledSession("s", {}, streams), cutting, MAX_FRAMES, np.random.default_rng(seed))


@given(
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
    shortest=st.floats(0.05, 2),
    factor=st.floats(1, 5),
    vary=st.floats(0, 0.9),
    seed=st.integers(0, 1000),
)
def test_cutting_loses_no_frame_repeats_none_and_keeps_their_order(
    gaps: list[float], shortest: float, factor: float, vary: float, seed: int
) -> None:
    times_s = np.cumsum(gaps).tolist()
    segments = cut(stream(times_s), cutting=Cutting(shortest, shortest * factor, vary), seed=seed)
    assert np.concatenate([segment.frames for segment in segments])[:, 0].tolist() == list(range(len(times_s)))
    assert [segment.sequence for segment in segments] == list(range(1, len(segments) + 1))
    assert all(1 <= len(segment.frames) <= MAX_FRAMES["audio"] for segment in segments)


def test_even_frames_are_cut_evenly() -> None:
    segments = cut(stream([0.1 * frame for frame in range(100)]), cutting=Cutting(0.5, 0.5))
    assert [len(segment.frames) for segment in segments] == [5] * 20


def test_a_segment_happens_when_its_last_frame_does() -> None:
    segments = cut(stream([0.0, 0.25, 0.5, 0.75]), cutting=Cutting(0.5, 0.5))
    assert [segment.event_time_s for segment in segments] == [0.25, 0.75]


def test_a_silence_gives_no_empty_segment() -> None:
    segments = cut(stream([0.0, 0.1, 60.0]), cutting=Cutting(0.5, 0.5))
    assert [len(segment.frames) for segment in segments] == [2, 1]


@pytest.mark.parametrize("vary", [0.0, 0.9])
def test_a_clock_that_jumps_is_one_silence(vary: float) -> None:
    segments = cut(stream([0.0, 0.1, 1.7e9, 1.7e9 + 0.1, 1e12]), cutting=Cutting(0.25, 0.25, vary))
    assert [len(segment.frames) for segment in segments][-1] == 1
    assert {0.1, 1.7e9 + 0.1, 1e12} <= {segment.event_time_s for segment in segments}


def test_a_window_with_more_frames_than_the_model_takes_gives_several_segments() -> None:
    segments = cut(stream([0.01 * frame for frame in range(20)]), cutting=Cutting(1.0, 1.0))
    assert [len(segment.frames) for segment in segments] == [8, 8, 4]


def test_random_cuts_differ_by_seed_and_repeat_by_seed() -> None:
    watch, cutting = stream([0.1 * frame for frame in range(100)], "text"), Cutting(0.2, 2.0, vary=0.5)
    lengths = [[len(s.frames) for s in cut(watch, cutting=cutting, seed=seed)] for seed in (0, 0, 1)]
    assert lengths[0] == lengths[1] != lengths[2]
    assert len(set(lengths[0])) > 1


def test_fusion_order_is_event_time_then_rank_then_stream_then_sequence() -> None:
    frames = np.zeros((1, 1), np.float32)
    expected = [
        Segment("z", "text", 9, 1.0, frames),
        Segment("b", "audio", 0, 2.0, frames),
        Segment("a", "text", 0, 2.0, frames),
        Segment("a", "text", 1, 2.0, frames),
        Segment("b", "text", 0, 2.0, frames),
    ]
    assert in_fusion_order(expected[::-1], ["audio", "text"]) == expected


@pytest.mark.parametrize("arguments", [(0.0, 1.0), (2.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, -0.1)])
def test_a_cutting_that_cannot_be_is_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"cannot be cut|vary"):
        Cutting(*arguments)


@pytest.mark.parametrize(
    ("times_s", "values"), [([], ()), ([1.0], ("a", "b")), ([2.0, 1.0], ("a", "b")), ([np.nan], ("a",))]
)
def test_a_track_whose_times_do_not_fit_is_refused(times_s: list[float], values: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="times"):
        LabelTrack(np.array(times_s), values)
