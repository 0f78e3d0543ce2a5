from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from grf_core.bundle import load_bundle
from grf_core.data.sessions import Dataset
from grf_core.training.recipe import Schedule
from grf_core.training.trainer import (
    Progress,
    TrainingError,
    TrainingRun,
    normalisation_of,
    rate_factor,
    split_validation,
    train,
)
from tests.grf_core.training.tiny import TINY, tiny_dataset

SHORT = replace(TINY, schedule=replace(TINY.schedule, epochs=2))


def test_a_run_learns_and_leaves_a_bundle_its_metrics_and_its_recipe(tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = train(TINY, None, tmp_path / "run", seed=1, on_progress=seen.append)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [progress.epoch for progress in seen]
    assert seen[-1].validation_loss < 0.5 * seen[0].validation_loss
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["seed"] == 1
    assert result.path == tmp_path / "run" / "bundle"
    assert load_bundle(result.path).digest == result.bundle.digest
    assert result.test["calm"]["side/accuracy"] == 1.0
    assert result.test["calm"]["size/mae"] < 0.4
    assert result.test["left alone"]["n"] == 16


def test_the_model_card_tells_data_split_figures_and_limits(tmp_path: Path) -> None:
    result = train(SHORT, None, tmp_path, seed=0)
    card = (result.path / "README.md").read_text()
    for said in ("made up", "CC0-1.0", "first and second half", "left alone", "side/accuracy", "It knows nothing."):
        assert said in card
    assert result.bundle.training["data"]["licence"] == "CC0-1.0"


def test_the_same_seed_gives_the_same_bundle_and_another_seed_another(tmp_path: Path) -> None:
    digests = [train(SHORT, None, tmp_path / str(run), seed).bundle.digest for run, seed in enumerate([5, 5, 6])]
    assert digests[0] == digests[1] != digests[2]


def test_training_leaves_the_random_state_of_torch_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(SHORT, None, tmp_path, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_test_half_decides_nothing(tmp_path: Path) -> None:
    def without_test(path: Path | None) -> Dataset:
        dataset = tiny_dataset(path)
        return replace(dataset, test=dataset.test[:2])

    whole = train(SHORT, None, tmp_path / "whole", seed=0).bundle
    assert train(replace(SHORT, load=without_test), None, tmp_path / "less", seed=0).bundle.digest == whole.digest


def test_the_epoch_with_the_lowest_validation_loss_is_kept_and_waiting_for_another_ends() -> None:
    unsettled = replace(TINY, schedule=Schedule(epochs=60, learning_rate=0.5, warmup_epochs=1, patience=3))
    run = TrainingRun(unsettled, tiny_dataset().train, seed=0)
    losses = [progress.validation_loss for progress in run.epochs()]
    assert run.best_epoch == 1 + int(np.argmin(losses))
    assert len(losses) == run.best_epoch + 3


def test_validation_takes_its_share_of_every_class() -> None:
    sessions = tiny_dataset().train
    training, validation = split_validation(sessions, TINY.config, 0.25, np.random.default_rng(0))
    assert Counter(session.labels["side"] for session in validation) == {"up": 3, "down": 3}
    assert len(training) + len(validation) == len({s.session for s in training + validation}) == 24


def test_a_share_that_leaves_a_part_empty_is_refused() -> None:
    with pytest.raises(TrainingError, match="validate"):
        split_validation(tiny_dataset().train[:2], TINY.config, 0.1, np.random.default_rng(0))


def test_a_run_that_diverges_ends_by_name() -> None:
    run = TrainingRun(replace(TINY, schedule=Schedule(learning_rate=1e30, warmup_epochs=1)), tiny_dataset().train, 0)
    with pytest.raises(TrainingError, match="validation loss after epoch"):
        list(run.epochs())


def test_normalisation_is_that_of_frames_and_labels() -> None:
    sessions = tiny_dataset().train
    normalisation = normalisation_of(sessions, TINY.config)
    frames = np.concatenate([session.streams[0].frames for session in sessions])
    np.testing.assert_allclose(normalisation.modalities["left"].mean, frames.mean(axis=0), atol=1e-6)
    sizes = [session.labels["size"] for session in sessions]
    np.testing.assert_allclose(normalisation.heads["size"].std, [np.std(np.array(sizes, float))])


def test_the_rate_warms_up_then_falls_along_a_cosine_to_the_final_rate() -> None:
    schedule = Schedule(epochs=25, warmup_epochs=5, learning_rate=1e-2, final_learning_rate=1e-4)
    rates = [rate_factor(epoch, schedule) for epoch in range(26)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[15] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rates[25] == pytest.approx(0.01)
