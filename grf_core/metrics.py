"""How good answers are: a metric takes what was predicted and what is true, and gives one number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from grf_core.step import Float32Array, HeadKind

Classes = npt.NDArray[np.int64]
Metric = Callable[[Float32Array, Float32Array], float]
"""(predicted [n, O] as a head answers, true [n] class numbers or values) -> score"""


def accuracy(predicted: Classes, true: Classes) -> float:
    """Share of the predictions that are right."""
    return float(np.mean(predicted == true))


def macro_f1(predicted: Classes, true: Classes) -> float:
    """Mean over the classes that occur, predicted or true, of F1 = 2 TP / (2 TP + FP + FN)."""
    scores = []
    for label in np.union1d(predicted, true):
        hit = np.sum((predicted == label) & (true == label))
        scores.append(2 * hit / (np.sum(predicted == label) + np.sum(true == label)))
    return float(np.mean(scores))


METRICS: dict[HeadKind, dict[str, Metric]] = {
    "classification": {
        "accuracy": lambda answers, true: accuracy(answers.argmax(axis=1), true.astype(np.int64)),
        "macro_f1": lambda answers, true: macro_f1(answers.argmax(axis=1), true.astype(np.int64)),
    },
    "regression": {
        "mae": lambda answers, true: float(np.mean(np.abs(answers[:, 0] - true))),
    },
}


def score(kind: HeadKind, answers: Float32Array, true: Float32Array) -> dict[str, float]:
    """Every metric of a kind of head."""
    return {name: metric(answers, true) for name, metric in METRICS[kind].items()}
