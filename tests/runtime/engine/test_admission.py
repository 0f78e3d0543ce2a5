from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from grf_core.step import ModalitySignature
from runtime.engine.admission import frames_fault, time_fault
from runtime.engine.order import Timeline
from runtime.engine.policies import OrderPolicy

AUDIO = ModalitySignature("audio", 3, 8)
LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ((8, 3), ""),
        ((1, 3), ""),
        ((9, 3), "segment has 9 frames, audio takes 1 to 8"),
        ((0, 3), "segment has 0 frames, audio takes 1 to 8"),
        ((2, 4), "frames have width 4, audio has 3"),
        ((2, 1), "frames have width 1, audio has 3"),
    ],
)
def test_a_segment_has_the_width_and_the_length_of_its_modality(shape: tuple[int, ...], fault: str) -> None:
    assert frames_fault(np.zeros(shape, np.float32), AUDIO) == fault


@pytest.mark.parametrize("values", [[nan], [inf], [-inf], [inf, -inf], [inf, nan], [LARGEST, inf], [-LARGEST, -inf]])
def test_values_that_are_not_finite_are_found_though_they_cancel(values: list[float]) -> None:
    frames = np.zeros((8, 3), np.float32)
    frames.flat[: len(values)] = values
    assert frames_fault(frames, AUDIO) == "frames have NaN or infinite values"


def test_the_largest_finite_values_are_finite_though_their_sum_is_not() -> None:
    assert frames_fault(np.full((8, 3), LARGEST, np.float32), AUDIO) == ""
    assert frames_fault(np.full((8, 3), -LARGEST, np.float32), AUDIO) == ""


@settings(max_examples=200)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=10), elements=st.floats(width=32)))
def test_frames_are_admitted_if_and_only_if_they_fit_and_are_finite(frames: np.ndarray) -> None:
    fits = frames.shape[1] == AUDIO.width and len(frames) <= AUDIO.max_frames
    frames.setflags(write=False)
    assert (frames_fault(frames, AUDIO) == "") == (fits and bool(np.isfinite(frames).all()))


def timeline(newest_s: float = -inf) -> Timeline:
    return Timeline(OrderPolicy(), newest_s=newest_s)


def test_an_event_may_be_ahead_of_the_wall_clock_by_what_the_policy_allows() -> None:
    policy = OrderPolicy(max_future_s=60.0)
    assert time_fault(1060.0, timeline(), policy, inf, wall_s=1000.0) == ""
    assert "60.500 s ahead of this worker's clock, more than order.max_future_s, 60" in time_fault(
        1060.5, timeline(), policy, inf, 1000.0
    )


def test_any_epoch_in_the_past_is_as_good_as_another() -> None:
    assert time_fault(0.0, timeline(), OrderPolicy(), inf, wall_s=1.7e9) == ""
    assert time_fault(-1e12, timeline(), OrderPolicy(), inf, wall_s=1.7e9) == ""


def test_a_stamp_far_ahead_of_its_session_is_not_believed_while_the_session_flows() -> None:
    policy = OrderPolicy(max_jump_s=3600.0, idle_timeout_s=2.0)
    fault = time_fault(10_000.0, timeline(100.0), policy, 1.0, wall_s=1.7e9)
    assert fault == "event time is 9900.000 s ahead of its session's newest, more than order.max_jump_s, 3600"
    assert time_fault(10_000.0, timeline(100.0), policy, 2.0, wall_s=1.7e9) == ""
