from __future__ import annotations

import numpy as np
import pytest

from grf_core.normalisation import Statistics


def test_statistics_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(3.0, 2.0, size=(100, 4))
    statistics = Statistics.of([rows[:30], rows[30:]])
    np.testing.assert_allclose(statistics.mean, rows.mean(axis=0))
    np.testing.assert_allclose(statistics.std, rows.std(axis=0))


def test_a_feature_that_never_changes_is_divided_by_one() -> None:
    assert Statistics.of([np.array([[2.0, 7.0], [4.0, 7.0]])]).std == (1.0, 1.0)


def test_rounding_noise_is_no_change() -> None:
    rows = np.random.default_rng(0).normal(size=(100, 3)) * [1.0, 1e-7, 1e-2] + [0.0, 0.0, 1e6]
    assert Statistics.of([rows]).std[1:] == (1.0, 1.0)


@pytest.mark.parametrize("unit", [1e-6, 1e-9, 1e-15])
def test_a_small_unit_changes_nothing_but_the_unit(unit: float) -> None:
    rows = np.random.default_rng(0).normal(3.0, [2.0, 0.1], size=(100, 2))
    of_ones, of_small = Statistics.of([rows]), Statistics.of([rows * unit])
    np.testing.assert_allclose(of_small.std, np.multiply(of_ones.std, unit))


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.0,), (0.0,)),
        ((0.0,), (-1.0,)),
        ((0.0,), (1e-40,)),
        ((float("nan"),), (1.0,)),
        ((0.0,), (float("inf"),)),
        ((1e300,), (1.0,)),
        ((0.0, 0.0), (1.0,)),
    ],
)
def test_statistics_that_would_spoil_a_frame_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"finite|below|means for"):
        Statistics(mean, std)
