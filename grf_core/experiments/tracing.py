"""What happens inside a model while it fuses: contexts, gates and shares after each step.

Shapes: N sessions, S steps of the longest, M modalities, K context slots, D model width. Steps that a session does not
have are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from grf_core.data.sessions import Segment
from grf_core.experiments.trained import Trained
from grf_core.step import StepBatch, StepModel
from grf_core.training.playback import elapsed_s, play
from grf_core.training.recipe import Condition

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trace:
    contexts_NSD: Values
    """Mean over the slots."""
    gates_NS: Values
    """1 where the segment started the context."""
    shares_NSM: Values
    """Of each modality in the context, as the runtime tells it: sum to 1."""
    times_NS: Values
    """Event seconds since the session's first segment began to count."""


def trace_whole(trained: Trained) -> Trace:
    """One step for each modality of the config; the gate of the first is 1 where the sample has it."""
    contexts, gates, present = [], [], []
    for sessions, output in trained.outputs():
        contexts.append(torch.stack(output.contexts, dim=1).mean(dim=2).numpy())
        heard = [{stream.modality for stream in session.streams} for session in sessions]
        present += [[m.name in of_session for m in trained.config.modalities] for of_session in heard]
        first = torch.tensor([[float(row[0])] for row in present[-len(sessions) :]])
        gates.append(torch.cat([first, *(gate_B[:, None] for gate_B in output.gates)], dim=1).numpy())
    gates_NS, present_NS = np.concatenate(gates).astype(np.float64), np.array(present)
    shares = np.zeros((len(gates_NS), gates_NS.shape[1], gates_NS.shape[1]))
    share_NM = np.zeros(shares.shape[::2])
    for step in range(gates_NS.shape[1]):
        share_NM = _shared(share_NM, np.full(len(gates_NS), step), gates_NS[:, step])
        shares[:, step] = share_NM
    gates_NS[~present_NS] = np.nan
    times_NS = np.broadcast_to(np.arange(gates_NS.shape[1], dtype=np.float64), gates_NS.shape)
    return Trace(np.concatenate(contexts).astype(np.float64), gates_NS, shares, times_NS)


def trace_streams(trained: Trained, condition: Condition, seed: int = 0) -> Trace:
    """The test part, played under a condition through the step model that the runtime drives."""
    rng = np.random.default_rng(seed)
    sequences = [play(s, trained.config, condition.cutting, rng, condition.augmentation) for s in trained.test]
    model = trained.bundle().step_model()
    count, steps = len(sequences), max(map(len, sequences))
    width, ranks = model.signature.context_shape[1], len(model.signature.modalities)
    trace = Trace(
        np.full((count, steps, width), np.nan),
        np.full((count, steps), np.nan),
        np.full((count, steps, ranks), np.nan),
        np.full((count, steps), np.nan),
    )
    contexts = torch.zeros(count, *model.signature.context_shape)
    shares_NM, elapsed = np.zeros((count, ranks)), [elapsed_s(sequence) for sequence in sequences]
    for step in range(steps):
        rows = [row for row, sequence in enumerate(sequences) if len(sequence) > step]
        segments = [sequences[row][step] for row in rows]
        batch = _batch(model, contexts[rows], segments, [elapsed[row][step] for row in rows], fresh=step == 0)
        stepped = model.step(batch)
        contexts[rows] = stepped.contexts
        shares_NM[rows] = _shared(shares_NM[rows], batch.ranks, stepped.gate.astype(np.float64))
        trace.contexts_NSD[rows, step] = stepped.contexts.mean(dim=1).numpy()
        trace.gates_NS[rows, step] = stepped.gate
        trace.shares_NSM[rows, step] = shares_NM[rows]
        trace.times_NS[rows, step] = [s.event_time_s for s in segments]
    begun_N1 = np.array([[min(float(x.times_s[0]) for x in session.streams)] for session in trained.test])
    return Trace(trace.contexts_NSD, trace.gates_NS, trace.shares_NSM, trace.times_NS - begun_N1)


def _batch(
    model: StepModel, contexts: torch.Tensor, segments: list[Segment], elapsed: list[float], fresh: bool
) -> StepBatch:
    return StepBatch(
        contexts=contexts,
        fresh=np.full(len(segments), fresh),
        ranks=np.array([model.signature.rank(segment.modality) for segment in segments], np.int64),
        frames=[segment.frames for segment in segments],
        elapsed_s=np.array(elapsed, np.float32),
    )


def _shared(shares_NM: Values, ranks_N: npt.NDArray[np.int64], gate_N: Values) -> Values:
    """Every share is scaled by (1 - z), then the segment's own modality gains z."""
    next_NM = shares_NM * (1 - gate_N)[:, None]
    next_NM[np.arange(len(ranks_N)), ranks_N] += gate_N
    return next_NM
