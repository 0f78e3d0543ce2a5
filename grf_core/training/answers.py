"""From what the heads give to what people read, and how good it is.

Shapes: n answers, O outputs of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from grf_core.config import GRFConfig
from grf_core.metrics import score
from grf_core.normalisation import Normalisation
from grf_core.step import Float32Array


def readable_answers(
    config: GRFConfig, normalisation: Normalisation, outputs: Mapping[str, Tensor]
) -> dict[str, Float32Array]:
    """[n, O] by head: class probabilities, or values in the label's own unit."""
    answers: dict[str, Float32Array] = {}
    for head in config.heads:
        output_nO = outputs[head.name].detach().float().cpu()
        if head.kind == "classification":
            answers[head.name] = output_nO.softmax(dim=-1).numpy()
        else:
            statistics = normalisation.heads[head.name]
            answers[head.name] = (output_nO * torch.tensor(statistics.std) + torch.tensor(statistics.mean)).numpy()
    return answers


def score_heads(
    config: GRFConfig, answers: Mapping[str, Float32Array], true: Mapping[str, Float32Array]
) -> dict[str, float]:
    """The first head's metrics by name and, where there are several heads, those of each by `head/name`.

    An answer without a known truth (NaN) is left out, and so is a metric that these answers do not define, as the area
    under a curve is not where all are of one class.
    """
    result: dict[str, float] = {}
    for head in config.heads:
        known = ~np.isnan(true[head.name])
        if not known.any():
            continue
        scores = score(head.kind, answers[head.name][known], true[head.name][known])
        scores = {name: value for name, value in scores.items() if math.isfinite(value)}
        if head is config.heads[0]:
            result |= scores
        if len(config.heads) > 1:
            result |= {f"{head.name}/{name}": value for name, value in scores.items()}
    return result
