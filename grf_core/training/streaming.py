"""Truncated back-propagation through sessions of segments, many sessions abreast.

Shapes: B sessions in the batch, R of them that still have a segment at step k, K context slots, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grf_core.data.sessions import Segment
from grf_core.model import GRF
from grf_core.packing import pack_segments
from grf_core.training.objective import late_weights, session_losses
from grf_core.training.playback import elapsed_s


@dataclass(frozen=True, slots=True)
class SessionBatch:
    sequences: Sequence[list[Segment]]
    """B sequences of normalised segments, each in the order in which they are fused."""
    targets: Mapping[str, Tensor]
    """[B] by head, as `encode_labels` gives them."""

    @property
    def longest(self) -> int:
        return max(len(sequence) for sequence in self.sequences)


class BatchRun:
    """One pass of a model over a batch; `run` may be called for one span of steps after the other."""

    def __init__(self, model: GRF, batch: SessionBatch, late_weight: float) -> None:
        self._model = model
        self._batch = batch
        self._rank = {modality.name: rank for rank, modality in enumerate(model.config.modalities)}
        self._elapsed = [elapsed_s(sequence) for sequence in batch.sequences]
        self._weights = [late_weights(len(sequence), late_weight) for sequence in batch.sequences]
        shape = (len(batch.sequences), model.config.context_slots, model.config.d_model)
        self._device = model.positions_TD.device
        self._contexts_BKD = torch.zeros(shape, device=self._device)

    def run(self, first: int, stop: int) -> Tensor:
        """The weighted loss of steps [first, stop), mean over the sessions; earlier steps get no gradient of it."""
        self._contexts_BKD = self._contexts_BKD.detach()
        losses = [self._step(step) for step in range(first, min(stop, self._batch.longest))]
        return torch.stack(losses).sum() / len(self._batch.sequences)

    def _step(self, step: int) -> Tensor:
        active = [row for row, sequence in enumerate(self._batch.sequences) if step < len(sequence)]
        segments = [self._batch.sequences[row][step] for row in active]
        ranks = np.array([self._rank[segment.modality] for segment in segments], np.int64)
        packed = pack_segments([segment.frames for segment in segments], ranks, self._device)
        elapsed_R = torch.tensor([self._elapsed[row][step] for row in active], device=self._device)
        weight_R = torch.tensor([self._weights[row][step] for row in active], device=self._device)
        fresh_R = torch.full((len(active),), step == 0, device=self._device)
        rows_R = torch.tensor(active, device=self._device)

        stepped = self._model.step(self._contexts_BKD[rows_R], fresh_R, packed, elapsed_R)
        self._contexts_BKD = self._contexts_BKD.index_copy(0, rows_R, stepped.contexts)
        targets = {head: target_B[rows_R] for head, target_B in self._batch.targets.items()}
        losses_R = session_losses(self._model.config, self._model.read_heads(stepped.contexts), targets)
        return (losses_R * weight_R).sum()


def backward(model: GRF, batch: SessionBatch, late_weight: float, truncate_steps: int) -> float:
    """Add the batch's gradient, truncated to spans of `truncate_steps`, and return its loss."""
    run, total = BatchRun(model, batch, late_weight), 0.0
    for first in range(0, batch.longest, truncate_steps):
        loss = run.run(first, first + truncate_steps)
        loss.backward()
        total += loss.item()
    return total


@torch.no_grad()
def loss_of(model: GRF, batch: SessionBatch, late_weight: float) -> float:
    return BatchRun(model, batch, late_weight).run(0, batch.longest).item()
