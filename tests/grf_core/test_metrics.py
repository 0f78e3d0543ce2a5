"""Ours against scikit-learn's and SciPy's, and against the definitions where those have none."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as theirs

from grf_core.metrics import (
    accuracy,
    auprc,
    auroc,
    calibration_error,
    corr,
    macro_f1,
    mae,
    mosi_scores,
    score,
    weighted_f1,
)

SCORES = st.sampled_from([0.0, 0.25, 0.5, 0.5000001, 1.0]) | st.floats(0, 1, width=32)
"""Ties are common, and so are near ties."""
SENTIMENT = st.sampled_from([-3.0, -0.5, 0.0, 0.5, 1.5, 3.0]) | st.floats(-4, 4, width=32)
CLASSES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def columns(rows: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    first, second = zip(*rows, strict=True)
    return np.array(first, np.float32), np.array(second, np.float32)


def pairs(
    first: st.SearchStrategy[float], second: st.SearchStrategy[float], at_least: int = 1
) -> st.SearchStrategy[list[tuple[float, float]]]:
    return st.lists(st.tuples(first, second), min_size=at_least, max_size=60)


def as_mult_and_mmsa(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The steps of MulT's eval_mosi and MMSA's regression metrics, with the library they use."""
    scores = {
        "mae": np.mean(np.abs(predicted - true)),
        "acc7": np.mean(np.round(np.clip(predicted, -3, 3)) == np.round(np.clip(true, -3, 3))),
        "acc5": np.mean(np.round(np.clip(predicted, -2, 2)) == np.round(np.clip(true, -2, 2))),
        "acc2_nonneg": theirs.accuracy_score(true >= 0, predicted >= 0),
        "f1_nonneg": theirs.f1_score(true >= 0, predicted >= 0, average="weighted"),
    }
    kept = np.array([row for row, value in enumerate(true) if value != 0], np.int64)
    if len(kept):
        scores["acc2_pos"] = theirs.accuracy_score(true[kept] > 0, predicted[kept] > 0)
        scores["f1_pos"] = theirs.f1_score(true[kept] > 0, predicted[kept] > 0, average="weighted")
    return scores


def as_the_author_of_grf(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    sign_true, sign = (true >= 0).astype(int), (predicted >= 0).astype(int)
    round_true, rounded = np.round(true).astype(int), np.round(predicted).astype(int)
    rounded = np.clip(rounded, np.min(round_true), np.max(round_true))
    return {
        "macro_f1_round": theirs.f1_score(round_true, rounded, average="macro", zero_division=0),
        "macro_f1_sign": theirs.f1_score(sign_true, sign, average="macro", zero_division=0),
    }


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.75


def test_macro_f1_weighs_classes_alike() -> None:
    predicted, true = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1])
    assert macro_f1(predicted, true) == pytest.approx((6 / 7 + 2 / 3) / 2)


def test_a_class_that_is_only_predicted_counts_as_a_miss() -> None:
    assert macro_f1(np.array([0, 1]), np.array([0, 0])) == pytest.approx((2 / 3 + 0) / 2)


@given(CLASSES)
def test_f1_is_that_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    predicted, true = np.array(rows).T
    assert macro_f1(predicted, true) == pytest.approx(theirs.f1_score(true, predicted, average="macro"))
    assert weighted_f1(predicted, true) == pytest.approx(theirs.f1_score(true, predicted, average="weighted"))


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])) == (4 - 0.5) / 4


@given(pairs(SCORES, st.sampled_from([0.0, 1.0]), at_least=2))
def test_areas_under_curves_are_those_of_scikit_learn(rows: list[tuple[float, float]]) -> None:
    scores, true = columns(rows)
    positive = true == 1
    if positive.all() or not positive.any():
        assert auroc(scores, positive) is None
        assert auprc(scores, positive) is None
    else:
        assert auroc(scores, positive) == pytest.approx(theirs.roc_auc_score(positive, scores))
        assert auprc(scores, positive) == pytest.approx(theirs.average_precision_score(positive, scores))


@given(st.lists(st.booleans(), min_size=2, max_size=30).filter(lambda true: 0 < sum(true) < len(true)))
def test_scores_that_are_all_alike_say_nothing(true: list[bool]) -> None:
    alike, positive = np.full(len(true), 0.3, np.float32), np.array(true)
    assert auroc(alike, positive) == 0.5
    assert auprc(alike, positive) == pytest.approx(np.mean(positive))


@given(pairs(SENTIMENT, SENTIMENT, at_least=2))
def test_corr_is_that_of_scipy(rows: list[tuple[float, float]]) -> None:
    predicted, true = columns(rows)
    if np.ptp(true) == 0:
        assert corr(predicted, true) is None
    elif np.ptp(predicted) == 0:
        assert corr(predicted, true) == 0
    elif min(np.ptp(predicted), np.ptp(true)) > 1e-3:  # SciPy warns of, and loses, what hardly varies
        expected = stats.pearsonr(predicted.astype(np.float64), true.astype(np.float64)).statistic
        assert corr(predicted, true) == pytest.approx(expected, abs=1e-9)


def test_corr_survives_the_smallest_and_the_largest_numbers() -> None:
    true = np.array([1.0, 2.0, 4.0])
    for scale in (2.0**-600, 2.0**-149, 2.0**600):
        predicted = true * scale
        assert corr(predicted, true) == pytest.approx(1)
        assert corr(true, -predicted) == pytest.approx(-1)


@given(pairs(SENTIMENT, SENTIMENT))
def test_mosi_scores_are_those_of_the_field(rows: list[tuple[float, float]]) -> None:
    predicted, true = columns(rows)
    scores = mosi_scores(predicted, true)
    pearson = {"corr": corr(predicted, true)} if np.ptp(true) else {}
    expected = as_mult_and_mmsa(predicted, true) | as_the_author_of_grf(predicted, true) | pearson
    assert scores == pytest.approx(expected, abs=1e-6)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_a_prediction_of_zero_is_not_negative_but_not_positive_either() -> None:
    scores = mosi_scores(np.array([0.0, 0.0]), np.array([-1.0, 1.0]))
    assert (scores["acc2_nonneg"], scores["acc2_pos"]) == (0.5, 0.5)
    scores = mosi_scores(np.array([0.0]), np.array([1.0]))
    assert (scores["acc2_nonneg"], scores["acc2_pos"]) == (1.0, 0.0)


def test_polarity_leaves_out_what_is_truly_zero() -> None:
    scores = mosi_scores(np.array([-1.0, 1.0]), np.array([0.0, 1.0]))
    assert (scores["acc2_nonneg"], scores["acc2_pos"]) == (0.5, 1.0)
    assert "acc2_pos" not in mosi_scores(np.array([1.0]), np.array([0.0]))


def test_halves_round_to_even_and_what_is_beyond_the_scale_is_clipped() -> None:
    scores = mosi_scores(np.array([2.5, 9.0, 1.5]), np.array([2.0, 3.0, 1.0]))
    assert scores["acc7"] == pytest.approx(2 / 3)
    assert scores["acc5"] == pytest.approx(2 / 3)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]], np.float32)
    assert calibration_error(sure, np.array([0, 0, 0, 1])) == pytest.approx(0.15)
    split = np.array([[1.0, 0.0], [0.6, 0.4]], np.float32)
    assert calibration_error(split, np.array([0, 1])) == pytest.approx((0 + 0.6) / 2)
    assert calibration_error(split, np.array([0, 1]), bins=1) == pytest.approx(abs(0.8 - 0.5))


@given(pairs(st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0])))
def test_calibration_error_is_the_sum_over_its_bins(rows: list[tuple[float, float]]) -> None:
    first, true = columns(rows)
    probabilities = np.stack([first, 1 - first], axis=1)
    expected = 0.0
    for number in range(15):
        right = [
            (float(row.max()), float(row.argmax() == label))
            for row, label in zip(probabilities, true, strict=True)
            if max(math.ceil(float(row.max()) * 15), 1) - 1 == number
        ]
        if right:
            confidence, hit = np.mean(right, axis=0)
            expected += len(right) / len(true) * abs(hit - confidence)
    assert calibration_error(probabilities, true.astype(np.int64)) == pytest.approx(expected)


def test_scores_take_the_answers_of_a_head_as_they_come() -> None:
    answers = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    assert score("classification", answers, np.array([0, 0], np.float32))["accuracy"] == 0.5
    assert score("regression", np.array([[1.0], [4.0]], np.float32), np.array([2.0, 2.0], np.float32)) == {"mae": 1.5}
    assert mae(answers[:, 0], np.array([1, 1], np.float32)) == pytest.approx(0.45)


def test_the_last_of_two_classes_is_the_positive_one() -> None:
    answers = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], np.float32)
    scores = score("classification", answers, np.array([0, 1, 0], np.float32))
    assert (scores["auroc"], scores["auprc"]) == (1.0, 1.0)
    reverse = score("classification", answers, np.array([1, 0, 1], np.float32))
    assert reverse["auroc"] == 0.0


def test_areas_are_for_two_classes_of_which_both_occur() -> None:
    three = np.eye(3, dtype=np.float32)
    assert set(score("classification", three, np.array([0, 1, 1], np.float32))) == {"accuracy", "macro_f1"}
    two = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    assert set(score("classification", two, np.array([1, 1], np.float32))) == {"accuracy", "macro_f1"}


@given(pairs(SENTIMENT, SENTIMENT))
def test_no_score_is_nan(rows: list[tuple[float, float]]) -> None:
    predicted, true = columns(rows)
    assert all(math.isfinite(value) for value in score("regression", predicted[:, None], true).values())
