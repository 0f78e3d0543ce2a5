"""One training run: a recipe and a seed in; metrics, line by line, and a bundle out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from grf_core.bundle import Bundle, save_bundle
from grf_core.config import GRFConfig
from grf_core.data.sessions import Dataset, LabelledSession
from grf_core.model import GRF
from grf_core.normalisation import Normalisation, Statistics
from grf_core.training.evaluation import evaluate_conditions
from grf_core.training.model_card import model_card
from grf_core.training.objective import encode_labels
from grf_core.training.playback import normalised, play
from grf_core.training.recipe import CALM, Augmentation, Recipe, Schedule
from grf_core.training.streaming import SessionBatch, backward, loss_of

VALIDATION_SEED = 0
"""Validation sessions are cut alike in every epoch of every run."""


class TrainingError(ValueError):
    """A run that cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One finished epoch; one line of `metrics.jsonl`."""

    epoch: int
    epochs: int
    training_loss: float
    validation_loss: float
    best_epoch: int
    learning_rate: float
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class TrainingResult:
    bundle: Bundle
    path: Path
    test: dict[str, dict[str, Any]]
    """By condition of the recipe: what `evaluate` says of the test half, which no decision of the run has seen."""


def train(
    recipe: Recipe,
    data_path: Path | None,
    out: Path,
    seed: int = 0,
    on_progress: Callable[[Progress], None] = lambda _: None,
    device: str = "cpu",
) -> TrainingResult:
    """Train, and write into the folder `out`: `recipe.json`, `metrics.jsonl` and the bundle, `bundle/`.

    The weights kept are those of the epoch with the lowest loss on the validation part, which is cut from the training
    half and from nothing else. The global random state of torch is left as it was.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps({**recipe.to_json(), "seed": seed}, indent=2) + "\n")
    dataset = recipe.load(data_path)
    with torch.random.fork_rng(devices=[]), (out / "metrics.jsonl").open("w") as metrics:
        torch.manual_seed(seed)
        run = TrainingRun(recipe, dataset.train, seed, device)
        for progress in run.epochs():
            metrics.write(json.dumps(asdict(progress)) + "\n")
            metrics.flush()
            on_progress(progress)
    run.model.load_state_dict(run.best_weights)
    return _finish(recipe, dataset, run, out / "bundle", seed)


class TrainingRun:
    """The state of a run between two epochs."""

    def __init__(self, recipe: Recipe, sessions: Sequence[LabelledSession], seed: int, device: str = "cpu") -> None:
        self.recipe = recipe
        self.rng = np.random.default_rng(seed)
        share = recipe.schedule.validation_share
        training, validation = split_validation(sessions, recipe.config, share, self.rng)
        self.normalisation = normalisation_of(training, recipe.config)
        self.training = [normalised(session, self.normalisation) for session in training]
        self.validation = [normalised(session, self.normalisation) for session in validation]
        self.model = GRF(recipe.config).to(device)
        self.best_epoch = 0
        self.best_loss = math.inf
        self.best_weights: dict[str, Tensor] = {}

    def epochs(self) -> Iterator[Progress]:
        """Train until the schedule ends, or the validation loss has not fallen for `patience` epochs."""
        schedule = self.recipe.schedule
        optimizer = AdamW(self.model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
        rates = LambdaLR(optimizer, lambda epoch: rate_factor(epoch, schedule))
        began = time.monotonic()
        for epoch in range(1, schedule.epochs + 1):
            learning_rate = schedule.learning_rate * rate_factor(epoch - 1, schedule)
            training_loss = self._train_once(optimizer)
            validation_loss = self._validate()
            rates.step()
            if not math.isfinite(validation_loss):
                raise TrainingError(f"the validation loss after epoch {epoch} is {validation_loss}")
            if validation_loss < self.best_loss:
                self.best_epoch, self.best_loss = epoch, validation_loss
                self.best_weights = {key: value.clone() for key, value in self.model.state_dict().items()}
            elapsed_s = time.monotonic() - began
            yield Progress(
                epoch, schedule.epochs, training_loss, validation_loss, self.best_epoch, learning_rate, elapsed_s
            )
            if epoch - self.best_epoch >= schedule.patience:
                return

    def _train_once(self, optimizer: AdamW) -> float:
        schedule, total = self.recipe.schedule, 0.0
        self.model.train()
        order = self.rng.permutation(len(self.training))
        for first in range(0, len(order), schedule.batch_sessions):
            sessions = [self.training[position] for position in order[first : first + schedule.batch_sessions]]
            batch = self._batch(sessions, self.rng, self.recipe.augmentation)
            optimizer.zero_grad()
            total += len(sessions) * backward(self.model, batch, schedule.late_weight, schedule.truncate_steps)
            clip_grad_norm_(self.model.parameters(), schedule.gradient_norm)
            optimizer.step()
        return total / len(order)

    def _validate(self) -> float:
        self.model.eval()
        batch = self._batch(self.validation, np.random.default_rng(VALIDATION_SEED), CALM)
        return loss_of(self.model, batch, self.recipe.schedule.late_weight)

    def _batch(
        self, sessions: Sequence[LabelledSession], rng: np.random.Generator, augmentation: Augmentation
    ) -> SessionBatch:
        config = self.recipe.config
        sequences = [play(session, config, self.recipe.cutting, rng, augmentation) for session in sessions]
        targets = encode_labels(config, self.normalisation, [session.labels for session in sessions])
        device = self.model.positions_TD.device
        return SessionBatch(sequences, {head: target.to(device) for head, target in targets.items()})


def split_validation(
    sessions: Sequence[LabelledSession], config: GRFConfig, share: float, rng: np.random.Generator
) -> tuple[list[LabelledSession], list[LabelledSession]]:
    """(training, validation): at least one session each, the share taken from every class of the first classifier."""
    classifier = next((head.name for head in config.heads if head.kind == "classification"), "")
    groups: dict[str, list[LabelledSession]] = {}
    for position in rng.permutation(len(sessions)):
        groups.setdefault(str(sessions[position].labels.get(classifier)), []).append(sessions[position])
    training: list[LabelledSession] = []
    validation: list[LabelledSession] = []
    for group in groups.values():
        cut = round(share * len(group))
        validation += group[:cut]
        training += group[cut:]
    if not training or not validation:
        raise TrainingError(f"{len(sessions)} sessions leave none to train on or none to validate on, at share {share}")
    return training, validation


def normalisation_of(sessions: Sequence[LabelledSession], config: GRFConfig) -> Normalisation:
    """Statistics over all frames of each modality, and over all labels of each regression head."""
    frames: dict[str, list[Any]] = {modality.name: [] for modality in config.modalities}
    for session in sessions:
        for stream in session.streams:
            frames[stream.modality].append(stream.frames)
    labels = {
        head.name: [[[session.labels[head.name]]] for session in sessions if head.name in session.labels]
        for head in config.heads
        if head.kind == "regression"
    }
    return Normalisation(
        modalities={name: Statistics.of(parts) for name, parts in frames.items()},
        heads={name: Statistics.of(parts) for name, parts in labels.items()},
    )


def rate_factor(epoch: int, schedule: Schedule) -> float:
    """Of the learning rate, for an epoch counted from 0: a linear warm-up, then a cosine down to the final rate."""
    if epoch < schedule.warmup_epochs:
        return (epoch + 1) / schedule.warmup_epochs
    lowest = schedule.final_learning_rate / schedule.learning_rate
    done = (epoch - schedule.warmup_epochs) / max(1, schedule.epochs - schedule.warmup_epochs)
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _finish(recipe: Recipe, dataset: Dataset, run: TrainingRun, path: Path, seed: int) -> TrainingResult:
    training: dict[str, Any] = {
        "recipe": recipe.to_json(),
        "seed": seed,
        "data": {"name": dataset.name, "source": dataset.source, "licence": dataset.licence, "split": dataset.split},
        "sessions": {"train": len(run.training), "validation": len(run.validation), "test": len(dataset.test)},
        "best_epoch": run.best_epoch,
        "torch": torch.__version__,
    }
    bundle = Bundle.of(recipe.name, run.model, run.normalisation, training)
    test = evaluate_conditions(bundle, dataset.test, recipe.conditions)
    bundle = replace(bundle, training={**training, "test": test})
    save_bundle(path, bundle, model_card(recipe, dataset, bundle.training))
    return TrainingResult(bundle, path, test)
