"""Streaming evaluation: sessions played segment by segment through the very step model that the runtime drives.

Shapes: O, the widths of all heads together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grf_core.bundle import Bundle
from grf_core.data.conversion import read_sessions
from grf_core.data.sessions import Cutting, Label, LabelledSession, Segment, in_fusion_order
from grf_core.metrics import score
from grf_core.step import Float32Array, StepBatch, StepModel
from grf_core.training.objective import label_values
from grf_core.training.playback import elapsed_s, play, restricted
from grf_core.training.recipe import Condition

EVERY_HALF_SECOND = Condition("segments of 0.5 s", Cutting(0.5, 0.5))


class EvaluationError(ValueError):
    """Sessions that cannot be evaluated with this bundle; the text says why."""


def evaluate(
    bundle: Bundle,
    sessions: Sequence[LabelledSession],
    condition: Condition = EVERY_HALF_SECOND,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Metrics of the answers after each session's last segment, with `n`, how often a session was played.

    The frames of the sessions are raw, and so are the units of a condition's noise.
    """
    rng = np.random.default_rng(seed)
    heard = [restricted(session, condition.silent, condition.until_s) for session in sessions] * condition.repeats
    sequences = [play(session, bundle.config, condition.cutting, rng, condition.augmentation) for session in heard]
    return evaluate_sequences(bundle, sequences, [session.labels for session in heard], device)


def evaluate_conditions(
    bundle: Bundle, sessions: Sequence[LabelledSession], conditions: Sequence[Condition], device: str = "cpu"
) -> dict[str, dict[str, Any]]:
    """`evaluate` by the name of each condition."""
    return {condition.name: evaluate(bundle, sessions, condition, device=device) for condition in conditions}


def evaluate_recording(bundle: Bundle, path: Path | str, device: str = "cpu") -> dict[str, Any]:
    """The same for a recording, with the segments as they were recorded. Sessions without labels are left out.

    RecordingError for what is no recording, EvaluationError for one that this bundle cannot take.
    """
    sessions = [session for session in read_sessions(path) if session.labels and session.segments]
    for session in sessions:
        for segment in session.segments:
            _check_segment(bundle, segment, session.session)
    modalities = [modality.name for modality in bundle.config.modalities]
    sequences = [in_fusion_order(session.segments, modalities) for session in sessions]
    return evaluate_sequences(bundle, sequences, [session.labels for session in sessions], device)


def evaluate_sequences(
    bundle: Bundle, sequences: Sequence[list[Segment]], labels: Sequence[Mapping[str, Label]], device: str = "cpu"
) -> dict[str, Any]:
    """Metrics by name, and by `head/name` where the bundle has several heads."""
    if not sequences:
        raise EvaluationError("there is no labelled session to evaluate")
    step_model = bundle.step_model(device)
    answers_BO = np.stack([answers[-1] for answers in stream_answers(step_model, sequences)])
    result: dict[str, Any] = {"n": len(sequences), "segments": sum(map(len, sequences))}
    for head, columns in zip(bundle.config.heads, step_model.signature.heads, strict=True):
        true_B = label_values(head, labels)
        known_B = ~np.isnan(true_B)
        if known_B.any():
            scores = score(head.kind, answers_BO[known_B, columns.start : columns.stop], true_B[known_B])
            prefix = f"{head.name}/" if len(bundle.config.heads) > 1 else ""
            result |= {f"{prefix}{name}": value for name, value in scores.items()}
    return result


def stream_answers(step_model: StepModel, sequences: Sequence[list[Segment]]) -> list[Float32Array]:
    """For each sequence of raw segments, in the order given: the answers after each of its steps, [steps, O]."""
    signature = step_model.signature
    contexts = torch.zeros(len(sequences), *signature.context_shape, device=step_model.device)
    elapsed = [elapsed_s(sequence) for sequence in sequences]
    answers: list[list[Float32Array]] = [[] for _ in sequences]
    for step in range(max(map(len, sequences))):
        rows = [row for row, sequence in enumerate(sequences) if step < len(sequence)]
        segments = [sequences[row][step] for row in rows]
        stepped = step_model.step(
            StepBatch(
                contexts=contexts[rows],
                fresh=np.full(len(rows), step == 0),
                ranks=np.array([signature.rank(segment.modality) for segment in segments], np.int64),
                frames=[segment.frames for segment in segments],
                elapsed_s=np.array([elapsed[row][step] for row in rows], np.float32),
            )
        )
        contexts[rows] = stepped.contexts
        for row, answer in zip(rows, stepped.outputs, strict=True):
            answers[row].append(answer)
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
