"""What the trainer asks of a way of training: the loss of some sessions.

`StreamingRegime` and `WholeSampleRegime` are the two there are. The trainer owns the epochs, the weights, the
optimizer and the random state; a regime owns how sessions become batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from grf_core.data.sessions import LabelledSession
from grf_core.normalisation import Normalisation
from grf_core.step import Float32Array
from grf_core.training.playback import normalised, spoiled
from grf_core.training.recipe import Spoil


@dataclass(frozen=True, slots=True)
class TrainingData:
    training: Sequence[LabelledSession]
    """Frames normalised, as in `validation`; raw where `vary` changes them before."""
    validation: Sequence[LabelledSession]
    normalisation: Normalisation
    class_weights: Mapping[str, Float32Array]
    vary: Spoil | None = None

    def drawn(self, position: int, rng: np.random.Generator) -> LabelledSession:
        """A training session as this epoch sees it, normalised."""
        session = self.training[position]
        return session if self.vary is None else normalised(spoiled(session, self.vary, rng), self.normalisation)


@dataclass(frozen=True, slots=True)
class Validation:
    loss: float
    scores: Mapping[str, float]
    """As `score_heads` names them."""


class Regime(Protocol):
    def backward(self, model: nn.Module, positions: Sequence[int], rng: np.random.Generator) -> float:
        """Add the gradient of the mean loss over these training sessions, augmented; returns that loss."""

    def validate(self, model: nn.Module) -> Validation:
        """Of the whole validation part, without gradients; the same for the same weights."""


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where a GPU multiplies; nothing changes on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
