"""Truncated back-propagation through sessions of segments, many sessions abreast.

Shapes: B sessions in the batch, R of them that still have a segment at step k, S segments of all of them, T frames,
K context slots, D model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from grf_core.config import GRFConfig
from grf_core.data.sessions import LabelledSession, Labels, LabelTrack, Segment
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.packing import pack_segments
from grf_core.step import Float32Array
from grf_core.training.answers import readable_answers, score_heads
from grf_core.training.objective import Criterion, encode_values, late_weights, values_at
from grf_core.training.playback import elapsed_s, play_labelled
from grf_core.training.preparation import TrainingError
from grf_core.training.recipe import CALM, Augmentation, Recipe
from grf_core.training.regime import TrainingData, Validation, mixed_precision

VALIDATION_SEED = 0
"""Validation sessions are cut alike in every epoch of every run."""
VALIDATION_SESSIONS = 128
"""Abreast in validation, where no gradient needs memory."""


@dataclass(frozen=True, slots=True)
class SessionBatch:
    """Sessions abreast, the longest first, and their segments one step after the other: those of step k are
    [starts[k], starts[k + 1]), one for each of the first rows."""

    sessions: int
    starts: npt.NDArray[np.int64]
    """[steps + 1]"""
    frames: list[Float32Array]
    """S segments, normalised"""
    ranks: npt.NDArray[np.int64]
    """[S]"""
    elapsed_s: Tensor
    """[S]"""
    values: Mapping[str, Float32Array]
    """[S] by head: what is true at each step, as `values_at` gives it"""
    targets: Mapping[str, Tensor]
    """[S] by head: the same, as the head is trained to give it"""
    weights: Mapping[str, Tensor]
    """[S] by head: what each step counts in the mean loss of the batch"""
    scored: Mapping[str, npt.NDArray[np.bool_]]
    """[S] by head: the last step of a session, or every step where the label changes along it"""

    @property
    def steps(self) -> int:
        return len(self.starts) - 1


def batch_sessions(
    sequences: Sequence[list[Segment]],
    labels: Sequence[Labels],
    config: GRFConfig,
    normalisation: Normalisation,
    late_weight: float,
    device: torch.device | str = "cpu",
) -> SessionBatch:
    """Sequences of normalised segments, each in the order in which they are fused, as one batch."""
    lengths_B = np.array([len(sequence) for sequence in sequences])
    longest_first = np.argsort(-lengths_B, kind="stable")
    starts = np.concatenate([[0], np.cumsum([np.sum(lengths_B > step) for step in range(lengths_B.max())])])
    places = {int(b): starts[: lengths_B[b]] + row for row, b in enumerate(longest_first)}
    rank = {modality.name: position for position, modality in enumerate(config.modalities)}

    elapsed_S = np.zeros(starts[-1], np.float32)
    segments: dict[int, Segment] = {}
    heads = [head.name for head in config.heads]
    values = {head: np.full(starts[-1], np.nan, np.float32) for head in heads}
    weights = {head: np.zeros(starts[-1], np.float32) for head in heads}
    scored = {head: np.zeros(starts[-1], np.bool_) for head in heads}
    for b, place in places.items():
        sequence = sequences[b]
        segments |= zip(place.tolist(), sequence, strict=True)
        elapsed_S[place] = elapsed_s(sequence)
        times_s = np.array([segment.event_time_s for segment in sequence])
        late = late_weights(len(sequence), late_weight)
        for head in config.heads:
            label = labels[b].get(head.name)
            values[head.name][place] = values_at(head, label, times_s)
            weights[head.name][place] = _along(values[head.name][place]) if isinstance(label, LabelTrack) else late
            scored[head.name][place if isinstance(label, LabelTrack) else place[-1]] = True

    ordered = [segments[place] for place in range(len(segments))]
    targets = {head.name: encode_values(head, normalisation, values[head.name]) for head in config.heads}
    return SessionBatch(
        sessions=len(sequences),
        starts=starts,
        frames=[segment.frames for segment in ordered],
        ranks=np.array([rank[segment.modality] for segment in ordered], np.int64),
        elapsed_s=torch.from_numpy(elapsed_S).to(device),
        values=values,
        targets={head: torch.from_numpy(target).to(device) for head, target in targets.items()},
        weights={head: torch.from_numpy(weight / len(sequences)).to(device) for head, weight in weights.items()},
        scored=scored,
    )


class BatchRun:
    """One pass of a model over a batch, one span of steps after the other."""

    def __init__(self, model: GRF, batch: SessionBatch) -> None:
        self._model = model
        self._batch = batch
        self._device = batch.elapsed_s.device
        self._contexts_RKD = torch.empty(0, device=self._device)

    def answers(self, first: int, stop: int) -> dict[str, Tensor]:
        """What the heads say after each segment of steps [first, stop); earlier steps get no gradient of it."""
        batch, model = self._batch, self._model
        span = slice(batch.starts[first], batch.starts[stop])
        segments = pack_segments(batch.frames[span], batch.ranks[span], self._device)
        counts = np.diff(batch.starts[first : stop + 1]).tolist()
        longest = np.maximum.reduceat(
            [len(frames) for frames in batch.frames[span]], batch.starts[first:stop] - span.start
        )
        # Split once: a slice of the whole for every step would send back a gradient of the size of the whole each.
        steps = zip(
            model.embed(segments).split(counts),
            segments.valid().split(counts),
            batch.elapsed_s[span].split(counts),
            longest.tolist(),
            strict=True,
        )
        self._contexts_RKD = self._contexts_RKD.detach()
        contexts: list[Tensor] = []
        with mixed_precision(self._device):
            for step, (x_RTD, valid_RT, elapsed_s_R, frames) in enumerate(steps, start=first):
                self._step(x_RTD[:, :frames], valid_RT[:, :frames], elapsed_s_R, fresh=step == 0)
                contexts.append(self._contexts_RKD)
            return model.read_heads(torch.cat(contexts))

    def _step(self, x_RTD: Tensor, valid_RT: Tensor, elapsed_s_R: Tensor, fresh: bool) -> None:
        """What `GRF.step` does, where either all rows are fresh or none is."""
        if fresh:
            self._contexts_RKD = self._model.start(x_RTD, valid_RT)
        else:
            aged_RKD = self._model.age(self._contexts_RKD[: len(x_RTD)], elapsed_s_R)
            self._contexts_RKD, _ = self._model.blocks[0](aged_RKD, x_RTD, valid_RT)

    def all_answers(self, span_steps: int) -> dict[str, Tensor]:
        """What the heads say after each segment; no more than a span of them is embedded at once."""
        spans = [self.answers(first, stop) for first, stop in self._spans(span_steps)]
        return {head: torch.cat([answers[head] for answers in spans]) for head in spans[0]}

    def losses(self, criterion: Criterion, span_steps: int) -> Iterator[Tensor]:
        """The weighted loss of each span, mean over the sessions."""
        for first, stop in self._spans(span_steps):
            yield self._loss(criterion, self.answers(first, stop), first, stop)

    def _spans(self, span_steps: int) -> Iterator[tuple[int, int]]:
        for first in range(0, self._batch.steps, span_steps):
            yield first, min(first + span_steps, self._batch.steps)

    def _loss(self, criterion: Criterion, answers: Mapping[str, Tensor], first: int, stop: int) -> Tensor:
        span = slice(self._batch.starts[first], self._batch.starts[stop])
        losses = criterion.losses(answers, {head: target[span] for head, target in self._batch.targets.items()})
        weights = self._batch.weights
        return torch.stack([(loss_S * weights[head][span]).sum() for head, loss_S in losses.items()]).sum()


def backward(model: GRF, criterion: Criterion, batch: SessionBatch, truncate_steps: int) -> float:
    """Add the batch's gradient, truncated to spans of `truncate_steps`, and return its loss."""
    total = 0.0
    for loss in BatchRun(model, batch).losses(criterion, truncate_steps):
        loss.backward()
        total += loss.item()
    return total


@torch.no_grad()
def loss_of(model: GRF, criterion: Criterion, batch: SessionBatch) -> float:
    return sum(loss.item() for loss in BatchRun(model, batch).losses(criterion, batch.steps))


class StreamingRegime:
    """A regime, for models that have the recurrent step: a GRF with a shared block."""

    def __init__(self, recipe: Recipe, data: TrainingData, device: torch.device) -> None:
        self._recipe = recipe
        self._data = data
        self._device = device
        self._criterion = Criterion(recipe.config, recipe.objective, data.class_weights, device)
        self._validation = list(self._validation_batches())

    def backward(self, model: nn.Module, positions: Sequence[int], rng: np.random.Generator) -> float:
        sessions = [self._data.drawn(position, rng) for position in positions]
        batch = self._batch(self._played(sessions, rng, self._recipe.augmentation))
        return backward(streaming_model(model), self._criterion, batch, self._recipe.schedule.truncate_steps)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> Validation:
        config, total = self._recipe.config, 0.0
        answers: dict[str, list[Float32Array]] = {head.name: [] for head in config.heads}
        true: dict[str, list[Float32Array]] = {head.name: [] for head in config.heads}
        for batch in self._validation:
            run = BatchRun(streaming_model(model), batch)
            outputs = run.all_answers(self._recipe.schedule.truncate_steps)
            losses = self._criterion.losses(outputs, batch.targets)
            total += sum(float((losses[head] * batch.weights[head]).sum()) for head in losses) * batch.sessions
            for head, answers_SO in readable_answers(config, self._data.normalisation, outputs).items():
                answers[head].append(answers_SO[batch.scored[head]])
                true[head].append(batch.values[head][batch.scored[head]])
        scores = score_heads(
            config,
            {head: np.concatenate(parts) for head, parts in answers.items()},
            {head: np.concatenate(parts) for head, parts in true.items()},
        )
        return Validation(total / len(self._data.validation), scores)

    def _validation_batches(self) -> Iterator[SessionBatch]:
        played = self._played(self._data.validation, np.random.default_rng(VALIDATION_SEED), CALM)
        by_length = sorted(played, key=lambda of_session: len(of_session[0]))
        for first in range(0, len(by_length), VALIDATION_SESSIONS):
            yield self._batch(by_length[first : first + VALIDATION_SESSIONS])

    def _played(
        self, sessions: Sequence[LabelledSession], rng: np.random.Generator, augmentation: Augmentation
    ) -> list[tuple[list[Segment], Labels]]:
        recipe = self._recipe
        return [play_labelled(session, recipe.config, recipe.cutting, rng, augmentation) for session in sessions]

    def _batch(self, played: Sequence[tuple[list[Segment], Labels]]) -> SessionBatch:
        sequences, labels = zip(*played, strict=True)
        late_weight = self._recipe.schedule.late_weight
        return batch_sessions(
            sequences, labels, self._recipe.config, self._data.normalisation, late_weight, self._device
        )


def streaming_model(model: nn.Module) -> GRF:
    if not isinstance(model, GRF) or not model.config.shared_block:
        raise TrainingError("streaming training needs the recurrent step of a GRF with a shared block")
    return model


def _along(values_S: Float32Array) -> Float32Array:
    """Every step with a known label counts alike, 1 in all."""
    known_S = ~np.isnan(values_S)
    weights: Float32Array = (known_S / max(1, known_S.sum())).astype(np.float32)
    return weights
