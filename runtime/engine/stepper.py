"""One micro-batch through the model and back into the slab. A segment that breaks its step fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np
import numpy.typing as npt
import torch

from grf_core.step import NO_SLOT, ModelSignature, RowStep, StepBatch, StepModel, StepResult, StepRows, next_shares
from runtime.engine.slab import IntArray, Slab

NO_SEGMENTS_FAULT: tuple[type[BaseException], ...] = (
    MemoryError,
    torch.OutOfMemoryError,
    getattr(torch, "AcceleratorError", torch.OutOfMemoryError),  # since torch 2.8
)
ROUNDING = 1e-5
BoolArray = npt.NDArray[np.bool_]


def run_steps(model: StepModel, slab: Slab, steps: Sequence[RowStep]) -> list[str]:
    """Run all steps in one batch; return for each the reason why it failed, "" where it did not.

    The out slot of a failed step holds nothing. What is no segment's fault, running out of memory or a broken device,
    is raised.
    """
    step_rows: StepRows | None = getattr(model, "step_rows", None)
    try:
        if step_rows is not None:
            return _faults(step_rows(steps, slab.contexts, slab.host).tolist())
        return _run_batch(model, slab, steps)
    except NO_SEGMENTS_FAULT:
        raise
    except Exception as error:  # whatever a model raises, only the segment that caused it may suffer
        if len(steps) == 1:
            return [f"{type(error).__name__}: {error}"]
        half = len(steps) // 2  # a few halvings find the one, where trying each alone would stall everyone
        return run_steps(model, slab, steps[:half]) + run_steps(model, slab, steps[half:])


def _run_batch(model: StepModel, slab: Slab, steps: Sequence[RowStep]) -> list[str]:
    in_slots = np.array([step.in_slot for step in steps], dtype=np.int64)
    batch = _batch(slab, steps, in_slots)
    result = model.step(batch)
    check_shape(result, model.signature, len(steps))
    shares = next_shares(slab.shares[in_slots], batch.fresh, batch.ranks, result.gate)
    slab.scatter([step.out_slot for step in steps], result.contexts, result.outputs, shares, result.gate)
    faults = _faults(_finite_rows(result))
    gate = np.asarray(result.gate)
    for row in np.flatnonzero(np.abs(gate - 0.5) > 0.5 + ROUNDING):
        faults[row] = faults[row] or f"the step gave a gate of {gate[row]:g}, which is not from 0 to 1"
    return faults


def _faults(finite: list[bool]) -> list[str]:
    return ["" if good else "the step gave values that are not finite" for good in finite]


def _batch(slab: Slab, steps: Sequence[RowStep], in_slots: IntArray) -> StepBatch:
    fresh = in_slots == NO_SLOT
    return StepBatch(
        contexts=slab.gather(np.where(fresh, 0, in_slots)),
        fresh=fresh,
        ranks=np.array([step.rank for step in steps], dtype=np.int64),
        frames=[step.frames for step in steps],
        elapsed_s=np.array([step.elapsed_s for step in steps], dtype=np.float32),
    )


def check_shape(result: StepResult, signature: ModelSignature, rows: int) -> None:
    """Raises ValueError for a model that does not give what its signature says."""
    expected = (rows, *signature.context_shape)
    if tuple(result.contexts.shape) != expected:
        raise ValueError(f"the model returned contexts {tuple(result.contexts.shape)} for {expected}")
    if result.outputs.shape != (rows, signature.output_width) or result.gate.shape != (rows,):
        raise ValueError(f"the model returned outputs {result.outputs.shape}, gate {result.gate.shape} for {rows} rows")


def _finite_rows(result: StepResult) -> list[bool]:
    """[B]: which rows hold no NaN and no infinity."""
    contexts = result.contexts.cpu().numpy().reshape(len(result.gate), -1)
    parts = contexts, result.outputs, result.gate[:, None]
    if all(isfinite(np.vdot(part, part)) for part in parts):  # as good as always
        return [True] * len(contexts)
    return [all(good) for good in zip(*[np.isfinite(part).all(axis=1) for part in parts], strict=True)]
