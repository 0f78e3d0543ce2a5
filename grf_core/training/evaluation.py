"""Evaluation of a bundle, as it was trained: sessions played segment by segment through the very step model that the
runtime drives; or, for a whole-sample recipe, one whole segment of each modality.

Shapes: S steps of one session, O, the widths of all heads together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grf_core.bundle import Bundle
from grf_core.data.conversion import RecordedSessionSegments, distinct_segments, read_sessions
from grf_core.data.sessions import Cutting, LabelledSession, Labels, LabelTrack, Segment, in_fusion_order
from grf_core.step import Float32Array, StepBatch, StepModel
from grf_core.training.answers import score_heads
from grf_core.training.objective import label_values, values_at
from grf_core.training.playback import elapsed_s, heard_by, play_labelled, restricted, spoiled
from grf_core.training.recipe import Condition
from grf_core.training.whole_sample import evaluate_whole

EVERY_HALF_SECOND = Condition("segments of 0.5 s", Cutting(0.5, 0.5))
SESSIONS_ABREAST = 256
OnProgress = Callable[[int, int], None]
"""(sessions done, of how many)"""


class EvaluationError(ValueError):
    """Sessions that cannot be evaluated with this bundle; the text says why."""


class NothingToEvaluate(EvaluationError):
    """No session has a label and something that the bundle takes."""

    def __init__(self) -> None:
        super().__init__("there is no labelled session to evaluate")

    def __reduce__(self) -> tuple[type[NothingToEvaluate], tuple[()]]:
        """It may be raised in another process."""
        return type(self), ()


def no_progress(done: int, total: int) -> None:
    pass


def evaluate(
    bundle: Bundle,
    sessions: Sequence[LabelledSession],
    condition: Condition = EVERY_HALF_SECOND,
    seed: int = 0,
    device: str | torch.device = "cpu",
    on_progress: OnProgress = no_progress,
) -> dict[str, Any]:
    """Metrics of the answers after each session's last segment, or after every segment where the label changes along
    the session; with `n`, how often a session was played, and `segments`, of how many steps.

    The frames of the sessions are raw, and so are the units of a condition's noise. A session that has nothing the
    bundle takes, nothing that the condition leaves, or no label is left out.
    """
    rng = np.random.default_rng(seed)
    heard = [heard_by(session, bundle.config) for session in sessions if session.labels]
    heard = [restricted(session, condition.silent, condition.until_s) for session in heard if session.streams]
    heard = [session for session in heard if session.streams] * condition.repeats
    if condition.spoil is not None:
        heard = [spoiled(session, condition.spoil, rng) for session in heard]
    cutting, augmentation = condition.cutting, condition.augmentation
    played = [play_labelled(session, bundle.config, cutting, rng, augmentation) for session in heard]
    sequences, labels = [of_session for of_session, _ in played], [labels for _, labels in played]
    return evaluate_sequences(bundle, sequences, labels, device, on_progress)


def evaluate_as_trained(
    bundle: Bundle,
    sessions: Sequence[LabelledSession],
    condition: Condition,
    device: str | torch.device = "cpu",
    on_progress: OnProgress = no_progress,
) -> dict[str, Any]:
    """By the regime that the bundle says it was trained in; streaming where it does not say."""
    recipe = bundle.training.get("recipe", {})
    if recipe.get("regime") != "whole":
        return evaluate(bundle, sessions, condition, device=device, on_progress=on_progress)
    result = evaluate_whole(
        bundle.model(),
        bundle.normalisation,
        bundle.config,
        sessions,
        condition,
        overlong=recipe.get("overlong", "subsample"),
        device=device,
        on_progress=on_progress,
    )
    if not result["n"]:
        raise NothingToEvaluate
    return result


def split_unseen(bundle: Bundle, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(sessions that had no part in the bundle's weights, those that had), by what the bundle says of itself."""
    trained_on = set(bundle.training.get("trained_on", ()))
    return [name for name in names if name not in trained_on], [name for name in names if name in trained_on]


def evaluate_conditions(
    bundle: Bundle,
    sessions: Sequence[LabelledSession],
    conditions: Sequence[Condition],
    device: str | torch.device = "cpu",
    on_progress: OnProgress = no_progress,
) -> dict[str, dict[str, Any]]:
    """`evaluate_as_trained` by the name of each condition; `n` is 0, and nothing else is known, where one leaves
    nothing of any session."""
    results: dict[str, dict[str, Any]] = {}
    for condition in conditions:
        try:
            results[condition.name] = evaluate_as_trained(bundle, sessions, condition, device, on_progress)
        except NothingToEvaluate:
            results[condition.name] = {"n": 0}
    return results


def evaluate_recording(bundle: Bundle, path: Path | str, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The same for a recording, with the segments as they were recorded. Sessions without labels are left out.

    RecordingError for what is no recording, EvaluationError for one that this bundle cannot take.
    """
    return evaluate_recorded(bundle, read_sessions(path), device)


def evaluate_recorded(
    bundle: Bundle,
    sessions: Sequence[RecordedSessionSegments],
    device: str | torch.device = "cpu",
    on_progress: OnProgress = no_progress,
) -> dict[str, Any]:
    """`evaluate_recording` of sessions that have been read."""
    sessions = [session for session in sessions if session.labels and session.segments]
    for session in sessions:
        for segment in session.segments:
            _check_segment(bundle, segment, session.session)
    modalities = [modality.name for modality in bundle.config.modalities]
    sequences = [in_fusion_order(distinct_segments(session.segments), modalities) for session in sessions]
    return evaluate_sequences(bundle, sequences, [session.labels for session in sessions], device, on_progress)


def evaluate_sequences(
    bundle: Bundle,
    sequences: Sequence[list[Segment]],
    labels: Sequence[Labels],
    device: str | torch.device = "cpu",
    on_progress: OnProgress = no_progress,
) -> dict[str, Any]:
    """`score_heads` of each head's answers, with `n` and `segments`."""
    if not sequences:
        raise NothingToEvaluate
    step_model = bundle.step_model(device)
    answers = stream_answers(step_model, sequences, on_progress)
    told: dict[str, Float32Array] = {}
    true: dict[str, Float32Array] = {}
    times = [np.array([segment.event_time_s for segment in sequence]) for sequence in sequences]
    for head, columns in zip(bundle.config.heads, step_model.signature.heads, strict=True):
        tracked = [isinstance(of_session.get(head.name), LabelTrack) for of_session in labels]
        scored = [of_session if along else of_session[-1:] for of_session, along in zip(answers, tracked, strict=True)]
        told[head.name] = np.concatenate(scored)[:, columns.start : columns.stop]
        true[head.name] = np.concatenate(
            [
                values_at(head, of_session.get(head.name), times_s) if along else label_values(head, [of_session])
                for of_session, times_s, along in zip(labels, times, tracked, strict=True)
            ]
        )
    return {"n": len(sequences), "segments": sum(map(len, sequences)), **score_heads(bundle.config, told, true)}


def stream_answers(
    step_model: StepModel, sequences: Sequence[list[Segment]], on_progress: OnProgress = no_progress
) -> list[Float32Array]:
    """For each sequence of raw segments, in the order given: the answers after each of its steps, [S, O]."""
    by_length = sorted(range(len(sequences)), key=lambda position: -len(sequences[position]))
    answers: dict[int, Float32Array] = {}
    for first in range(0, len(by_length), SESSIONS_ABREAST):
        abreast = by_length[first : first + SESSIONS_ABREAST]
        answers |= zip(
            abreast, _answers_abreast(step_model, [sequences[position] for position in abreast]), strict=True
        )
        on_progress(len(answers), len(sequences))
    return [answers[position] for position in range(len(sequences))]


def _answers_abreast(step_model: StepModel, sequences: Sequence[list[Segment]]) -> list[Float32Array]:
    """Of sequences that do not grow longer: those that still have a segment are the first rows."""
    signature = step_model.signature
    rank = {modality.name: position for position, modality in enumerate(signature.modalities)}
    elapsed = [elapsed_s(sequence) for sequence in sequences]
    contexts = torch.zeros(len(sequences), *signature.context_shape, device=step_model.device)
    answers: list[list[Float32Array]] = [[] for _ in sequences]
    active = len(sequences)
    for step in range(len(sequences[0])):
        while len(sequences[active - 1]) <= step:
            active -= 1
        segments = [sequence[step] for sequence in sequences[:active]]
        stepped = step_model.step(
            StepBatch(
                contexts=contexts[:active],
                fresh=np.full(active, step == 0),
                ranks=np.array([rank[segment.modality] for segment in segments], np.int64),
                frames=[segment.frames for segment in segments],
                elapsed_s=np.array([of_session[step] for of_session in elapsed[:active]], np.float32),
            )
        )
        contexts = stepped.contexts
        for of_session, answer in zip(answers, stepped.outputs, strict=False):
            of_session.append(answer)
    return [np.stack(of_session) for of_session in answers]


def _check_segment(bundle: Bundle, segment: Segment, session: str) -> None:
    modality = next((known for known in bundle.config.modalities if known.name == segment.modality), None)
    if modality is None:
        raise EvaluationError(f"session {session!r}: bundle {bundle.name!r} has no modality {segment.modality!r}")
    frames, width = segment.frames.shape
    if width != modality.width or frames > modality.max_frames:
        raise EvaluationError(
            f"session {session!r}: {frames} frames of width {width}, and {modality.name!r} takes"
            f" at most {modality.max_frames} of width {modality.width}"
        )
