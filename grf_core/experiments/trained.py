"""A trained model and the part of the data it has not seen: answers and scores under any circumstances.

Frames are normalised before a condition disturbs them, so noise is told in standard deviations of the training part.

Shapes: n answers, O outputs of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grf_core.bundle import Bundle
from grf_core.config import GRFConfig
from grf_core.data.sessions import Cutting, LabelledSession
from grf_core.inference import GRFStepModel
from grf_core.model import SampleOutput
from grf_core.normalisation import Normalisation
from grf_core.step import Float32Array
from grf_core.training.answers import readable_answers
from grf_core.training.evaluation import evaluate
from grf_core.training.objective import label_values
from grf_core.training.playback import heard_by, normalised
from grf_core.training.recipe import Condition, Recipe
from grf_core.training.run import TrainingRun
from grf_core.training.streaming import streaming_model
from grf_core.training.whole_sample import evaluate_whole, pad_sessions

Scores = dict[str, float]
BATCH_SESSIONS = 64
WHOLE = Cutting(1e9, 1e9)
EVERYTHING = Condition("all modalities", WHOLE)
"""For whole samples, which are not cut."""


@dataclass(frozen=True, slots=True)
class LiveBundle(Bundle):
    """A bundle of the very model in hand: a variant of GRF too, which no file could hold."""

    live: nn.Module

    def step_model(self, device: str | torch.device = "cpu") -> GRFStepModel:
        model = streaming_model(self.live)
        return GRFStepModel(model, self.normalisation, self.name, self.name, torch.device(device))


@dataclass(frozen=True, slots=True)
class Trained:
    """The best weights of a run, by the figure of its validation part."""

    recipe: Recipe
    model: nn.Module
    normalisation: Normalisation
    validation_figure: float
    """What chose the epoch, the smaller the better."""
    test: tuple[LabelledSession, ...]
    """Normalised, and heard by the model; labelled."""

    @classmethod
    def of(cls, run: TrainingRun, sessions: Sequence[LabelledSession]) -> Trained:
        config = run.recipe.config
        heard = [heard_by(session, config) for session in sessions if session.labels]
        test = tuple(normalised(session, run.normalisation) for session in heard if session.streams)
        return cls(run.recipe, run.restore_best(), run.normalisation, run.best, test)

    @property
    def config(self) -> GRFConfig:
        return self.recipe.config

    @property
    def answering(self) -> Normalisation:
        """For frames that are normalised already."""
        return replace(self.normalisation, modalities=Normalisation.identity(self.config).modalities)

    def scores(self, condition: Condition, seed: int = 0) -> Scores:
        """`score_heads` on the test part, with `n`, in the regime that the model was trained in."""
        if self.recipe.regime == "whole":
            return evaluate_whole(
                self.model, self.answering, self.config, self.test, condition, overlong=self.recipe.overlong, seed=seed
            )
        return evaluate(self.bundle(), self.test, condition, seed)

    def bundle(self) -> LiveBundle:
        return LiveBundle(self.recipe.name, self.config, self.answering, {}, {}, live=self.model)

    @torch.no_grad()
    def outputs(self) -> Iterator[tuple[Sequence[LabelledSession], SampleOutput]]:
        """Of whole samples, batch after batch in the order of the test part."""
        self.model.eval()
        for first in range(0, len(self.test), BATCH_SESSIONS):
            chunk = self.test[first : first + BATCH_SESSIONS]
            batch = pad_sessions(chunk, self.config, self.recipe.overlong)
            yield chunk, self.model(batch.inputs, batch.lengths)

    def answers(self) -> tuple[dict[str, Float32Array], dict[str, Float32Array]]:
        """Of whole samples: what was told [n, O] and what is true [n], by head."""
        outputs: dict[str, list[Tensor]] = {head.name: [] for head in self.config.heads}
        for _, output in self.outputs():
            for name, answers_BO in output.outputs.items():
                outputs[name].append(answers_BO)
        told = readable_answers(self.config, self.normalisation, {name: torch.cat(v) for name, v in outputs.items()})
        labels = [session.labels for session in self.test]
        return told, {head.name: label_values(head, labels) for head in self.config.heads}


def as_plain(values: Any) -> Any:
    """Numbers and lists in the place of arrays, rounded to what a plot can show."""
    if isinstance(values, Tensor):
        values = values.numpy()
    return np.round(np.asarray(values, np.float64), 4).tolist()
