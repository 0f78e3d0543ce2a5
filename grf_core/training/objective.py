"""What is learned, and what a wrong answer costs.

Shapes: n answers, B sessions, S steps of one session, O outputs of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from grf_core.config import GRFConfig, HeadConfig
from grf_core.data.sessions import Label, LabelledSession, Labels, LabelTrack, Times
from grf_core.normalisation import Normalisation
from grf_core.step import Float32Array
from grf_core.training.recipe import Objective


class LabelError(ValueError):
    """A label that its head cannot have; the text names both."""


def class_name(label: Label) -> str:
    """Classes that a recording numbers are called by their number: 1.0 is "1"."""
    return label if isinstance(label, str) else f"{label:g}"


def label_values(head: HeadConfig, labels: Sequence[Labels]) -> Float32Array:
    """[B]: class numbers, or values in their own unit, as they are at the end; NaN where a session has none."""
    return np.array([_last_value(head, of_session.get(head.name)) for of_session in labels], np.float32)


def values_at(head: HeadConfig, label: Label | LabelTrack | None, times_s: Times) -> Float32Array:
    """[S]: the class number, or the value in its own unit, that holds at each time; NaN where none is known."""
    if not isinstance(label, LabelTrack):
        return np.full(len(times_s), _value(head, label), np.float32)
    values = np.array([*(_value(head, value) for value in label.values), np.nan], np.float32)
    at: Float32Array = values[label.positions(times_s)]
    return at


def encode_values(head: HeadConfig, normalisation: Normalisation, values: Float32Array) -> Float32Array:
    """Values as the head is trained to give them: normalised, where it gives values; NaN stays NaN."""
    if head.kind == "classification":
        return values
    statistics = normalisation.heads[head.name]
    encoded: Float32Array = (values - np.float32(statistics.mean[0])) / np.float32(statistics.std[0])
    return encoded


def class_weights(
    config: GRFConfig, objective: Objective, sessions: Sequence[LabelledSession]
) -> dict[str, Float32Array]:
    """[O] by head. Balanced: every class weighs the same in all, a label weighs 1 in the mean. A label that changes
    counts for the share of the session's frames at which it holds."""
    heads = {head.name: head for head in config.heads if head.kind == "classification"}
    for name in objective.class_weights:
        if name not in heads:
            raise LabelError(f"class weights for {name!r}, which is no classification head")
    return {
        name: _balanced(heads[name], sessions) if weights == "balanced" else _given(heads[name], weights)
        for name, weights in objective.class_weights.items()
    }


class Criterion:
    """The loss of answers, head by head."""

    def __init__(
        self,
        config: GRFConfig,
        objective: Objective,
        weights: Mapping[str, Float32Array] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        for name in objective.head_weights.keys() - {head.name for head in config.heads}:
            raise LabelError(f"a weight for {name!r}, which is no head")
        self._heads = config.heads
        self._objective = objective
        self._weights = {name: torch.tensor(of_head, device=device) for name, of_head in (weights or {}).items()}

    def losses(self, answers: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """[n] by head: weighted cross-entropy, or the regression loss; 0, and no gradient, where the target is NaN."""
        return {
            head.name: self._head_losses(head, answers[head.name].float(), targets[head.name]) for head in self._heads
        }

    def total(self, answers: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """[n]: summed over the heads."""
        return torch.stack(list(self.losses(answers, targets).values())).sum(dim=0)

    def _head_losses(self, head: HeadConfig, answers_nO: Tensor, target_n: Tensor) -> Tensor:
        known_n = ~target_n.isnan()
        target_n = target_n.nan_to_num()
        if head.kind == "classification":
            weights_O = self._weights.get(head.name)
            smoothing = self._objective.label_smoothing
            loss_n = functional.cross_entropy(
                answers_nO, target_n.long(), weights_O, reduction="none", label_smoothing=smoothing
            )
        else:
            loss_n = _regression_loss(self._objective.regression, answers_nO[:, 0], target_n)
        return torch.where(known_n, self._objective.head_weights.get(head.name, 1.0) * loss_n, 0.0)


def late_weights(steps: int, power: float) -> Float32Array:
    """((k + 1) / n) ** power for k = 0 .. n-1, scaled to sum to 1."""
    weights = ((np.arange(steps) + 1) / steps) ** power
    scaled: Float32Array = (weights / weights.sum()).astype(np.float32)
    return scaled


def _regression_loss(kind: str, answers_n: Tensor, target_n: Tensor) -> Tensor:
    if kind == "l1":
        return (answers_n - target_n).abs()
    if kind == "l2":
        return (answers_n - target_n).square()
    return functional.huber_loss(answers_n, target_n, reduction="none")


def _given(head: HeadConfig, weights: Sequence[float]) -> Float32Array:
    if len(weights) != head.outputs:
        raise LabelError(f"{len(weights)} class weights for the {head.outputs} classes of head {head.name!r}")
    return np.array(weights, np.float32)


def _balanced(head: HeadConfig, sessions: Sequence[LabelledSession]) -> Float32Array:
    shares_O = np.zeros(head.outputs)
    for session in sessions:
        values = values_at(head, session.labels.get(head.name), _frame_times(session))
        known = values[~np.isnan(values)].astype(np.int64)
        if len(known):
            shares_O += np.bincount(known, minlength=head.outputs) / len(known)
    weights_O = np.divide(
        shares_O.sum() / np.count_nonzero(shares_O), shares_O, out=np.zeros_like(shares_O), where=shares_O > 0
    )
    weights: Float32Array = weights_O.astype(np.float32)
    return weights


def _frame_times(session: LabelledSession) -> Times:
    return np.concatenate([stream.times_s for stream in session.streams])


def _last_value(head: HeadConfig, label: Label | LabelTrack | None) -> float:
    return _value(head, label.values[-1] if isinstance(label, LabelTrack) else label)


def _value(head: HeadConfig, label: Label | None) -> float:
    if label is None:
        return float("nan")
    if head.kind == "regression":
        if isinstance(label, str) or head.outputs != 1:
            raise LabelError(f"head {head.name!r} has {head.outputs} values, which the label {label!r} is not")
        return label
    if class_name(label) not in head.labels:
        raise LabelError(f"head {head.name!r}: {label!r} is not one of {', '.join(head.labels)}")
    return float(head.labels.index(class_name(label)))
