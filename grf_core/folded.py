"""GRF as the runtime drives it, folded: the function of `model.py` with less to compute, exact up to rounding.

A batch is cut into buckets of nearly equal length, small enough for the processor's cache; a bucket goes through the
whole step before the next is touched. `folding.py` says what has been multiplied out beforehand.

Shapes: B segments in the batch or bucket, T frames of the longest, N packed frames of all segments, F feature width,
K context slots, D model width, H attention heads, O the widths of all heads together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grf_core.folded_block import FoldedBlock, Prepared
from grf_core.inference import signature_of
from grf_core.layout import Layout, buckets
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.step import Float32Array, ModelSignature, StepBatch, StepResult

IntArray = npt.NDArray[np.int64]

BUCKET_BYTES = 5 << 18
"""Of a bucket's widest intermediate: what two cores keep in their second-level caches."""
FEWEST_FRAMES = 256
"""A bucket may have so many however wide the model is: weights too have to be read."""
MOST_PADDING = 20_000
"""Attention scores of one head, of one layer: computing so many takes about as long as starting another bucket."""


@dataclass(frozen=True, slots=True)
class PreparedBucket:
    """All of a step that does not depend on contexts, for some rows of a batch."""

    rows: Sequence[int]
    """B rows of the batch, those of one modality together."""
    is_whole_batch: bool
    """Then `rows` is 0, 1, 2, ..."""
    prepared: Prepared


class FoldedStepModel:
    """A `grf_core.step.StepModel`. It keeps no state between calls."""

    def __init__(
        self,
        model: GRF,
        normalisation: Normalisation,
        name: str,
        digest: str,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        config = model.config
        self._signature = signature_of(config, name, digest)
        self._device, self._dtype = device, dtype
        self._block = FoldedBlock(model, normalisation, self._signature.heads, device, dtype)
        self._entries = self._block.weights.entries
        on_cpu = device.type == "cpu"
        widest_bytes = 4 * max(config.d_ffn, 3 * config.d_model)
        self._most_frames = max(FEWEST_FRAMES, BUCKET_BYTES // widest_bytes) if on_cpu else 1 << 16
        self._most_padding = MOST_PADDING if on_cpu else 1 << 22

    @property
    def signature(self) -> ModelSignature:
        return self._signature

    @property
    def device(self) -> torch.device:
        return self._device

    @torch.inference_mode()
    def prepare(self, frames: Sequence[Float32Array], ranks: IntArray) -> list[PreparedBucket]:
        """What `step` does first, ahead of it: this needs no contexts."""
        return list(self._prepared(frames, ranks))

    @torch.inference_mode()
    def step(self, batch: StepBatch, prepared: Sequence[PreparedBucket] | None = None) -> StepResult:
        """`prepared`, if given, was made of the very frames and ranks of the batch; it can be used again."""
        made = self._prepared(batch.frames, batch.ranks) if prepared is None else iter(prepared)
        bucket = next(made)
        if bucket.is_whole_batch:
            contexts_BKD, gate_B = self._fuse(bucket, batch, batch.contexts)
        else:
            contexts_BKD, gate_B = self._fuse_each(chain([bucket], made), batch)
        host = torch.cat([self._block.answers(contexts_BKD), gate_B[:, None]], dim=1).cpu().numpy()
        return StepResult(contexts=contexts_BKD, outputs=host[:, :-1], gate=host[:, -1])

    def _fuse_each(self, prepared: Iterable[PreparedBucket], batch: StepBatch) -> tuple[Tensor, Tensor]:
        contexts_BKD = torch.empty_like(batch.contexts)
        gate_B = batch.contexts.new_empty(len(batch.frames))
        for bucket in prepared:
            here_B = torch.tensor(bucket.rows, device=self._device)
            fused_BKD, mean_gate_B = self._fuse(bucket, batch, batch.contexts.index_select(0, here_B))
            contexts_BKD.index_copy_(0, here_B, fused_BKD)
            gate_B.index_copy_(0, here_B, mean_gate_B)
        return contexts_BKD, gate_B

    # ---- without the context ----

    def _prepared(self, frames: Sequence[Float32Array], ranks_B: IntArray) -> Iterator[PreparedBucket]:
        """One bucket at a time, in an order of rows that puts each modality's together."""
        lengths, ranks = list(map(len, frames)), ranks_B.tolist()
        one_rank = min(ranks) == max(ranks)
        for rows in buckets(lengths, self._most_frames, self._most_padding):
            if not one_rank:
                rows = sorted(rows, key=ranks.__getitem__)
            layout = Layout([lengths[row] for row in rows], self._device, self._dtype)
            memory_ND = self._embed([frames[row] for row in rows], [ranks[row] for row in rows], layout)
            yield PreparedBucket(rows, isinstance(rows, range), self._block.prepared(layout, memory_ND))

    def _embed(self, frames: Sequence[Float32Array], ranks: Sequence[int], layout: Layout) -> Tensor:
        """[N, D]: normalised, projected, with positions; rows of one rank lie together."""
        host = np.concatenate([segment.reshape(-1) for segment in frames])
        values = torch.from_numpy(host).to(self._device, self._block.exact)
        x_ND = torch.empty(layout.frames, self._block.d_model, dtype=self._dtype, device=self._device)
        row = first_frame = first_value = 0
        while row < len(frames):
            rank, first_row = ranks[row], row
            row = bisect_right(ranks, rank)
            entry, count = self._entries[rank], sum(map(len, frames[first_row:row]))
            width = frames[first_row].shape[1]
            frames_NF = values[first_value : first_value + count * width].view(count, width)
            frames_NF.sub_(entry.mean_F).clamp_(entry.nearest_F, entry.farthest_F)
            own_ND = x_ND[first_frame : first_frame + count]
            layout.place_positions(entry.table_TD, first_frame, own_ND)
            own_ND.addmm_(frames_NF.to(self._dtype), entry.weight_FD)
            first_frame, first_value = first_frame + count, first_value + count * width
        return x_ND

    # ---- with it ----

    def _fuse(self, bucket: PreparedBucket, batch: StepBatch, contexts_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """The next contexts [B, K, D], and the mean gate [B]."""
        fresh_B = batch.fresh if bucket.is_whole_batch else batch.fresh[bucket.rows]
        any_fresh = bool(fresh_B.any())
        if any_fresh:
            started_BKD = self._block.started(bucket.prepared)
            if fresh_B.all():
                return started_BKD, started_BKD.new_ones(len(fresh_B))
        if self._block.ages:
            elapsed_s_B = torch.tensor(batch.elapsed_s[bucket.rows], device=self._device)
            contexts_BKD = self._block.faded(contexts_BKD, elapsed_s_B)
        fused_BKD, gate_B = self._block.fuse(bucket.prepared, contexts_BKD)
        if any_fresh:
            new_B = torch.tensor(fresh_B, device=self._device)
            fused_BKD = torch.where(new_B[:, None, None], started_BKD, fused_BKD)
            gate_B = gate_B.masked_fill(new_B, 1.0)
        return fused_BKD, gate_B
