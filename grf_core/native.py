"""GRF as the runtime drives it on a CPU: the folded form (`folded.py`) in one call of compiled code (`kernels/`).

The same function, up to rounding; and a row's bits do not depend on the rest of the batch. Where there is no compiled
code for this processor torch computes the folded form: `steps_here` says so, and why.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from ctypes import byref
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from grf_core.folding import fold
from grf_core.inference import signature_of
from grf_core.kernels.library import Batch, Kernels, KernelsMissing, load
from grf_core.kernels.weights import NativeModel, aligned
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.step import Float32Array, ModelSignature, StepBatch, StepResult

SWITCH = "GRF_KERNELS"
"""Set to `off`, this environment variable has torch compute every step."""
FRAMES_PER_THREAD = 256
"""Fewer are not worth waking another thread."""
CPU = torch.device("cpu")


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
        self._max_frames = np.array([modality.max_frames for modality in config.modalities])
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
        """ValueError for a batch that is not of this model: compiled code would read beyond it."""
        rows = len(batch.frames)
        lengths_B = np.fromiter(map(len, batch.frames), np.int64, rows)
        values = np.concatenate(batch.frames, axis=None)
        ranks_B = np.ascontiguousarray(batch.ranks, np.int64)
        sizes_B = lengths_B * self._widths[ranks_B]
        contexts = batch.contexts.contiguous()
        self._check(values, int(sizes_B.sum()), lengths_B, ranks_B, contexts)
        next_contexts = torch.empty_like(contexts)
        answers = np.empty((rows, self._signature.output_width + 1), np.float32)
        arrays = (lengths_B, ranks_B, _as(batch.fresh, np.bool_), _as(batch.elapsed_s, np.float32))
        whole = Batch(
            rows,
            *map(_address, arrays),
            _address(values),
            contexts.data_ptr(),
            next_contexts.data_ptr(),
            _address(answers),
        )
        shares = shares_of(lengths_B, torch.get_num_threads())
        if len(shares) == 2:
            self._run(whole)
        else:
            self._run_side_by_side([self._part(whole, sizes_B, *share) for share in pairwise(shares)])
        return StepResult(contexts=next_contexts, outputs=answers[:, :-1], gate=answers[:, -1])

    def _check(
        self,
        values: Float32Array,
        expected: int,
        lengths_B: npt.NDArray[np.int64],
        ranks_B: npt.NDArray[np.int64],
        contexts: torch.Tensor,
    ) -> None:
        shape = (len(lengths_B), *self._signature.context_shape)
        if contexts.shape != shape or contexts.dtype != torch.float32 or contexts.device != CPU:
            raise ValueError(f"contexts are {contexts.dtype} {tuple(contexts.shape)}, not float32 {shape} on the CPU")
        if values.dtype != np.float32 or values.size != expected:
            raise ValueError(f"{values.size} values of {values.dtype} in all segments, not {expected} of float32")
        if not lengths_B.all() or (lengths_B > self._max_frames[ranks_B]).any():
            raise ValueError("a segment is empty, or longer than its modality allows")

    def _part(self, whole: Batch, sizes_B: npt.NDArray[np.int64], start: int, stop: int) -> Batch:
        """Rows [start, stop) of a batch."""
        context_bytes = 4 * self._signature.context_shape[0] * self._signature.context_shape[1]
        return Batch(
            stop - start,
            whole.lengths + 8 * start,
            whole.ranks + 8 * start,
            whole.fresh + start,
            whole.elapsed_s + 4 * start,
            whole.frames + 4 * int(sizes_B[:start].sum()),
            whole.contexts + context_bytes * start,
            whole.next_contexts + context_bytes * start,
            whole.answers + 4 * (self._signature.output_width + 1) * start,
        )

    def _run_side_by_side(self, parts: Sequence[Batch]) -> None:
        if self._helpers is None:
            self._helpers = ThreadPoolExecutor(torch.get_num_threads(), "grf-step")
        others: list[Future[None]] = [self._helpers.submit(self._run, part) for part in parts[1:]]
        self._run(parts[0])
        for other in others:
            other.result()

    def _run(self, batch: Batch) -> None:
        scratch = getattr(self._of_thread, "scratch", None)
        if scratch is None:
            scratch = self._of_thread.scratch = aligned(self._scratch_floats)
        self._library.grf_step(byref(self._native.model), byref(batch), _address(scratch))


def shares_of(lengths_B: npt.NDArray[np.int64], threads: int) -> list[int]:
    """Where the rows of a batch are cut, so that every thread gets about as many frames: from 0 to B."""
    rows = len(lengths_B)
    if threads == 1:
        return [0, rows]
    frames_B = lengths_B.cumsum()
    shares = max(1, min(threads, int(frames_B[-1]) // FRAMES_PER_THREAD))
    cuts = np.searchsorted(frames_B, [int(frames_B[-1]) * share // shares for share in range(1, shares)])
    return sorted({0, *(int(cut) for cut in cuts), rows})


def _as(values: npt.NDArray[np.generic], kind: type[np.generic]) -> npt.NDArray[np.generic]:
    return np.ascontiguousarray(values, kind)


def _address(array: npt.NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])
