"""GRF as the runtime drives it on a CPU: the folded form (`folded.py`) in one call of compiled code (`kernels/`).

The same function, up to rounding; and a row's bits do not depend on the rest of the batch. Where there is no compiled
code for this processor torch computes the folded form: `steps_here` says so, and why.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, sizeof
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from grf_core.folding import fold
from grf_core.inference import signature_of
from grf_core.kernels.library import BUILT_FOR, Batch, Kernels, KernelsMissing, Row, load
from grf_core.kernels.weights import NativeModel, aligned
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.step import NO_SLOT, Float32Array, ModelSignature, RowStep, StepBatch, StepResult

SWITCH = "GRF_KERNELS"
"""Set to `off`, this environment variable has torch compute every step."""
FRAMES_PER_THREAD = 256
"""Fewer are not worth waking another thread."""
KEPT_ROWS = 256
"""Larger batches, which take long, get memory of their own."""
CPU = torch.device("cpu")
BoolArray = npt.NDArray[np.bool_]


@cache
def kernels_here() -> Kernels:
    """What this processor runs. KernelsMissing says why torch has to do it."""
    if os.environ.get(SWITCH) == "off":
        raise KernelsMissing(f"{SWITCH}=off")
    return load(best_instruction_set())


def best_instruction_set() -> str:
    """Of those that this processor has; or what torch calls it, if it has none of ours."""
    is_arm = BUILT_FOR.get(platform.machine()) == ("NEON",)
    return "NEON" if is_arm else torch.backends.cpu.get_cpu_capability()


def steps_here() -> str:
    """How a CPU of this machine computes the steps of a bundle, in words."""
    try:
        return f"kernels for {kernels_here().instruction_set}"
    except KernelsMissing as missing:
        return f"torch, without kernels: {missing}"


class _Kept:
    """Memory that is used again for every batch that fits in it: its address is known, and its pages are there."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._array = np.empty(KEPT_ROWS, dtype)
        self._address = _address(self._array)

    def rows(self, count: int) -> tuple[npt.NDArray[Any], int]:
        """So many rows, uninitialised, and their address; of a larger batch they are its own."""
        if count <= len(self._array):
            return self._array[:count], self._address
        larger = np.empty(count, self._array.dtype)
        return larger, _address(larger)


class _Workplace:
    """What a thread needs for a step."""

    def __init__(self, scratch_floats: int) -> None:
        self.scratch = aligned(scratch_floats)
        self.scratch_address = _address(self.scratch)
        self.batch = Batch()
        self.table_B = _Kept(np.dtype(Row))
        self.finite_B = _Kept(np.dtype(np.bool_))


class _Places(NamedTuple):
    """Where contexts are read and written, and what is known of them."""

    contexts: int
    next_contexts: int
    answers: int
    n_contexts: int
    n_shares: int


class _Slab(NamedTuple):
    """Contexts and what is known of them, as `StepRows` has them, found to fit; and their addresses."""

    contexts: torch.Tensor
    host: Float32Array
    places: _Places


class NativeStepModel:
    """A `grf_core.step.StepModel`, in float32 on the CPU. It keeps no state between calls, but memory to work in."""

    def __init__(self, model: GRF, normalisation: Normalisation, name: str, digest: str, kernels: Kernels) -> None:
        config = model.config
        self._signature = signature_of(config, name, digest)
        weights = fold(model, normalisation, CPU, torch.float32)
        self._native = NativeModel(weights, config, self._signature.heads, kernels)
        self._library = kernels.library
        self._read_rows = kernels.read_rows
        self._scratch_floats = int(self._library.grf_scratch_floats(byref(self._native.model)))
        self._of_thread = threading.local()
        self._slab: _Slab | None = None
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
        if len(batch.elapsed_s) != len(batch.frames):
            raise ValueError(f"{len(batch.elapsed_s)} times for {len(batch.frames)} segments")
        next_contexts = torch.empty_like(contexts)
        answers = np.empty((len(batch.frames), self._signature.output_width + 1), np.float32)
        of_rows = zip(batch.fresh.tolist(), batch.ranks.tolist(), batch.frames, batch.elapsed_s.tolist(), strict=True)
        steps = [RowStep(NO_SLOT if fresh else row, row, *rest) for row, (fresh, *rest) in enumerate(of_rows)]
        places = _Places(contexts.data_ptr(), next_contexts.data_ptr(), _address(answers), len(answers), 0)
        self._fuse(steps, places)
        return StepResult(contexts=next_contexts, outputs=answers[:, :-1], gate=answers[:, -1])

    def step_rows(self, steps: Sequence[RowStep], contexts: torch.Tensor, host: Float32Array) -> BoolArray:
        """See `StepRows`. ValueError for steps that are not of this model."""
        slab = self._slab
        if slab is None or slab.contexts is not contexts or slab.host is not host:
            slab = self._slab = self._found_to_fit(contexts, host)
        return self._fuse(list(steps), slab.places)

    def _found_to_fit(self, contexts: torch.Tensor, host: Float32Array) -> _Slab:
        outputs, modalities = self._signature.output_width, len(self._signature.modalities)
        width = outputs + modalities + 1
        if host.shape[1] != width or host.dtype != np.float32 or not host.flags.c_contiguous:
            raise ValueError(f"what is known of rows is {host.dtype} {host.shape}, not float32 (., {width})")
        if self._checked(contexts, len(host)) is not contexts:
            raise ValueError("the contexts of a slab must be in one piece")
        address = contexts.data_ptr()
        return _Slab(contexts, host, _Places(address, address, _address(host), len(host), modalities))

    def _checked(self, contexts: torch.Tensor, rows: int) -> torch.Tensor:
        shape = (rows, *self._signature.context_shape)
        if contexts.shape != shape or contexts.dtype != torch.float32 or contexts.device != CPU:
            raise ValueError(f"contexts are {contexts.dtype} {tuple(contexts.shape)}, not float32 {shape} on the CPU")
        return contexts.contiguous()

    def _workplace(self) -> _Workplace:
        place: _Workplace | None = getattr(self._of_thread, "workplace", None)
        if place is None:
            place = self._of_thread.workplace = _Workplace(self._scratch_floats)
        return place

    def _fuse(self, steps: list[RowStep], places: _Places) -> BoolArray:
        """Returns [B]: is all of the new row finite?"""
        work = self._workplace()
        whole = work.batch
        rows_B, whole.rows = work.table_B.rows(len(steps))
        finite_B, whole.finite = work.finite_B.rows(len(steps))
        try:
            self._read_rows(steps, whole.rows)
        except ValueError:  # slices of something wider, perhaps
            steps = [step._replace(frames=_in_one_piece(step.frames)) for step in steps]
            self._read_rows(steps, whole.rows)
        whole.count = len(steps)
        whole.contexts, whole.next_contexts, whole.answers, whole.n_contexts, whole.n_shares = places
        threads = torch.get_num_threads()
        fits = self._run(whole) if threads == 1 else self._run_side_by_side(whole, rows_B["length"], threads)
        if not fits:
            raise ValueError("segments of other shapes than this model takes, or rows that are not there")
        return finite_B.copy()

    def _run_side_by_side(self, whole: Batch, lengths_B: npt.NDArray[np.int64], threads: int) -> bool:
        parts = [_part(whole, start, stop) for start, stop in pairwise(shares_of(lengths_B, threads))]
        if self._helpers is None:
            self._helpers = ThreadPoolExecutor(threads, "grf-step")
        others = [self._helpers.submit(self._run, part) for part in parts[1:]]
        return all([self._run(parts[0]), *(other.result() for other in others)])

    def _run(self, batch: Batch) -> bool:
        """False if the batch does not fit the model; then nothing has been read or written."""
        refused: int = self._library.grf_step(
            byref(self._native.model), byref(batch), self._workplace().scratch_address
        )
        return not refused


def _in_one_piece(frames: Float32Array) -> Float32Array:
    if frames.dtype != np.float32:
        raise ValueError(f"frames are {frames.dtype}, not float32")
    return np.ascontiguousarray(frames)


def _part(whole: Batch, start: int, stop: int) -> Batch:
    """Rows [start, stop) of a batch."""
    return Batch(
        count=stop - start,
        rows=whole.rows + sizeof(Row) * start,
        contexts=whole.contexts,
        next_contexts=whole.next_contexts,
        answers=whole.answers,
        n_contexts=whole.n_contexts,
        n_shares=whole.n_shares,
        finite=whole.finite + start,
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
