"""GRF as the runtime drives it on a CPU: the folded form (`folded.py`) in one call of compiled code (`kernels/`).

The same function, up to rounding; and a row's bits do not depend on the rest of the batch. Where there is no compiled
code for this processor torch computes the folded form: `steps_here` says so, and why.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from grf_core.folding import fold
from grf_core.inference import signature_of
from grf_core.kernels.library import Batch, Kernels, KernelsMissing, load
from grf_core.kernels.weights import NativeModel, aligned
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.step import NO_SLOT, Float32Array, ModelSignature, RowStep, StepBatch, StepResult

SWITCH = "GRF_KERNELS"
"""Set to `off`, this environment variable has torch compute every step."""
FRAMES_PER_THREAD = 256
"""Fewer are not worth waking another thread."""
CPU = torch.device("cpu")
BoolArray = npt.NDArray[np.bool_]


@cache
def kernels_here() -> Kernels:
    """What this processor runs. KernelsMissing says why torch has to do it."""
    if os.environ.get(SWITCH) == "off":
        raise KernelsMissing(f"{SWITCH}=off")
    return load(torch.backends.cpu.get_cpu_capability())


def steps_here() -> str:
    """How a CPU of this machine computes the steps of a bundle, in words."""
    try:
        return f"kernels for {kernels_here().instruction_set}"
    except KernelsMissing as missing:
        return f"torch, without kernels: {missing}"


class NativeStepModel:
    """A `grf_core.step.StepModel`, in float32 on the CPU. It keeps no state between calls, but scratch memory."""

    def __init__(self, model: GRF, normalisation: Normalisation, name: str, digest: str, kernels: Kernels) -> None:
        config = model.config
        self._signature = signature_of(config, name, digest)
        weights = fold(model, normalisation, CPU, torch.float32)
        self._native = NativeModel(weights, config, self._signature.heads, kernels)
        self._library = kernels.library
        self._widths = np.array([modality.width for modality in config.modalities])
        self._scratch_floats = int(self._library.grf_scratch_floats(byref(self._native.model)))
        self._of_thread = threading.local()
        self._helpers: ThreadPoolExecutor | None = None

    @property
    def signature(self) -> ModelSignature:
        return self._signature

    @property
    def device(self) -> torch.device:
        return CPU

    def step(self, batch: StepBatch) -> StepResult:
        """ValueError for a batch that is not of this model."""
        contexts = self._checked(batch.contexts, len(batch.frames))
        next_contexts = torch.empty_like(contexts)
        answers = np.empty((len(batch.frames), self._signature.output_width + 1), np.float32)
        of_rows = zip(batch.fresh.tolist(), batch.ranks.tolist(), map(len, batch.frames), strict=True)
        table = [(NO_SLOT if fresh else row, row, rank, length) for row, (fresh, rank, length) in enumerate(of_rows)]
        elapsed_s = np.ascontiguousarray(batch.elapsed_s, np.float32)
        self._fuse(table, batch.frames, elapsed_s, (contexts, next_contexts, answers))
        return StepResult(contexts=next_contexts, outputs=answers[:, :-1], gate=answers[:, -1])

    def step_rows(self, steps: Sequence[RowStep], contexts: torch.Tensor, host: Float32Array) -> BoolArray:
        """See `StepRows`. ValueError for steps that are not of this model."""
        table = [(step.in_slot, step.out_slot, step.rank, len(step.frames)) for step in steps]
        elapsed_s = np.array([step.elapsed_s for step in steps], np.float32)
        finite = np.empty(len(steps), np.bool_)
        width = self._signature.output_width + len(self._widths) + 1
        if host.shape[1] != width or host.dtype != np.float32 or not host.flags.c_contiguous:
            raise ValueError(f"what is known of rows is {host.dtype} {host.shape}, not float32 (., {width})")
        if self._checked(contexts, len(host)) is not contexts:
            raise ValueError("the contexts of a slab must be in one piece")
        self._fuse(table, [step.frames for step in steps], elapsed_s, (contexts, contexts, host), finite)
        return finite

    def _checked(self, contexts: torch.Tensor, rows: int) -> torch.Tensor:
        shape = (rows, *self._signature.context_shape)
        if contexts.shape != shape or contexts.dtype != torch.float32 or contexts.device != CPU:
            raise ValueError(f"contexts are {contexts.dtype} {tuple(contexts.shape)}, not float32 {shape} on the CPU")
        return contexts.contiguous()

    def _fuse(
        self,
        table: Sequence[tuple[int, int, int, int]],
        frames: Sequence[Float32Array],
        elapsed_s_B: Float32Array,
        rows: tuple[torch.Tensor, torch.Tensor, Float32Array],
        finite_B: BoolArray | None = None,
    ) -> None:
        """`table`: row to read, row to write, rank, length. `rows`: contexts to read, to write, and their answers."""
        table_B4 = np.array(table, np.int64)
        values = np.concatenate(frames, axis=None)
        contexts, next_contexts, answers = rows
        if values.dtype != np.float32:
            raise ValueError(f"frames are {values.dtype}, not float32")
        if len(elapsed_s_B) != len(table):
            raise ValueError(f"{len(elapsed_s_B)} times for {len(table)} segments")
        whole = Batch(
            count=len(table),
            rows=_address(table_B4),
            elapsed_s=_address(elapsed_s_B),
            frames=_address(values),
            n_values=values.size,
            contexts=contexts.data_ptr(),
            next_contexts=next_contexts.data_ptr(),
            answers=_address(answers),
            n_contexts=len(answers),
            n_shares=answers.shape[1] - self._signature.output_width - 1,
            finite=None if finite_B is None else _address(finite_B),
        )
        threads = torch.get_num_threads()
        fits = self._run(whole) if threads == 1 else self._run_side_by_side(whole, table_B4, threads)
        if not fits:
            raise ValueError("segments of other shapes than this model takes, or rows that are not there")

    def _run_side_by_side(self, whole: Batch, table_B4: npt.NDArray[np.int64], threads: int) -> bool:
        lengths_B = table_B4[:, 3]
        values_upto_B = np.concatenate([[0], (lengths_B * self._widths.take(table_B4[:, 2], mode="clip")).cumsum()])
        if values_upto_B[-1] != whole.n_values:
            return False
        shares = pairwise(shares_of(lengths_B, threads))
        parts = [_part(whole, start, stop, values_upto_B.tolist()) for start, stop in shares]
        if self._helpers is None:
            self._helpers = ThreadPoolExecutor(threads, "grf-step")
        others = [self._helpers.submit(self._run, part) for part in parts[1:]]
        return all([self._run(parts[0]), *(other.result() for other in others)])

    def _run(self, batch: Batch) -> bool:
        """False if the batch does not fit the model; then nothing has been read or written."""
        scratch = getattr(self._of_thread, "scratch", None)
        if scratch is None:
            scratch = self._of_thread.scratch = aligned(self._scratch_floats)
        refused: int = self._library.grf_step(byref(self._native.model), byref(batch), _address(scratch))
        return not refused


def _part(whole: Batch, start: int, stop: int, values_upto: Sequence[int]) -> Batch:
    """Rows [start, stop) of a batch."""
    first, last = values_upto[start], values_upto[stop]
    return Batch(
        count=stop - start,
        rows=whole.rows + 4 * 8 * start,
        elapsed_s=whole.elapsed_s + 4 * start,
        frames=whole.frames + 4 * first,
        n_values=last - first,
        contexts=whole.contexts,
        next_contexts=whole.next_contexts,
        answers=whole.answers,
        n_contexts=whole.n_contexts,
        n_shares=whole.n_shares,
        finite=None if whole.finite is None else whole.finite + start,
    )


def shares_of(lengths_B: npt.NDArray[np.int64], threads: int) -> list[int]:
    """Where the rows of a batch are cut, so that every thread gets about as many frames: from 0 to B."""
    rows = len(lengths_B)
    if threads == 1:
        return [0, rows]
    frames_B = lengths_B.cumsum()
    shares = max(1, min(threads, int(frames_B[-1]) // FRAMES_PER_THREAD))
    cuts = np.searchsorted(frames_B, [int(frames_B[-1]) * share // shares for share in range(1, shares)])
    return sorted({0, *(int(cut) for cut in cuts), rows})


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
