"""A tiny recurrent fusion model: order-sensitive, batch-exact to rounding, and quick."""

from __future__ import annotations

import numpy as np
import torch

from grf_core.step import HeadSignature, ModalitySignature, ModelSignature, StepBatch, StepResult

D = 4
SIGNATURE = ModelSignature(
    name="toy",
    digest="toy-1",
    modalities=(ModalitySignature("audio", 3, 8), ModalitySignature("imu", 2, 8), ModalitySignature("text", 2, 4)),
    heads=(HeadSignature("mood", "classification", 0, 2, ("calm", "loud")), HeadSignature("speed", "regression", 2, 3)),
    context_shape=(1, D),
)
POISON = 1e9
"""a value that makes the toy model raise; minus POISON makes it return NaN"""


class ToyModel:
    signature = SIGNATURE
    device = torch.device("cpu")

    def __init__(self, digest: str = "toy-1") -> None:
        self.signature = ModelSignature("toy", digest, SIGNATURE.modalities, SIGNATURE.heads, SIGNATURE.context_shape)
        rng = np.random.default_rng(7)
        self._recurrent = rng.normal(size=(D, D)).astype(np.float32)
        self._inputs = [rng.normal(size=(m.width, D)).astype(np.float32) for m in SIGNATURE.modalities]
        self.batches: list[int] = []

    def step(self, batch: StepBatch) -> StepResult:
        self.batches.append(len(batch.frames))
        drive = np.stack(
            [frames.mean(axis=0) @ self._inputs[rank] for frames, rank in zip(batch.frames, batch.ranks, strict=True)]
        )
        if any((frames == POISON).any() for frames in batch.frames):
            raise RuntimeError("poisoned segment")
        previous = batch.contexts.numpy()[:, 0] * np.exp(-batch.elapsed_s)[:, None]
        gate = np.where(batch.fresh, np.float32(1), 1 / (1 + np.exp(-drive.mean(axis=1)))).astype(np.float32)
        candidate = np.tanh(previous @ self._recurrent + drive)
        context = np.where(
            batch.fresh[:, None], np.tanh(drive), (1 - gate[:, None]) * previous + gate[:, None] * candidate
        )
        for row, frames in enumerate(batch.frames):
            if (frames == -POISON).any():
                context[row] = np.nan
        outputs = np.concatenate([np.abs(context[:, :2]), context[:, 2:3]], axis=1).astype(np.float32)
        return StepResult(torch.from_numpy(context[:, None].astype(np.float32)), outputs, gate)
