"""GRF as the runtime drives it on a GPU: the folded form in fixed shapes, each of them recorded as one CUDA graph.

Launched one by one, the 130 small operations of a step take five times as long as their arithmetic. A graph is launched
at once, but has one shape for ever: rows and frames are rounded up to one of a few shapes, all recorded when the model
is loaded. A batch is then one copy to the device, one launch between reading and writing its rows, one copy back, and
one wait.

Elsewhere (the tests, without a GPU) the same shapes are computed one operation after another.

Shapes: R rows and T frames of a recorded shape, B rows of a batch, F feature width, K context slots, D model width,
O the widths of all heads together, N = R * T.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grf_core.folded_block import FoldedBlock
from grf_core.folded_weights import Entry
from grf_core.inference import signature_of
from grf_core.layout import Layout
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.step import NO_SLOT, Float32Array, ModelSignature, RowStep, StepBatch, StepResult, next_shares

MOST_ROWS = 256
"""of one launch; more are several"""
MOST_FRAMES = 1 << 16
"""rows times frames of a shape: this bounds its intermediates"""
MOST_VALUES = 1 << 23
"""of the frames of a shape, as wide as the widest are: 32 MiB, and twice that for where they lie"""
LENGTHS = 4
"""so many lengths to round up to, evenly spread up to that of the longest segment the model takes"""
TILE = 8
"""lengths of shapes are a multiple of this, for the sake of attention's kernels"""
READ, WRITTEN, FRESH, RANK, LENGTH, START = range(6)
"""the columns of a batch's table: row to read, row to write, starts it?, rank, frames, where its values begin"""
NOBODY = (0, 0, 1, 0, 1, 0)
"""a row of the shape that no segment of the batch needs: it starts a context, which is dropped"""

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Step = Callable[["_Shape"], tuple[Tensor, Tensor]]


class Grid(Layout):
    """Rows of one length in memory, of which the device alone knows how much is frames and how much padding."""

    def __init__(self, lengths_R: Tensor, longest: int, dtype: torch.dtype) -> None:
        super().__init__([longest] * len(lengths_R), lengths_R.device, dtype)
        self.equal = False
        self._valid_BT = torch.arange(longest, device=lengths_R.device) < lengths_R[:, None]
        self._lengths_B1 = lengths_R[:, None].to(dtype)
        self._counted_B1T = self._valid_BT[:, None].to(dtype)

    def dense(self, x_NW: Tensor) -> Tensor:
        return x_NW.view(self.rows, self.longest, -1)

    def packed(self, x_BTW: Tensor) -> Tensor:
        return x_BTW.view(self.frames, -1)

    def add_to_frames(self, x_ND: Tensor, row_BD: Tensor, in_place: bool) -> Tensor:
        x_BTD, row_B1D = self.dense(x_ND), row_BD[:, None]
        return (x_BTD.add_(row_B1D) if in_place else x_BTD + row_B1D).view(x_ND.shape)


class _Shape:
    """The step of R rows of T frames: where its inputs lie in the buffer that is sent, its outputs, and its graph."""

    def __init__(self, rows: int, frames: int, sent: Tensor, contexts_RKD: Tensor) -> None:
        self.rows, self.frames = rows, frames
        table_floats = 2 * len(NOBODY) * rows  # integers of 64 bits
        self._table_floats, self.head_floats = table_floats, table_floats + rows
        self.table = sent[:table_floats].view(torch.int64).view(len(NOBODY), rows)
        self.elapsed_s_R = sent[table_floats : self.head_floats]
        self.values = sent[self.head_floats :]
        self.contexts_RKD = contexts_RKD[:rows]
        self.next_RKD = self.answers_R = contexts_RKD  # until it has been computed
        self._graph: torch.cuda.CUDAGraph | None = None

    def fill(self, host: Float32Array, table_6B: IntArray, elapsed_s_B: Float32Array) -> None:
        """Put all of a batch but its values in the host's side of the buffer."""
        table_6R, used = host[: self._table_floats].view(np.int64).reshape(len(NOBODY), self.rows), table_6B.shape[1]
        table_6R[:, :used] = table_6B
        table_6R[:, used:] = np.array(NOBODY)[:, None]
        elapsed_s_R = host[self._table_floats : self.head_floats]
        elapsed_s_R[:used] = elapsed_s_B
        elapsed_s_R[used:] = 0.0

    def run(self, step: Step) -> None:
        if self._graph is None:
            self.next_RKD, self.answers_R = step(self)
        else:
            self._graph.replay()

    def record(self, step: Step, pool: Any) -> None:
        """In torch's memory `pool`, on a stream other than the default one. It is computed there once before, so that
        libraries set themselves up."""
        self.run(step)
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=pool)
        self.run(step)
        graph.capture_end()
        self._graph = graph


class GraphedStepModel:
    """A `grf_core.step.StepModel`. Not for several threads at once: its buffers hold the step under way."""

    def __init__(self, model: GRF, normalisation: Normalisation, name: str, digest: str, device: torch.device) -> None:
        self._signature, self._device = signature_of(model.config, name, digest), device
        self._block = FoldedBlock(model, normalisation, self._signature.heads, device, torch.float32)
        self._widths = np.array([modality.width for modality in self._signature.modalities])
        self._longest = np.array([modality.max_frames for modality in self._signature.modalities])
        self._entries = [
            _lengthened(entry, _rounded(int(self._longest.max()))) for entry in self._block.weights.entries
        ]
        widest = int(self._widths.max())
        on_gpu, sizes = device.type == "cuda", list(shapes_of(int(self._longest.max()), widest))
        floats = max((2 * len(NOBODY) + 1 + frames * widest) * rows for rows, frames in sizes)
        self._host = torch.zeros(floats, pin_memory=on_gpu)
        self._sent = torch.zeros(floats, device=device)
        contexts_RKD = torch.zeros(MOST_ROWS, *self._signature.context_shape, device=device)
        self._answers = torch.zeros(MOST_ROWS, self._signature.output_width + 2, pin_memory=on_gpu)
        self._shapes = [_Shape(rows, frames, self._sent, contexts_RKD) for rows, frames in sizes]
        if on_gpu:
            self._record()

    @property
    def signature(self) -> ModelSignature:
        return self._signature

    @property
    def device(self) -> torch.device:
        return self._device

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> StepResult:
        """ValueError for a batch that is not of this model."""
        rows = np.arange(len(batch.frames))
        table = np.array([rows, rows, batch.fresh, batch.ranks, list(map(len, batch.frames)), np.zeros_like(rows)])
        next_contexts = torch.empty_like(batch.contexts)
        known = self._fuse(table, batch.frames, batch.elapsed_s, batch.contexts, next_contexts)
        outputs = self._signature.output_width
        return StepResult(contexts=next_contexts, outputs=known[:, :outputs], gate=known[:, outputs])

    @torch.inference_mode()
    def step_rows(self, steps: Sequence[RowStep], contexts: Tensor, host: Float32Array) -> BoolArray:
        """See `StepRows`. ValueError for steps that are not of this model."""
        rows = [
            (step.in_slot, step.out_slot, step.in_slot == NO_SLOT, step.rank, len(step.frames), 0) for step in steps
        ]
        table = np.array(rows, np.int64).T
        fresh_B, ranks_B, outputs = table[FRESH].astype(np.bool_), table[RANK], self._signature.output_width
        elapsed_s = np.array([step.elapsed_s for step in steps], np.float32)
        known = self._fuse(table, [step.frames for step in steps], elapsed_s, contexts, contexts)
        shares = next_shares(host[table[READ], outputs:-1], fresh_B, ranks_B, known[:, outputs])
        host[table[WRITTEN]] = np.concatenate((known[:, :outputs], shares, known[:, outputs, None]), axis=1)
        return np.asarray(np.isfinite(known).all(axis=1))

    # ---- a batch ----

    def _fuse(
        self,
        table_6B: IntArray,
        frames: Sequence[Float32Array],
        elapsed_s_B: Float32Array,
        contexts: Tensor,
        next_contexts: Tensor,
    ) -> Float32Array:
        """[B, O + 2]: outputs, gate, and a last column that is 0 where all of the context is finite, else no number."""
        self._check(table_6B, frames, elapsed_s_B, contexts)
        table_6B[READ][table_6B[FRESH] == 1] = 0
        shape = self._shape_for(len(frames), int(table_6B[LENGTH].max()))
        known = np.empty((len(frames), self._answers.shape[1]), np.float32)
        with _current(self._device):
            for first in range(0, len(frames), shape.rows):
                rows = slice(first, first + shape.rows)
                known[rows] = self._launch(
                    shape, table_6B[:, rows], frames[rows], elapsed_s_B[rows], contexts, next_contexts
                )
        return known

    def _launch(
        self,
        shape: _Shape,
        table_6B: IntArray,
        frames: Sequence[Float32Array],
        elapsed_s_B: Float32Array,
        contexts: Tensor,
        next_contexts: Tensor,
    ) -> Float32Array:
        used = len(frames)  # rows of the shape
        sizes_B = table_6B[LENGTH] * self._widths[table_6B[RANK]]
        table_6B[START] = sizes_B.cumsum() - sizes_B
        host, floats = self._host.numpy(), shape.head_floats + int(sizes_B.sum())
        shape.fill(host, table_6B, elapsed_s_B)
        np.concatenate(frames, axis=None, out=host[shape.head_floats : floats], casting="no")
        self._sent[:floats].copy_(self._host[:floats], non_blocking=True)
        torch.index_select(contexts, 0, shape.table[READ, :used], out=shape.contexts_RKD[:used])
        shape.run(self._step)
        next_contexts.index_copy_(0, shape.table[WRITTEN, :used], shape.next_RKD[:used])
        answers = self._answers[:used].copy_(shape.answers_R[:used], non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        return answers.numpy()

    def _check(
        self, table_6B: IntArray, frames: Sequence[Float32Array], elapsed_s_B: Float32Array, contexts: Tensor
    ) -> None:
        ranks_B, lengths_B = table_6B[RANK], table_6B[LENGTH]
        if contexts.shape[1:] != self._signature.context_shape or contexts.dtype != torch.float32:
            raise ValueError(
                f"contexts are {contexts.dtype} {tuple(contexts.shape)}, not float32 as the model has them"
            )
        if len(elapsed_s_B) != len(frames):
            raise ValueError(f"{len(elapsed_s_B)} times for {len(frames)} segments")
        if ranks_B.min() < 0 or ranks_B.max() >= len(self._widths) or (lengths_B > self._longest[ranks_B]).any():
            raise ValueError("segments of other shapes than this model takes")
        for segment, width in zip(frames, self._widths[ranks_B].tolist(), strict=True):
            if segment.ndim != 2 or segment.shape[1] != width or not len(segment) or segment.dtype != np.float32:
                raise ValueError(f"frames are {segment.dtype} {segment.shape}, not float32 (T, {width})")

    def _shape_for(self, rows: int, longest: int) -> _Shape:
        """The smallest that holds so many rows; of those that hold the longest segment, if none does, the largest."""
        frames = next(shape.frames for shape in self._shapes if shape.frames >= longest)
        shortest = [shape for shape in self._shapes if shape.frames == frames]
        return next((shape for shape in shortest if shape.rows >= rows), shortest[-1])

    # ---- a shape ----

    def _record(self) -> None:
        """The largest first: the others' intermediates lie where its own do."""
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.stream(torch.cuda.Stream())
        with torch.inference_mode(), _current(self._device), stream, _nothing_collected():
            for shape in reversed(self._shapes):
                shape.fill(self._host.numpy(), np.empty((len(NOBODY), 0), np.int64), np.empty(0, np.float32))
                self._sent[: shape.head_floats].copy_(self._host[: shape.head_floats])
                shape.record(self._step, pool)
            torch.cuda.current_stream().synchronize()

    def _step(self, shape: _Shape) -> tuple[Tensor, Tensor]:
        """The next contexts [R, K, D], and [R, O + 2] of what `_fuse` answers."""
        block, fresh_R = self._block, shape.table[FRESH] == 1
        grid = Grid(shape.table[LENGTH], shape.frames, block.dtype)
        prepared = block.prepared(grid, self._embed(shape))
        started_RKD = block.started(prepared)
        fused_RKD, gate_R = block.fuse(prepared, block.faded(shape.contexts_RKD, shape.elapsed_s_R))
        next_RKD = torch.where(fresh_R[:, None, None], started_RKD, fused_RKD)
        gate_R1 = gate_R.masked_fill(fresh_R, 1.0)[:, None]
        zero_if_finite_R1 = (0.0 * next_RKD).sum(dim=(1, 2))[:, None]
        return next_RKD, torch.cat([block.answers(next_RKD), gate_R1, zero_if_finite_R1], dim=1)

    def _embed(self, shape: _Shape) -> Tensor:
        """[N, D]: normalised, projected, with positions."""
        rank_R, length_R = shape.table[RANK], shape.table[LENGTH]
        place_T = torch.arange(shape.frames, device=self._device)
        is_frame_RT = place_T < length_R[:, None]
        x_RTD = torch.zeros(shape.rows, shape.frames, self._block.d_model, device=self._device)
        for rank, entry in enumerate(self._entries):
            width = len(entry.mean_F)
            own_RT1 = ((rank_R == rank)[:, None] & is_frame_RT)[:, :, None]
            start_RT1 = (shape.table[START][:, None] + place_T * width)[:, :, None]
            index_RTF = start_RT1 + torch.arange(width, device=self._device)
            frames_RTF = shape.values[torch.where(own_RT1, index_RTF, 0)]
            frames_RTF = (frames_RTF - entry.mean_F).clamp_(entry.nearest_F, entry.farthest_F)
            embedded_RTD = torch.matmul(frames_RTF, entry.weight_FD) + entry.table_TD[: shape.frames]
            x_RTD = torch.where(own_RT1, embedded_RTD, x_RTD)
        return x_RTD.view(shape.rows * shape.frames, -1)


def shapes_of(longest: int, widest: int) -> Iterator[tuple[int, int]]:
    """(rows, frames) of all shapes, shortest first, of each length with fewest rows first."""
    for frames in sorted({_rounded(-(-longest * part // LENGTHS)) for part in range(1, LENGTHS + 1)}):
        most = min(MOST_ROWS, MOST_FRAMES // frames, MOST_VALUES // (frames * widest))
        rows = 1
        while rows <= max(most, 1):
            yield rows, frames
            rows *= 2


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """No cyclic garbage is left, or collected: a graph of another model, destroyed while one is recorded, spoils it."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Launches go to the stream of the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _rounded(frames: int) -> int:
    return -(-frames // TILE) * TILE


def _lengthened(entry: Entry, frames: int) -> Entry:
    """With a table of so many positions: those behind the longest segment are padding's."""
    missing = frames - len(entry.table_TD)
    table_TD = torch.nn.functional.pad(entry.table_TD, (0, 0, 0, missing))
    return Entry(entry.mean_F, entry.nearest_F, entry.farthest_F, entry.weight_FD, table_TD)
