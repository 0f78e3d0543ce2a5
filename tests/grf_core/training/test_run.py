from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from grf_core.config import GRFConfig
from grf_core.model import GRF, SampleOutput
from grf_core.training.checkpoint import CheckpointError
from grf_core.training.preparation import TrainingError
from grf_core.training.recipe import Schedule
from grf_core.training.regime import Validation
from grf_core.training.run import TrainingRun, rate_factor, stopping_figure
from grf_core.training.trainer import bundle_of
from tests.grf_core.training.tiny import TINY, WHOLE, tiny_dataset

SESSIONS = tiny_dataset().train


class MeanThenLinear(torch.nn.Module):
    """A model of somebody else: the mean of each modality, side by side, and a linear layer for each head."""

    def __init__(self, config: GRFConfig) -> None:
        super().__init__()
        self.config = config
        width = sum(modality.width for modality in config.modalities)
        self.heads = torch.nn.ModuleDict({head.name: torch.nn.Linear(width, head.outputs) for head in config.heads})

    def forward(self, inputs: dict[str, torch.Tensor], lengths: dict[str, torch.Tensor]) -> SampleOutput:
        means = [inputs[m.name].sum(dim=1) / lengths[m.name].clamp(min=1)[:, None] for m in self.config.modalities]
        both_BF = torch.cat(means, dim=1)
        return SampleOutput({name: head(both_BF) for name, head in self.heads.items()}, {}, [], [])


def validation_losses(run: TrainingRun) -> list[float]:
    """Of all epochs, each of them validated."""
    losses = []
    for progress in run.epochs():
        assert progress.validation_loss is not None
        losses.append(progress.validation_loss)
    return losses


def test_the_epoch_with_the_lowest_validation_loss_is_kept_and_waiting_for_another_ends() -> None:
    unsettled = replace(TINY, schedule=Schedule(epochs=60, learning_rate=0.5, warmup_epochs=1, patience=3))
    run = TrainingRun(unsettled, SESSIONS, seed=0)
    losses = validation_losses(run)
    assert run.best_epoch == 1 + int(np.argmin(losses))
    assert len(losses) == run.best_epoch + 3
    restored = run.regime.validate(run.restore_best())
    assert restored.loss == min(losses)


@pytest.mark.parametrize(("stop_on", "best"), [("side/accuracy", np.argmax), ("size/mae", np.argmin)])
def test_a_metric_may_choose_the_epoch(stop_on: str, best: Callable[[list[float]], np.intp]) -> None:
    recipe = replace(TINY, schedule=replace(TINY.schedule, epochs=6, stop_on=stop_on))
    run = TrainingRun(recipe, SESSIONS)
    figures = [progress.validation[stop_on] for progress in run.epochs()]
    assert run.best_epoch == 1 + int(best(figures))


def test_the_mean_of_the_weights_is_validated_and_kept_while_the_weights_go_on() -> None:
    recipe = replace(TINY, schedule=replace(TINY.schedule, epochs=2, averaging=0.9))
    mean, plain = (
        TrainingRun(recipe, SESSIONS),
        TrainingRun(replace(TINY, schedule=replace(recipe.schedule, averaging=0.0)), SESSIONS),
    )
    losses = [[p.training_loss for p in run.epochs()] for run in (mean, plain)]
    assert losses[0] == losses[1], "training does not see the mean"
    assert mean.regime.validate(mean.restore_best()).loss == mean.best
    assert any(not torch.equal(mean.best_weights[name], plain.best_weights[name]) for name in mean.best_weights)


def test_a_metric_that_validation_does_not_have_is_named() -> None:
    with pytest.raises(TrainingError, match=r"'taste'.*accuracy, mae"):
        stopping_figure("taste", Validation(1.0, {"mae": 1.0, "accuracy": 0.5}))


def test_a_run_that_diverges_ends_by_name() -> None:
    run = TrainingRun(replace(TINY, schedule=Schedule(learning_rate=1e30, warmup_epochs=1)), SESSIONS)
    with pytest.raises(TrainingError, match="validation loss after epoch"):
        list(run.epochs())


def test_a_run_neither_uses_nor_changes_the_random_state_of_torch() -> None:
    before = torch.get_rng_state()
    first = [progress.training_loss for progress in islice(TrainingRun(TINY, SESSIONS).epochs(), 2)]
    assert torch.equal(torch.get_rng_state(), before)
    second = []
    for progress in islice(TrainingRun(TINY, SESSIONS).epochs(), 2):
        torch.rand(3)
        second.append(progress.training_loss)
    assert first == second


def test_another_model_is_trained_in_the_same_loop_on_the_same_sessions() -> None:
    theirs, ours = TrainingRun(WHOLE, SESSIONS, 2, model_factory=MeanThenLinear), TrainingRun(WHOLE, SESSIONS, 2)
    assert theirs.trained_on == ours.trained_on
    assert [s.session for s in theirs.data.validation] == [s.session for s in ours.data.validation]
    losses = validation_losses(theirs)
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(TrainingError, match="MeanThenLinear has no recurrent step"):
        bundle_of(theirs, {})


def test_separate_blocks_may_be_trained_whole_and_are_no_bundle() -> None:
    config = replace(WHOLE.config, shared_block=False)
    run = TrainingRun(replace(WHOLE, config=config), SESSIONS)
    next(run.epochs())
    with pytest.raises(TrainingError, match="no bundle"):
        bundle_of(run, {})


def test_the_state_of_another_run_is_refused() -> None:
    run = TrainingRun(TINY, SESSIONS, seed=0)
    next(run.epochs())
    for other in (TrainingRun(TINY, SESSIONS, seed=1), TrainingRun(WHOLE, SESSIONS), TrainingRun(TINY, SESSIONS[:-1])):
        with pytest.raises(CheckpointError, match="another"):
            other.resume(run.state())


def test_a_model_made_by_the_default_factory_is_a_grf_of_the_config() -> None:
    model = TrainingRun(TINY, SESSIONS).model
    assert isinstance(model, GRF)
    assert model.config == TINY.config


def test_the_rate_warms_up_then_falls_along_a_cosine_to_the_final_rate() -> None:
    schedule = Schedule(epochs=25, warmup_epochs=5, learning_rate=1e-2, final_learning_rate=1e-4)
    rates = [rate_factor(epoch, schedule) for epoch in range(26)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[15] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rates[25] == pytest.approx(0.01)


def test_without_a_validation_part_all_sessions_train_and_the_last_epoch_is_kept() -> None:
    everything = replace(TINY, schedule=replace(TINY.schedule, epochs=3, validation_share=0.0))
    sessions = tiny_dataset().train
    run = TrainingRun(everything, sessions, seed=0)
    progress = list(run.epochs())
    assert [epoch.validation_loss for epoch in progress] == [None] * 3
    assert progress[-1].best_epoch == 3
    assert len(run.trained_on) == len(sessions)
    last = {key: value.clone() for key, value in run.model.state_dict().items()}
    for key, value in run.restore_best().state_dict().items():
        torch.testing.assert_close(value, last[key], rtol=0, atol=0)
