from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from grf_core.data.sessions import Labels, LabelTrack, Segment
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.packing import pack_segments
from grf_core.training.objective import Criterion, late_weights
from grf_core.training.preparation import TrainingError
from grf_core.training.recipe import Objective
from grf_core.training.run import TrainingRun
from grf_core.training.streaming import SessionBatch, backward, batch_sessions, loss_of, streaming_model
from tests.grf_core.models import MODALITIES, random_segments, small_config, small_model
from tests.grf_core.training.tiny import TINY, tiny_dataset

LENGTHS = (3, 5, 1)
CRITERION = Criterion(small_config(), Objective())
LABELS: tuple[Labels, ...] = (
    {"mood": "low", "effort": 0.1},
    {"mood": LabelTrack(np.array([0.5, 1.5]), ("even", "high"))},
    {"mood": "high", "effort": 0.3},
)


def drawn_sequences(seed: int = 0) -> list[list[Segment]]:
    rng = np.random.default_rng(seed)
    return [
        [Segment("s", MODALITIES[rank].name, k, 0.5 * k, x) for k, (rank, x) in enumerate(random_segments(n, rng))]
        for n in LENGTHS
    ]


def batch(labels: tuple[Labels, ...] = LABELS) -> SessionBatch:
    config = small_config()
    return batch_sessions(drawn_sequences(), labels, config, Normalisation.identity(config), late_weight=2.0)


def obvious_loss(model: GRF, power: float) -> Tensor:
    """One session after the other, one segment after the other, nothing truncated."""
    total = torch.zeros(())
    moods = {"low": 0.0, "even": 1.0, "high": 2.0}
    for sequence, labels in zip(drawn_sequences(), LABELS, strict=True):
        context_BKD = torch.zeros(1, model.config.context_slots, model.config.d_model)
        for k, late in enumerate(late_weights(len(sequence), power).tolist()):
            rank = [modality.name for modality in MODALITIES].index(sequence[k].modality)
            packed = pack_segments([sequence[k].frames], np.array([rank]))
            elapsed_s = torch.tensor([0.5 if k else 0.0])
            context_BKD = model.step(context_BKD, torch.tensor([k == 0]), packed, elapsed_s).contexts
            mood, weight = labels.get("mood"), late
            if isinstance(mood, LabelTrack):
                mood, weight = [None, "even", "even", "high", "high"][k], 1 / 4
            targets = {
                "mood": torch.tensor([math.nan if mood is None else moods[str(mood)]]),
                "effort": torch.tensor([float(str(labels.get("effort", math.nan)))]),
            }
            losses = CRITERION.losses(model.read_heads(context_BKD), targets)
            total = total + weight * losses["mood"].sum() + late * losses["effort"].sum()
    return total / len(LENGTHS)


def gradients(model: GRF) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("changes", [{}, {"ageing": True}, {"carry": "context", "context_slots": 3}])
def test_sessions_abreast_have_the_loss_and_gradient_of_sessions_apart(changes: dict[str, Any]) -> None:
    model = small_model(auxiliary_heads=False, **changes)
    loss = backward(model, CRITERION, batch(), truncate_steps=100)
    abreast = gradients(model)
    model.zero_grad()
    obvious = obvious_loss(model, 2.0)
    obvious.backward()
    assert loss == pytest.approx(obvious.item(), abs=1e-5)
    assert loss == pytest.approx(loss_of(model, CRITERION, batch()), abs=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(abreast[name], gradient, atol=1e-5, rtol=1e-3)


def test_truncation_changes_the_gradient_and_not_the_loss() -> None:
    model = small_model(auxiliary_heads=False)
    whole_loss = backward(model, CRITERION, batch(), truncate_steps=100)
    whole = gradients(model)
    model.zero_grad()
    truncated_loss = backward(model, CRITERION, batch(), truncate_steps=2)
    truncated = gradients(model)
    assert truncated_loss == pytest.approx(whole_loss, abs=1e-5)
    assert not torch.allclose(whole["projections.0.weight"], truncated["projections.0.weight"])


def test_a_plain_label_is_scored_at_the_last_step_and_a_changing_one_at_every_step() -> None:
    scored = batch().scored
    assert scored["mood"].sum() == 5 + 1 + 1
    assert scored["effort"].sum() == 3


def test_a_session_without_any_label_adds_nothing() -> None:
    alone = batch((LABELS[0], LABELS[1], {}))
    unlabelled = {head: float(weights.sum()) for head, weights in batch(({}, {}, {})).targets.items()}
    assert all(math.isnan(value) for value in unlabelled.values())
    model = small_model(auxiliary_heads=False)
    assert loss_of(model, CRITERION, batch(({}, {}, {}))) == 0.0
    assert 0 < loss_of(model, CRITERION, alone) < loss_of(model, CRITERION, batch())


def test_validation_is_the_same_for_the_same_weights_and_changes_with_them() -> None:
    run = TrainingRun(TINY, tiny_dataset().train)
    first = run.regime.validate(run.model.eval())
    assert run.regime.validate(run.model) == first
    assert {"accuracy", "side/accuracy", "size/mae"} <= first.scores.keys()
    next(run.epochs())
    assert run.regime.validate(run.model.eval()).loss != first.loss


def test_validation_embeds_no_more_of_long_sessions_at_once_than_training_does() -> None:
    run = TrainingRun(replace(TINY, schedule=replace(TINY.schedule, truncate_steps=2)), tiny_dataset().train)
    model = streaming_model(run.model.eval())
    whole = TrainingRun(TINY, tiny_dataset().train).regime.validate(model)
    with patch.object(model, "embed", wraps=model.embed) as embed:
        validation = run.regime.validate(model)
    assert max(len(call.args[0].lengths) for call in embed.call_args_list) <= 2 * len(run.data.validation)
    assert validation.loss == pytest.approx(whole.loss, abs=1e-5)


def test_only_a_grf_with_a_shared_block_streams() -> None:
    separate = replace(small_config(), shared_block=False)
    with pytest.raises(TrainingError, match="recurrent step"):
        streaming_model(GRF(separate))
    with pytest.raises(TrainingError, match="recurrent step"):
        streaming_model(torch.nn.Linear(1, 1))
