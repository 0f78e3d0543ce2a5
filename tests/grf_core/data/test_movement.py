from __future__ import annotations

import numpy as np

from grf_core.data.movement import MOVEMENT_S, with_movement


def test_a_steady_change_is_told_in_its_unit_at_any_rate() -> None:
    for rate_hz in (10.0, 50.0):
        ramp = (np.arange(20)[:, None] / rate_hz * [2.0, -3.0]).astype(np.float32)
        moved = with_movement(ramp, rate_hz)
        np.testing.assert_array_equal(moved[:, :2], ramp)
        np.testing.assert_allclose(moved[1:, 2:], [[0.6, -0.9, 0.6, 0.9]] * 19, rtol=1e-4)
        assert moved[0, 2:].tolist() == [0, 0, 0, 0]
        assert MOVEMENT_S == 0.3


def test_segments_one_after_the_other_give_what_the_whole_gives() -> None:
    frames = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    parts = [with_movement(frames[:4], 30.0), with_movement(frames[4:], 30.0, frames[3])]
    np.testing.assert_array_equal(np.concatenate(parts), with_movement(frames, 30.0))
