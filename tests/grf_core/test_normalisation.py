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
