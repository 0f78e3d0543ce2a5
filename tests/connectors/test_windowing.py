from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.cutting import Windowed
from connectors.resampling import MAX_BETWEEN
from connectors.windowing import Window, WindowOptions

STEPS = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.4, 3.0]), max_size=40)


def window(**options: Any) -> Window:
    return Window(WindowOptions.model_validate(options))


def frames(times_s: Sequence[float], first: int = 0) -> tuple[Any, Any]:
    """Frame number n is [n, -n]."""
    numbers = np.arange(first, first + len(times_s), dtype=np.float32)
    return np.stack([numbers, -numbers], axis=1), np.array(times_s, dtype=np.float64)


def told(windowed: Sequence[Windowed]) -> list[tuple[list[int], float]]:
    return [(values[:, 0].astype(int).tolist(), event_s) for values, event_s in windowed]


def test_without_options_every_frame_is_a_segment() -> None:
    assert told(window().add(*frames([1.0, 2.0]))) == [([0], 1.0), ([1], 2.0)]


def test_windows_by_count_overlap_by_the_hop_and_are_timed_by_their_last_frame() -> None:
    one = window(frames=3, hop=2)
    assert told(one.add(*frames([0.0, 1.0]))) == []
    assert told(one.add(*frames([2.0, 3.0, 4.0, 5.0], 2))) == [([0, 1, 2], 2.0), ([2, 3, 4], 4.0)]
    assert told(one.end()) == [([4, 5], 5.0)]
    assert told(one.end()) == []


def test_a_hop_longer_than_the_window_leaves_frames_out_and_counts_them() -> None:
    one = window(frames=2, hop=5)
    assert told(one.add(*frames(range(11)))) == [([0, 1], 1.0), ([5, 6], 6.0)]
    assert one.left_out == 6
    assert told(one.end()) == [([10], 10.0)]


def test_what_overlaps_but_was_told_already_is_not_told_again_at_the_end() -> None:
    one = window(frames=4, hop=1)
    assert len(one.add(*frames(range(4)))) == 1
    assert told(one.end()) == []


def test_no_segment_reaches_over_a_gap_and_short_ends_are_counted() -> None:
    one = window(frames=4, gap_s=1.0, min_frames=2)
    assert told(one.add(*frames([0.0, 0.5, 0.9, 5.0, 9.0, 9.5]))) == [([0, 1, 2], 0.9)]
    assert one.left_out == 1
    assert told(one.end()) == [([4, 5], 9.5)]


def test_windows_by_time_lie_on_the_grid_and_close_with_the_next_frame() -> None:
    one = window(seconds=1.0)
    assert told(one.add(*frames([10.2, 10.9, 11.0]))) == [([0, 1], 10.9)]
    assert told(one.add(*frames([14.5], 3))) == [([2], 11.0)]
    assert told(one.end()) == [([3], 14.5)]


def test_a_window_closes_once_no_frame_of_its_time_will_come() -> None:
    one = window(seconds=1.0)
    assert one.pass_by(9.0) == []
    assert told(one.add(*frames([10.2, 10.9]))) == []
    assert one.pass_by(10.95) == []
    assert told(one.pass_by(11.0)) == [([0, 1], 10.9)]
    assert one.pass_by(20.0) == []
    assert told(one.add(*frames([20.5], 2))) == []
    assert told(one.end()) == [([2], 20.5)]


def test_a_gap_ends_a_window_as_soon_as_it_is_known() -> None:
    one = window(frames=3, gap_s=0.5)
    assert told(one.add(*frames([1.0, 1.2]))) == []
    assert one.pass_by(1.7) == []
    assert told(one.pass_by(1.8)) == [([0, 1], 1.2)]
    assert told(one.add(*frames([1.9, 2.0, 2.1], 2))) == [([2, 3, 4], 2.1)]


@pytest.mark.parametrize("sizes", [[5], [1, 1, 1, 1, 1], [3, 2]])
def test_a_late_frame_is_no_gap(sizes: list[int]) -> None:
    """What comes after it is no further from the newest frame than before."""
    one = window(seconds=4.0, gap_s=1.0)
    times_s, first = [9.3, 10.0, 8.5, 10.1, 10.5], 0
    for size in sizes:
        assert one.add(*frames(times_s[first : first + size], first)) == []
        first += size
    (whole,) = told(one.end())
    assert sorted(whole[0]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sizes", [[8], [1] * 8, [3, 5]])
@pytest.mark.parametrize("options", [{"frames": 4}, {"seconds": 100.0}])
def test_a_pause_is_a_gap_after_a_clock_was_set_back_too(options: dict[str, Any], sizes: list[int]) -> None:
    """It is told from the frames since then: those before had other times."""
    one = Window(WindowOptions(**options, gap_s=2.0), set_back_s=5.0)
    times_s, first = [1000.0, 1001.0, 900.0, 901.0, 930.0, 931.0, 932.0, 933.0], 0
    segments: list[Windowed] = []
    for size in sizes:
        segments += one.add(*frames(times_s[first : first + size], first))
        first += size
    assert told(segments + one.end())[-1] == ([4, 5, 6, 7], 933.0)


def test_windows_by_time_overlap() -> None:
    one = window(seconds=1.0, hop_s=0.5)
    segments = told(one.add(*frames([0.0, 0.3, 0.6, 1.1, 1.7])))
    assert segments == [([0, 1], 0.3), ([0, 1, 2], 0.6), ([2, 3], 1.1)]


def test_a_window_by_time_with_too_many_frames_becomes_several_segments() -> None:
    one = window(seconds=1.0, max_frames=4)
    segments = told(one.add(*frames([*np.linspace(0.0, 0.9, 10), 1.0])))
    assert [numbers for numbers, _ in segments] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_frame_behind_a_closed_window_is_left_out_and_counted() -> None:
    one = window(seconds=1.0)
    one.add(*frames([0.5, 1.5]))
    assert told(one.add(*frames([0.7, 1.2], 2))) == []
    assert told(one.end()) == [([3, 1], 1.5)]
    assert one.left_out == 1


def test_resampling_interpolates_onto_the_grid_and_not_across_gaps() -> None:
    one = window(frames=1, resample_hz=10.0, gap_s=1.0)
    segments = one.add(*frames([0.05, 0.25, 0.31, 5.0, 5.1]))
    assert [round(event_s, 6) for _, event_s in segments] == [0.1, 0.2, 0.3, 5.0, 5.1]
    assert [round(float(values[0, 0]), 3) for values, _ in segments] == [0.25, 0.75, 1.833, 3.0, 4.0]


def test_resampling_makes_nothing_up_across_a_long_pause_or_the_leap_of_a_clock() -> None:
    one = window(frames=2, resample_hz=10.0)
    segments = one.add(*frames([0.0, 0.1, 1e9, 1e9 + 0.1]))
    assert told(segments) == [([0, 1], 0.1), ([2, 3], 1e9 + 0.1)]
    assert told(one.add(*frames([1e9 + MAX_BETWEEN / 10], 4)))[-1][1] == pytest.approx(1e9 + MAX_BETWEEN / 10)


def test_resampling_does_not_depend_on_how_frames_were_batched() -> None:
    times_s = np.cumsum([0.03, 0.07, 0.1, 0.013, 0.2, 0.05, 0.05, 0.1]).tolist()
    at_once, one_by_one = window(resample_hz=20.0), window(resample_hz=20.0)
    whole = at_once.add(*frames(times_s))
    parts = [segment for n, time_s in enumerate(times_s) for segment in one_by_one.add(*frames([time_s], n))]
    assert [event_s for _, event_s in whole] == [event_s for _, event_s in parts]
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(whole, parts, strict=True))


def test_frames_of_another_width_are_refused() -> None:
    one = window(frames=4)
    one.add(np.zeros((1, 3), np.float32), np.zeros(1))
    with pytest.raises(ValueError, match="width 2 after frames of width 3"):
        one.add(np.zeros((1, 2), np.float32), np.ones(1))


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"frames": 2, "seconds": 1.0}, "not both"),
        ({"frames": 2, "hop_s": 1.0}, "hop_s belongs"),
        ({"seconds": 2.0, "hop": 1}, "hop belongs"),
        ({"frames": 0}, "greater than or equal to 1"),
    ],
)
def test_windows_that_cannot_be_are_refused(options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        WindowOptions.model_validate(options)


OPTIONS = st.sampled_from(
    [
        {"frames": 1},
        {"frames": 3},
        {"frames": 3, "hop": 1},
        {"frames": 2, "hop": 3},
        {"frames": 4, "gap_s": 0.3},
        {"frames": 3, "hop": 2, "gap_s": 1.0, "min_frames": 2},
        {"seconds": 0.5},
        {"seconds": 0.5, "hop_s": 0.2},
        {"seconds": 0.3, "hop_s": 0.7},
        {"seconds": 1.0, "max_frames": 2},
        {"frames": 2, "resample_hz": 7.0},
        {"seconds": 0.5, "gap_s": 1.0, "min_frames": 2},
    ]
)


@given(OPTIONS, STEPS, st.lists(st.integers(min_value=1, max_value=7), max_size=40))
def test_segments_depend_on_the_frames_only_and_every_frame_is_told_or_counted(
    options: dict[str, Any], steps: list[float], batches: list[int]
) -> None:
    """However frames are batched, and whenever the window is restored from a snapshot that went through msgpack."""
    times_s = (100.0 + np.cumsum(steps)).tolist()
    whole, parts = window(**options), window(**options)
    expected = whole.add(*frames(times_s)) + whole.end()
    segments: list[Windowed] = []
    start = 0
    for size in [*batches, len(times_s)]:
        segments += parts.add(*frames(times_s[start : start + size], start))
        start = min(start + size, len(times_s))
        restored = window(**options)
        restored.restore(msgpack.unpackb(msgpack.packb(parts.snapshot())))
        parts = restored
    segments += parts.end()
    assert [event_s for _, event_s in segments] == [event_s for _, event_s in expected]
    assert all(np.array_equal(one.values, other.values) for one, other in zip(segments, expected, strict=True))
    assert parts.left_out == whole.left_out
    if "resample_hz" not in options:
        in_segments = {number for numbers, _ in told(expected) for number in numbers}
        assert len(in_segments) + whole.left_out == len(times_s)


@given(OPTIONS, STEPS, st.lists(st.integers(min_value=1, max_value=7), max_size=40), st.sampled_from([0.0, 0.3, 5.0]))
def test_when_a_window_is_passed_by_changes_no_segment(
    options: dict[str, Any], steps: list[float], batches: list[int], silent_s: float
) -> None:
    """An encoder passes by at the end of each of its batches, and how samples are batched must change nothing."""
    times_s = (100.0 + np.cumsum(steps)).tolist()
    end_s = (times_s[-1] if times_s else 100.0) + silent_s
    whole, parts = window(**options), window(**options)
    expected = whole.add(*frames(times_s)) + whole.pass_by(end_s) + whole.end()
    segments: list[Windowed] = []
    start = 0
    for size in [*batches, len(times_s)]:
        segments += parts.add(*frames(times_s[start : start + size], start))
        start = min(start + size, len(times_s))
        next_s = times_s[start] if start < len(times_s) else end_s
        for until_s in (parts_s for parts_s in (next_s - 0.2, next_s) if not start or parts_s >= times_s[start - 1]):
            segments += parts.pass_by(until_s)
    segments += parts.pass_by(end_s) + parts.end()
    assert [event_s for _, event_s in segments] == [event_s for _, event_s in expected]
    assert all(np.array_equal(one.values, other.values) for one, other in zip(segments, expected, strict=True))
    assert parts.left_out == whole.left_out
