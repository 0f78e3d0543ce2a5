from __future__ import annotations

import numpy as np
import pytest

from grf_core.metrics import accuracy, macro_f1, score


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.75


def test_macro_f1_weighs_classes_alike() -> None:
    predicted, true = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1])
    assert macro_f1(predicted, true) == pytest.approx((6 / 7 + 2 / 3) / 2)


def test_a_class_that_is_only_predicted_counts_as_a_miss() -> None:
    assert macro_f1(np.array([0, 1]), np.array([0, 0])) == pytest.approx((2 / 3 + 0) / 2)


def test_scores_take_the_answers_of_a_head_as_they_come() -> None:
    answers = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    assert score("classification", answers, np.array([0, 0], np.float32))["accuracy"] == 0.5
    assert score("regression", np.array([[1.0], [4.0]], np.float32), np.array([2.0, 2.0], np.float32)) == {"mae": 1.5}
