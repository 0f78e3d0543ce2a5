"""The truth the engine is held to: segments fused one by one, in fusion order, by the same model."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch

from grf_core.step import StepBatch, StepModel
from runtime.engine.order import FusionKey
from runtime.messages import Float32Array

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Fused:
    """A segment in fusion order, as the offline model takes it."""

    key: FusionKey
    frames: Float32Array


@dataclass(frozen=True, slots=True)
class OfflineState:
    version: int
    event_time_s: float
    lineage: bytes
    context_KD: Float32Array | None
    outputs: Float32Array
    shares: Float32Array
    gate: float


class OfflineModel:
    """Fuses a session's segments one after another; remembers the states of the segments it fused last."""

    def __init__(self, model: StepModel) -> None:
        self._model = model
        widths = model.signature.output_width, len(model.signature.modalities)
        self._empty = OfflineState(
            0, 0.0, b"\0" * 16, None, np.zeros(widths[0], np.float32), np.zeros(widths[1], np.float32), 0.0
        )
        self._keys: list[FusionKey] = []
        self._states: list[OfflineState] = []

    def states(self, segments: Sequence[Fused]) -> list[OfflineState]:
        """The state after each of these segments, which are in fusion order."""
        same = 0
        for known, segment in zip(self._keys, segments, strict=False):
            if known != segment.key:
                break
            same += 1
        del self._keys[same:], self._states[same:]
        for segment in segments[same:]:
            self._keys.append(segment.key)
            self._states.append(self._step(self._states[-1] if self._states else self._empty, segment))
        return list(self._states)

    def after(self, segments: Sequence[Fused]) -> OfflineState:
        return self.states(segments)[-1] if segments else self._empty

    def _step(self, state: OfflineState, segment: Fused) -> OfflineState:
        key, fresh, context = segment.key, state.context_KD is None, state.context_KD
        if context is None:
            context = np.zeros(self._model.signature.context_shape, np.float32)
        elapsed_s = 0.0 if fresh else key.event_time_s - state.event_time_s
        assert elapsed_s >= 0
        batch = StepBatch(
            contexts=torch.from_numpy(context[None].copy()),
            fresh=np.array([fresh]),
            ranks=np.array([key.rank]),
            frames=[segment.frames],
            elapsed_s=np.array([elapsed_s], np.float32),
        )
        result = self._model.step(batch)
        gate = 1.0 if fresh else float(result.gate[0])
        shares = state.shares * np.float32(1 - gate)
        shares[key.rank] += gate
        packed = struct.pack("<dqq", key.event_time_s, key.rank, key.sequence) + key.stream.encode()
        lineage = blake2b(state.lineage + packed, digest_size=16).digest()
        outputs = result.outputs[0]
        return OfflineState(
            state.version + 1, key.event_time_s, lineage, result.contexts[0].numpy(), outputs, shares, gate
        )


def assert_close(actual: object, expected: object, what: str) -> None:
    difference = np.max(np.abs(np.asarray(actual) - np.asarray(expected)), initial=0.0)
    assert difference <= TOLERANCE, f"{what}: differs by {difference}\n{actual}\n{expected}"
