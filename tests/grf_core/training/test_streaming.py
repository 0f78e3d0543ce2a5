from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from grf_core.data.sessions import Segment
from grf_core.model import GRF
from grf_core.packing import pack_segments
from grf_core.training.objective import late_weights, session_losses
from grf_core.training.streaming import SessionBatch, backward, loss_of
from tests.grf_core.models import MODALITIES, random_segments, small_model

LENGTHS = (5, 1, 3)


def batch(seed: int = 0) -> SessionBatch:
    rng = np.random.default_rng(seed)
    sequences = [
        [Segment("s", MODALITIES[rank].name, k, 0.5 * k, x) for k, (rank, x) in enumerate(random_segments(n, rng))]
        for n in LENGTHS
    ]
    return SessionBatch(sequences, {"mood": torch.tensor([0.0, 1.0, 2.0]), "effort": torch.tensor([0.1, 0.2, 0.3])})


def obvious_loss(model: GRF, batch: SessionBatch, power: float) -> Tensor:
    """One session after the other, one segment after the other, nothing truncated."""
    total = torch.zeros(())
    for row, sequence in enumerate(batch.sequences):
        context_BKD = torch.zeros(1, model.config.context_slots, model.config.d_model)
        targets = {head: target[row : row + 1] for head, target in batch.targets.items()}
        for k, weight in enumerate(late_weights(len(sequence), power)):
            rank = [modality.name for modality in MODALITIES].index(sequence[k].modality)
            packed = pack_segments([sequence[k].frames], np.array([rank]))
            elapsed_s = torch.tensor([0.5 if k else 0.0])
            context_BKD = model.step(context_BKD, torch.tensor([k == 0]), packed, elapsed_s).contexts
            total = total + weight * session_losses(model.config, model.read_heads(context_BKD), targets).sum()
    return total / len(batch.sequences)


def gradients(model: GRF) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("ageing", [False, True])
def test_sessions_abreast_have_the_loss_and_gradient_of_sessions_apart(ageing: bool) -> None:
    model = small_model(ageing=ageing, auxiliary_heads=False)
    loss = backward(model, batch(), late_weight=2.0, truncate_steps=100)
    abreast = gradients(model)
    model.zero_grad()
    obvious = obvious_loss(model, batch(), 2.0)
    obvious.backward()
    assert loss == pytest.approx(obvious.item(), abs=1e-5)
    assert loss == pytest.approx(loss_of(model, batch(), 2.0), abs=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(abreast[name], gradient, atol=1e-5, rtol=1e-3)


def test_truncation_changes_the_gradient_and_not_the_loss() -> None:
    model = small_model(auxiliary_heads=False)
    whole_loss = backward(model, batch(), 2.0, truncate_steps=100)
    whole = gradients(model)
    model.zero_grad()
    truncated_loss = backward(model, batch(), 2.0, truncate_steps=2)
    truncated = gradients(model)
    assert truncated_loss == pytest.approx(whole_loss, abs=1e-5)
    assert not torch.allclose(whole["projections.0.weight"], truncated["projections.0.weight"])
