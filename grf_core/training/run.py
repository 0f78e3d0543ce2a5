"""One training run: whatever the model and the regime, the epochs, the optimizer and the choice of the weights.

    run = TrainingRun(recipe, dataset.train, seed=0)
    for progress in run.epochs():
        ...
    run.restore_best()      # then run.model, run.normalisation

A run keeps a random state of its own: the global ones are as they were before and after every epoch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from grf_core.config import GRFConfig
from grf_core.data.sessions import LabelledSession
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.training.checkpoint import CheckpointError, restore_rng, rng_text
from grf_core.training.preparation import TrainingError, prepare
from grf_core.training.recipe import Recipe, Schedule
from grf_core.training.regime import Regime, Validation
from grf_core.training.streaming import StreamingRegime
from grf_core.training.weight_mean import WeightMean
from grf_core.training.whole_sample import WholeSampleRegime

ModelFactory = Callable[[GRFConfig], nn.Module]
REGIMES: dict[str, type[StreamingRegime] | type[WholeSampleRegime]] = {
    "streaming": StreamingRegime,
    "whole": WholeSampleRegime,
}
SMALLER_IS_BETTER = frozenset({"loss", "mae", "mse", "rmse", "brier", "log_loss"})
CHECKPOINT_FIELDS = frozenset(
    {
        "run",
        "epoch",
        "weights",
        "optimizer",
        "numpy",
        "torch",
        "best_epoch",
        "best",
        "best_weights",
        "elapsed_s",
        "mean",
    }
)


@dataclass(frozen=True, slots=True)
class Progress:
    """One finished epoch; one line of `metrics.jsonl`."""

    epoch: int
    epochs: int
    training_loss: float
    validation_loss: float | None
    """None without a validation part"""
    validation: dict[str, float]
    """Metrics of the validation part, as `score_heads` names them."""
    best_epoch: int
    learning_rate: float
    elapsed_s: float


class TrainingRun:
    """The state of a run between two epochs."""

    def __init__(
        self,
        recipe: Recipe,
        sessions: Sequence[LabelledSession],
        seed: int = 0,
        device: str | torch.device = "cpu",
        model_factory: ModelFactory = GRF,
    ) -> None:
        """Splits the sessions, normalises them and makes the model; the seed decides all of it."""
        self.recipe = recipe
        self.seed = seed
        self.device = torch.device(device)
        self.rng = np.random.default_rng(seed)
        self.data = prepare(recipe, sessions, self.rng)
        with torch.random.fork_rng(self._gpus()):
            torch.manual_seed(seed)
            self.model = model_factory(recipe.config).to(self.device)
            self._torch_states = self._current_torch_states()
        self._mean = WeightMean(self.model, recipe.schedule.averaging)
        self.regime: Regime = REGIMES[recipe.regime](recipe, self.data, self.device)
        schedule = recipe.schedule
        self._optimizer = AdamW(self.model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
        self.epoch = 0
        self.best_epoch = 0
        self.best = math.inf
        """Of the validation figure that stops the run; negated where larger is better."""
        self.best_weights: dict[str, Tensor] = {}
        self._elapsed_s = 0.0

    @property
    def normalisation(self) -> Normalisation:
        return self.data.normalisation

    @property
    def trained_on(self) -> list[str]:
        """The names of all sessions that had a part in the weights, by training them or by choosing among them."""
        return sorted({session.session for session in (*self.data.training, *self.data.validation)})

    @property
    def finished(self) -> bool:
        schedule = self.recipe.schedule
        return self.epoch >= schedule.epochs or self.epoch - self.best_epoch >= schedule.patience

    def epochs(self) -> Iterator[Progress]:
        """Train until the schedule ends, or the validation figure has not got better for `patience` epochs."""
        while not self.finished:
            yield self._train_epoch()

    def restore_best(self) -> nn.Module:
        """The model, in evaluation mode, with the weights of the best epoch."""
        self.model.load_state_dict(self.best_weights)
        return self.model.eval()

    def state(self) -> dict[str, Any]:
        """All of the run that a checkpoint needs."""
        return {
            "run": self._identity(),
            "epoch": self.epoch,
            "weights": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "numpy": rng_text(self.rng),
            "torch": self._torch_states,
            "best_epoch": self.best_epoch,
            "best": self.best,
            "best_weights": self.best_weights,
            "elapsed_s": self._elapsed_s,
            "mean": self._mean.state(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state. CheckpointError if it is that of another run."""
        if state["run"] != self._identity():
            raise CheckpointError("the checkpoint is of another recipe, seed or set of sessions")
        self.model.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        restore_rng(self.rng, state["numpy"])
        self._torch_states = state["torch"]
        self.epoch, self.best_epoch, self.best = state["epoch"], state["best_epoch"], state["best"]
        self.best_weights = {key: value.to(self.device) for key, value in state["best_weights"].items()}
        self._elapsed_s = state["elapsed_s"]
        self._mean.resume(state["mean"])

    def _train_epoch(self) -> Progress:
        schedule, began_s = self.recipe.schedule, time.monotonic()
        learning_rate = schedule.learning_rate * rate_factor(self.epoch, schedule)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        with self._own_randomness():
            training_loss = self._train_once()
            self.model.eval()
            with self._mean.worn_by(self.model):
                validation = self.regime.validate(self.model) if self.data.validation else None
                self.epoch += 1
                self._judge(training_loss, validation)
        self._elapsed_s += time.monotonic() - began_s
        return Progress(
            epoch=self.epoch,
            epochs=schedule.epochs,
            training_loss=training_loss,
            validation_loss=validation.loss if validation else None,
            validation=dict(validation.scores) if validation else {},
            best_epoch=self.best_epoch,
            learning_rate=learning_rate,
            elapsed_s=self._elapsed_s,
        )

    def _train_once(self) -> float:
        schedule, total = self.recipe.schedule, 0.0
        self.model.train()
        order = self.rng.permutation(len(self.data.training)).tolist()
        for first in range(0, len(order), schedule.batch_sessions):
            positions = order[first : first + schedule.batch_sessions]
            self._optimizer.zero_grad()
            total += len(positions) * self.regime.backward(self.model, positions, self.rng)
            clip_grad_norm_(self.model.parameters(), schedule.gradient_norm)
            self._optimizer.step()
            self._mean.add(self.model)
        return total / len(order)

    def _judge(self, training_loss: float, validation: Validation | None) -> None:
        """Keep the weights if they are the best; without a validation part the last are taken for them."""
        loss = validation.loss if validation else training_loss
        if not math.isfinite(loss):
            raise TrainingError(
                f"the {'validation' if validation else 'training'} loss after epoch {self.epoch} is {loss}"
            )
        figure = stopping_figure(self.recipe.schedule.stop_on, validation) if validation else -float(self.epoch)
        if figure < self.best:
            self.best_epoch, self.best = self.epoch, figure
            self.best_weights = {key: value.clone() for key, value in self.model.state_dict().items()}

    def _identity(self) -> str:
        recipe = self.recipe.to_json()
        del recipe["schedule"]["patience"]  # more of it may be asked of a run that has ended
        return json.dumps({"recipe": recipe, "seed": self.seed, "sessions": self.trained_on}, sort_keys=True)

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        with torch.random.fork_rng(self._gpus()):
            cpu, *gpus = self._torch_states
            torch.set_rng_state(cpu)
            for gpu, state in zip(self._gpus(), gpus, strict=True):
                torch.cuda.set_rng_state(state, gpu)
            yield
            self._torch_states = self._current_torch_states()

    def _current_torch_states(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in self._gpus())]

    def _gpus(self) -> list[int]:
        if self.device.type != "cuda":
            return []
        return [torch.cuda.current_device() if self.device.index is None else self.device.index]


def rate_factor(epoch: int, schedule: Schedule) -> float:
    """Of the learning rate, for an epoch counted from 0: a linear warm-up, then a cosine down to the final rate."""
    if epoch < schedule.warmup_epochs:
        return (epoch + 1) / schedule.warmup_epochs
    lowest = schedule.final_learning_rate / schedule.learning_rate
    done = (epoch - schedule.warmup_epochs) / max(1, schedule.epochs - schedule.warmup_epochs)
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def stopping_figure(stop_on: str, validation: Validation) -> float:
    """The validation figure of that name, the smaller the better."""
    if stop_on == "loss":
        return validation.loss
    value = validation.scores.get(stop_on)
    if value is None:
        raise TrainingError(f"stop_on {stop_on!r}: the validation part has {', '.join(sorted(validation.scores))}")
    return value if stop_on.rpartition("/")[2] in SMALLER_IS_BETTER else -value
