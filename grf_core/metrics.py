"""How good answers are: a metric takes what was predicted and what is true, and gives one number.

A metric that the true labels leave undefined (one class only, one value only) is None, and left out of the scores: they
are written as JSON, which knows no NaN. That depends on the sessions alone, so two models on the same sessions have the
same scores. A model that always answers the same has scores all the same: correlation 0, area under the ROC curve 0.5.

Shapes: n answers, O outputs of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from grf_core.step import Float32Array, HeadKind

Values = npt.NDArray[np.floating]
Classes = npt.NDArray[np.integer] | npt.NDArray[np.bool_]
Metric = Callable[[Float32Array, Float32Array], float | None]
"""(predicted [n, O] as a head answers, true [n] class numbers or values) -> score"""
CALIBRATION_BINS = 15


def accuracy(predicted: Classes, true: Classes) -> float:
    """Share of the predictions that are right."""
    return float(np.mean(predicted == true))


def macro_f1(predicted: Classes, true: Classes) -> float:
    """Mean over the classes that occur, predicted or true, of F1 = 2 TP / (2 TP + FP + FN)."""
    return float(np.mean([_f1(predicted, true, label) for label in np.union1d(predicted, true)]))


def weighted_f1(predicted: Classes, true: Classes) -> float:
    """Mean of F1 over the true classes, each weighing as often as it occurs."""
    labels, counts = np.unique(true, return_counts=True)
    return float(np.average([_f1(predicted, true, label) for label in labels], weights=counts))


def auroc(scores: Values, positive: npt.NDArray[np.bool_]) -> float | None:
    """The share of pairs of a positive and a negative case that the scores put in order; a tie counts half."""
    positives, negatives = np.sum(positive), np.sum(~positive)
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mid_ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((mid_ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auprc(scores: Values, positive: npt.NDArray[np.bool_]) -> float | None:
    """Average precision: the precision at each threshold, weighted by the recall gained there; no interpolation."""
    if positive.all() or not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(positive[order])[last_of_tie]
    gained = np.diff(hits, prepend=0) / hits[-1]
    return float(np.sum(gained * hits / (last_of_tie + 1)))


def mae(predicted: Values, true: Values) -> float:
    return float(np.mean(np.abs(predicted.astype(np.float64) - true)))


def corr(predicted: Values, true: Values) -> float | None:
    """Pearson's. 0 for predictions that never vary, None for a truth that does not."""
    if true.min() == true.max():
        return None
    if predicted.min() == predicted.max():
        return 0.0
    return float(np.clip(_direction(predicted) @ _direction(true), -1, 1))


def calibration_error(probabilities_nO: Float32Array, true: Classes, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: how far confidence is from accuracy, over equally wide bins of confidence."""
    confidence = probabilities_nO.max(axis=1).astype(np.float64)
    surplus = confidence - (probabilities_nO.argmax(axis=1) == true)
    of_bin = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(of_bin, weights=surplus)).sum() / len(surplus))


METRICS: dict[HeadKind, dict[str, Metric]] = {
    "classification": {
        "accuracy": lambda answers, true: accuracy(answers.argmax(axis=1), true.astype(np.int64)),
        "macro_f1": lambda answers, true: macro_f1(answers.argmax(axis=1), true.astype(np.int64)),
        "auroc": lambda answers, true: auroc(answers[:, 1], true == 1) if answers.shape[1] == 2 else None,
        "auprc": lambda answers, true: auprc(answers[:, 1], true == 1) if answers.shape[1] == 2 else None,
    },
    "regression": {
        "mae": lambda answers, true: mae(answers[:, 0], true),
        "corr": lambda answers, true: corr(answers[:, 0], true),
    },
}
"""Of two classes, the last is the positive one."""


def score(kind: HeadKind, answers: Float32Array, true: Float32Array) -> dict[str, float]:
    """Every metric of a kind of head that the true labels define."""
    scores = {name: metric(answers, true) for name, metric in METRICS[kind].items()}
    return {name: value for name, value in scores.items() if value is not None}


def mosi_scores(predicted: Values, true: Values) -> dict[str, float]:
    """Sentiment in [-3, 3] as the field scores it on CMU-MOSI, [n] each.

    `acc7` and `acc5` round after clipping to [-3, 3] and [-2, 2]. Two classes are made in two ways, which differ by a
    point or two: `*_nonneg` is negative against not negative; `*_pos` is negative against positive, with what is truly
    0 left out (a prediction of 0 then counts as negative); their F1 is weighted. This is how MulT and MMSA do it.
    `macro_f1_*` is how the author of GRF does it, of the rounded value (clipped to the range of the truth) and of
    negative against not negative.
    """
    pearson = corr(predicted, true)
    scores = {"mae": mae(predicted, true)} | ({} if pearson is None else {"corr": pearson})
    scores |= {"acc7": _rounded_accuracy(predicted, true, 3), "acc5": _rounded_accuracy(predicted, true, 2)}
    scores |= _of_two("nonneg", predicted >= 0, true >= 0)
    polar = true != 0
    if polar.any():
        scores |= _of_two("pos", predicted[polar] > 0, true[polar] > 0)
    rounded_true = np.round(true).astype(np.int64)
    rounded = np.clip(np.round(predicted), rounded_true.min(), rounded_true.max()).astype(np.int64)
    return scores | {
        "macro_f1_round": macro_f1(rounded, rounded_true),
        "macro_f1_sign": macro_f1(predicted >= 0, true >= 0),
    }


def _f1(predicted: Classes, true: Classes, label: object) -> float:
    hits = np.sum((predicted == label) & (true == label))
    return float(2 * hits / (np.sum(predicted == label) + np.sum(true == label)))


def _direction(values: Values) -> npt.NDArray[np.float64]:
    """From their mean, of length 1. Scaled first, so that no square vanishes or overflows."""
    from_mean = values.astype(np.float64) - values.mean(dtype=np.float64)
    from_mean /= np.abs(from_mean).max()
    direction: npt.NDArray[np.float64] = from_mean / np.linalg.norm(from_mean)
    return direction


def _rounded_accuracy(predicted: Values, true: Values, limit: float) -> float:
    return float(np.mean(np.round(np.clip(predicted, -limit, limit)) == np.round(np.clip(true, -limit, limit))))


def _of_two(name: str, predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> dict[str, float]:
    return {f"acc2_{name}": accuracy(predicted, true), f"f1_{name}": weighted_f1(predicted, true)}
