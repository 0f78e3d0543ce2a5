"""What a worker does once before it serves, so that no segment has to wait for it later."""

from __future__ import annotations

import gc
import sys

import numpy as np
import torch

from grf_core.step import Float32Array, ModelSignature, StepBatch, StepModel
from runtime.engine.stepper import check_shape

SWITCH_S = 0.00005
"""how long the store's thread may keep the loop from running: each operation of the model may have to wait so long for
the interpreter's lock, and computed by torch a step has about 60 of them; Python's own 5 ms are longer than a step"""
COLLECT_AFTER = (2_000, 500, 100)
"""objects allocated and not freed before the youngest are collected (1.5 ms); how often that happens before the next
generation is, and the oldest. With Python's own 700, 10, 10 a flood has everything that waits walked through every
second, 50 ms each time. Nothing in the path of a segment makes cycles: collections are for what is rare"""
ROWS = (1, 64)


def warm_up(model: StepModel) -> None:
    """Let the model choose its kernels and allocate its buffers: the first step of a kind takes many times as long.

    Raises ValueError for a model that answers in another shape than its signature says: it would refuse everything.
    """
    for rows in ROWS:
        for rank, modality in enumerate(model.signature.modalities):
            frames = np.zeros((min(8, modality.max_frames), modality.width), np.float32)
            result = model.step(_batch(model.signature, model.device, rows, rank, frames))
            check_shape(result, model.signature, rows)


def quieten_interpreter() -> None:
    """Short turns of the threads; and what is loaded by now (torch, Ray: nearly all objects) is collected no more.

    A full collection that walks through it takes 150 to 200 ms on a small machine, in which every session waits.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(*COLLECT_AFTER)
    gc.collect()
    gc.freeze()


def _batch(signature: ModelSignature, device: torch.device, rows: int, rank: int, frames: Float32Array) -> StepBatch:
    return StepBatch(
        contexts=torch.zeros(rows, *signature.context_shape, device=device),
        fresh=np.zeros(rows, bool),
        ranks=np.full(rows, rank, np.int64),
        frames=[frames] * rows,
        elapsed_s=np.zeros(rows, np.float32),
    )
