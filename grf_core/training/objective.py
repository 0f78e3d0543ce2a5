"""What is learned: each head's answer after every step, the later the more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from grf_core.config import GRFConfig, HeadConfig
from grf_core.data.sessions import Label
from grf_core.normalisation import Normalisation
from grf_core.step import Float32Array


class LabelError(ValueError):
    """A label that its head cannot have; the text names both."""


def label_values(head: HeadConfig, labels: Sequence[Mapping[str, Label]]) -> Float32Array:
    """[n]: class numbers, or values in their own unit; NaN where a session has no label for the head."""
    return np.array([_value(head, of_session.get(head.name)) for of_session in labels], np.float32)


def encode_labels(
    config: GRFConfig, normalisation: Normalisation, labels: Sequence[Mapping[str, Label]]
) -> dict[str, Tensor]:
    """[n] float32 by head: class numbers, or normalised values; NaN where there is no label."""
    encoded = {}
    for head in config.heads:
        values = label_values(head, labels)
        if head.kind == "regression":
            statistics = normalisation.heads[head.name]
            values = (values - np.float32(statistics.mean[0])) / np.float32(statistics.std[0])
        encoded[head.name] = torch.from_numpy(values)
    return encoded


def session_losses(config: GRFConfig, answers: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """[B]: cross-entropy or L1, summed over the heads; a head without a label adds nothing."""
    losses = [_head_losses(head, answers[head.name], targets[head.name]) for head in config.heads]
    return torch.stack(losses).sum(dim=0)


def late_weights(steps: int, power: float) -> list[float]:
    """((k + 1) / n) ** power for k = 0 .. n-1, scaled to sum to 1."""
    weights = [((step + 1) / steps) ** power for step in range(steps)]
    return [weight / sum(weights) for weight in weights]


def _head_losses(head: HeadConfig, answers_BO: Tensor, target_B: Tensor) -> Tensor:
    known_B = ~target_B.isnan()
    target_B = target_B.nan_to_num()
    if head.kind == "classification":
        loss_B = functional.cross_entropy(answers_BO, target_B.long(), reduction="none")
    else:
        loss_B = (answers_BO[:, 0] - target_B).abs()
    return torch.where(known_B, loss_B, 0.0)


def _value(head: HeadConfig, label: Label | None) -> float:
    if label is None:
        return float("nan")
    if head.kind == "regression":
        if isinstance(label, str) or head.outputs != 1:
            raise LabelError(f"head {head.name!r} has {head.outputs} values, which the label {label!r} is not")
        return label
    if label not in head.labels:
        raise LabelError(f"head {head.name!r}: {label!r} is not one of {', '.join(head.labels)}")
    return float(head.labels.index(str(label)))
