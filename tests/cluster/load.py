"""A reproducible load: what a publisher sends is a function of stream, session and sequence number alone.

So the settled state that has to come out is computed without the runtime: the segments in fusion order, one by one
through the model of the bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from grf_core.step import Float32Array, StepBatch, StepModel
from runtime.engine.order import FusionKey
from runtime.engine.session import NO_LINEAGE, extend_lineage

PERIOD_S = 0.1
"""event time between two segments of a stream"""
JITTER_S = 0.15
"""of event times: neighbours of a stream, and segments of different streams, change places"""
WIDTH = 3


@dataclass(frozen=True, slots=True)
class Made:
    stream: str
    rank: int
    sequence: int
    event_time_s: float
    frames: Float32Array


def make(session: str, stream: str, rank: int, sequence: int, jitter_s: float = JITTER_S) -> Made:
    rng = np.random.default_rng(crc32(f"{session}|{stream}|{sequence}".encode()))
    event_time_s = float(sequence * PERIOD_S + rng.uniform(-jitter_s, jitter_s))
    frames = rng.normal(size=(int(rng.integers(1, 8)), WIDTH)).astype(np.float32)
    return Made(stream, rank, sequence, event_time_s, frames)


@dataclass(frozen=True, slots=True)
class Expected:
    version: int
    lineage: str
    context_KD: Float32Array


def expected(
    model: StepModel, session: str, streams: Sequence[tuple[str, int]], count: int, jitter_s: float = JITTER_S
) -> Expected:
    """What has to be settled once every stream, (name, rank), has sent `count` segments."""
    numbers = range(1, count + 1)
    made = [make(session, stream, rank, number, jitter_s) for stream, rank in streams for number in numbers]
    made.sort(key=_key)
    lineage = NO_LINEAGE
    for segment in made:
        lineage = extend_lineage(lineage, _key(segment))
    *_, context = _contexts(model, made)
    return Expected(len(made), lineage.hex(), context)


def _key(segment: Made) -> FusionKey:
    return FusionKey(segment.event_time_s, segment.rank, segment.stream, segment.sequence)


def _contexts(model: StepModel, segments: Iterable[Made]) -> Iterator[Float32Array]:
    import torch

    context = torch.zeros((1, *model.signature.context_shape))
    last_s: float | None = None
    for segment in segments:
        elapsed_s = 0.0 if last_s is None else segment.event_time_s - last_s
        batch = StepBatch(
            contexts=context,
            fresh=np.array([last_s is None]),
            ranks=np.array([segment.rank]),
            frames=[segment.frames],
            elapsed_s=np.array([elapsed_s], dtype=np.float32),
        )
        context = model.step(batch).contexts
        last_s = segment.event_time_s
        yield context[0].numpy()
