"""The paper's setting: one whole segment of each modality, padded; a length of 0 where a session lacks one.

Shapes: B sessions in the batch, T frames of the longest, F feature width, O outputs of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from grf_core.config import GRFConfig, ModalityConfig
from grf_core.data.sessions import LabelledSession
from grf_core.model import SampleOutput
from grf_core.normalisation import Normalisation
from grf_core.step import Float32Array
from grf_core.training.answers import readable_answers, score_heads
from grf_core.training.objective import Criterion, encode_values, label_values
from grf_core.training.playback import disturbed, heard_by, normalised, restricted
from grf_core.training.recipe import CALM, Condition, Overlong, Recipe
from grf_core.training.regime import TrainingData, Validation, mixed_precision

VALIDATION_SESSIONS = 128


@dataclass(frozen=True, slots=True)
class SampleBatch:
    inputs: Mapping[str, Tensor]
    """[B, T, F] by modality, normalised, zero at padding; T >= 1"""
    lengths: Mapping[str, Tensor]
    """[B] int64 by modality"""


def pad_sessions(
    sessions: Sequence[LabelledSession],
    config: GRFConfig,
    overlong: Overlong,
    device: torch.device | str = "cpu",
    rng: np.random.Generator | None = None,
) -> SampleBatch:
    """Normalised sessions side by side; streams of one modality become one, by time. `rng` places the windows."""
    inputs: dict[str, Tensor] = {}
    lengths: dict[str, Tensor] = {}
    for modality in config.modalities:
        whole = [_shortened(_whole_modality(session, modality), modality, overlong, rng) for session in sessions]
        padded_BTF = np.zeros((len(whole), max(1, *map(len, whole)), modality.width), np.float32)
        for row, frames in enumerate(whole):
            padded_BTF[row, : len(frames)] = frames
        inputs[modality.name] = torch.from_numpy(padded_BTF).to(device)
        lengths[modality.name] = torch.tensor([len(frames) for frames in whole], device=device)
    return SampleBatch(inputs, lengths)


class WholeSampleRegime:
    """A regime, for any model with `GRF.forward(inputs, lengths) -> SampleOutput`. Of the augmentation, what befalls
    segments (their arrival, their loss) has no meaning here and does nothing."""

    def __init__(self, recipe: Recipe, data: TrainingData, device: torch.device) -> None:
        self._recipe = recipe
        self._data = data
        self._device = device
        self._criterion = Criterion(recipe.config, recipe.objective, data.class_weights, device)
        self._validation = [
            (chunk, pad_sessions(chunk, recipe.config, recipe.overlong, device))
            for chunk in _chunks(data.validation, VALIDATION_SESSIONS)
        ]

    def backward(self, model: nn.Module, positions: Sequence[int], rng: np.random.Generator) -> float:
        recipe = self._recipe
        sessions = [disturbed(self._data.drawn(position, rng), recipe.augmentation, rng) for position in positions]
        batch = pad_sessions(sessions, recipe.config, recipe.overlong, self._device, rng)
        targets = self._targets(sessions)
        output = self._output(model, batch)
        loss = self._criterion.total(output.outputs, targets).mean()
        if output.auxiliary:
            auxiliary = self._criterion.total(output.auxiliary, targets).mean()
            loss = loss + recipe.objective.auxiliary_weight * auxiliary
        loss.backward()
        return loss.item()

    @torch.no_grad()
    def validate(self, model: nn.Module) -> Validation:
        """The loss is that of the heads on the final state alone."""
        total, answers = 0.0, []
        for sessions, batch in self._validation:
            outputs = self._output(model, batch).outputs
            total += self._criterion.total(outputs, self._targets(sessions)).sum().item()
            answers.append(readable_answers(self._recipe.config, self._data.normalisation, outputs))
        scores = _scores(self._recipe.config, answers, self._data.validation)
        return Validation(total / len(self._data.validation), scores)

    def _output(self, model: nn.Module, batch: SampleBatch) -> SampleOutput:
        with mixed_precision(self._device):
            output: SampleOutput = model(batch.inputs, batch.lengths)
        return output

    def _targets(self, sessions: Sequence[LabelledSession]) -> dict[str, Tensor]:
        labels = [session.labels for session in sessions]
        values = {head.name: label_values(head, labels) for head in self._recipe.config.heads}
        return {
            head.name: torch.from_numpy(encode_values(head, self._data.normalisation, values[head.name])).to(
                self._device
            )
            for head in self._recipe.config.heads
        }


@torch.no_grad()
def evaluate_whole(
    model: nn.Module,
    normalisation: Normalisation,
    config: GRFConfig,
    sessions: Sequence[LabelledSession],
    condition: Condition | None = None,
    *,
    overlong: Overlong = "subsample",
    device: str | torch.device = "cpu",
    batch_sessions: int = 64,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """`score_heads` of the answers on raw sessions, with `n`, how often a session was heard.

    Of a condition, its silence, its end and its disturbance of streams count; noise is in the unit of the frames. A
    session that has no label or none of the modalities left is left out. The model stays in evaluation mode, on the
    device.
    """
    rng, heard = np.random.default_rng(seed), [heard_by(session, config) for session in sessions if session.labels]
    if condition is not None:
        heard = [restricted(session, condition.silent, condition.until_s) for session in heard if session.streams]
        heard = heard * condition.repeats
    augmentation = CALM if condition is None else condition.augmentation
    heard = [normalised(disturbed(session, augmentation, rng), normalisation) for session in heard if session.streams]
    model = model.to(device).eval()
    answers, done = [], 0
    for chunk in _chunks(sorted(heard, key=_frames), batch_sessions):
        batch = pad_sessions(chunk, config, overlong, device)
        answers.append(readable_answers(config, normalisation, model(batch.inputs, batch.lengths).outputs))
        on_progress(done := done + len(chunk), len(heard))
    return {"n": len(heard), **_scores(config, answers, sorted(heard, key=_frames))}


def _scores(
    config: GRFConfig, answers: Sequence[Mapping[str, Float32Array]], sessions: Sequence[LabelledSession]
) -> dict[str, float]:
    if not sessions:
        return {}
    labels = [session.labels for session in sessions]
    return score_heads(
        config,
        {head.name: np.concatenate([part[head.name] for part in answers]) for head in config.heads},
        {head.name: label_values(head, labels) for head in config.heads},
    )


def _whole_modality(session: LabelledSession, modality: ModalityConfig) -> Float32Array:
    streams = [stream for stream in session.streams if stream.modality == modality.name]
    if not streams:
        return np.empty((0, modality.width), np.float32)
    if len(streams) == 1:
        return streams[0].frames
    order = np.argsort(np.concatenate([stream.times_s for stream in streams]), kind="stable")
    merged: Float32Array = np.concatenate([stream.frames for stream in streams])[order]
    return merged


def _shortened(
    frames: Float32Array, modality: ModalityConfig, overlong: Overlong, rng: np.random.Generator | None
) -> Float32Array:
    spare = len(frames) - modality.max_frames
    if spare <= 0:
        return frames
    if overlong == "subsample":
        evenly: Float32Array = frames[np.linspace(0, len(frames) - 1, modality.max_frames).round().astype(np.int64)]
        return evenly
    first = spare // 2 if rng is None else int(rng.integers(spare + 1))
    return frames[first : first + modality.max_frames]


def _frames(session: LabelledSession) -> int:
    return max(len(stream.frames) for stream in session.streams)


def _chunks(sessions: Sequence[LabelledSession], size: int) -> Iterator[Sequence[LabelledSession]]:
    for first in range(0, len(sessions), size):
        yield sessions[first : first + size]
