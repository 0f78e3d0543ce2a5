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

from grf_core.attention import Attention, over_slots
from grf_core.folded_weights import Affine, FeedForward, LoneSlot, Norm, SelfAttention, SlotsQuery
from grf_core.folding import fold
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
    layout: Layout
    attention: Attention
    memory_ND: Tensor
    """The embedded frames, with the bias of the first residual sum."""
    attended_ND: Tensor
    """After the self-attention of the first layer."""


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
        self._device, self._dtype, self._exact = device, dtype, torch.promote_types(dtype, torch.float32)
        self._n_heads, self._d_model, self._slots = config.n_heads, config.d_model, config.context_slots
        self._head_widths = [head.outputs for head in config.heads]
        self._keeps_enriched = config.carry == "enriched"
        self._weights = fold(model, normalisation, device, dtype)
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
        host = torch.cat([*self._answers(contexts_BKD), gate_B[:, None]], dim=1).cpu().numpy()
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
        first_layer = self._weights.frame_layers[0].attention
        one_rank = min(ranks) == max(ranks)
        for rows in buckets(lengths, self._most_frames, self._most_padding):
            if not one_rank:
                rows = sorted(rows, key=ranks.__getitem__)
            layout = Layout([lengths[row] for row in rows], self._device, self._dtype)
            attention = Attention(layout, self._n_heads, self._device, self._dtype)
            memory_ND = self._embed([frames[row] for row in rows], [ranks[row] for row in rows], layout)
            attended_ND = self._self_attend(memory_ND, first_layer, attention, in_place=False)
            is_whole_batch = isinstance(rows, range)
            yield PreparedBucket(rows, is_whole_batch, layout, attention, memory_ND, attended_ND)

    def _embed(self, frames: Sequence[Float32Array], ranks: Sequence[int], layout: Layout) -> Tensor:
        """[N, D]: normalised, projected, with positions; rows of one rank lie together."""
        host = np.concatenate([segment.reshape(-1) for segment in frames])
        values = torch.from_numpy(host).to(self._device, self._exact)
        x_ND = torch.empty(layout.frames, self._d_model, dtype=self._dtype, device=self._device)
        row = first_frame = first_value = 0
        while row < len(frames):
            rank, first_row = ranks[row], row
            row = bisect_right(ranks, rank)
            entry, count = self._weights.entries[rank], sum(map(len, frames[first_row:row]))
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
        weights = self._weights
        fresh_B = batch.fresh if bucket.is_whole_batch else batch.fresh[bucket.rows]
        memory_BTD = bucket.layout.dense(bucket.memory_ND)
        any_fresh = bool(fresh_B.any())
        if any_fresh:
            started_BKD = bucket.layout.mean(memory_BTD).to(self._exact)[:, None] + weights.start_KD
            if fresh_B.all():
                return started_BKD, started_BKD.new_ones(len(fresh_B))
        if weights.ageing_D is not None:
            elapsed_s_B = torch.tensor(batch.elapsed_s[bucket.rows], device=self._device)
            contexts_BKD = contexts_BKD * torch.exp(weights.ageing_D * elapsed_s_B[:, None, None])
        fused_BKD, gate_B = self._block(bucket, contexts_BKD, memory_BTD)
        if any_fresh:
            new_B = torch.tensor(fresh_B, device=self._device)
            fused_BKD = torch.where(new_B[:, None, None], started_BKD, fused_BKD)
            gate_B = gate_B.masked_fill(new_B, 1.0)
        return fused_BKD, gate_B

    def _block(self, bucket: PreparedBucket, contexts_BKD: Tensor, memory_BTD: Tensor) -> tuple[Tensor, Tensor]:
        weights, rows = self._weights, bucket.layout.rows
        h_MD = contexts_BKD.reshape(rows * self._slots, self._d_model).to(self._dtype)
        spread_MW = _apply(weights.spread, h_MD)
        enriched_MD = self._enrich(bucket, h_MD, spread_MW, memory_BTD).to(self._exact)
        modality_BD = self._contextualise(bucket, spread_MW).to(self._exact)
        both_M2D = torch.addmm(weights.gate_modality.bias, modality_BD, weights.gate_modality.weight)
        if self._slots > 1:
            both_M2D = both_M2D.repeat_interleave(self._slots, dim=0)
        gate_MD, candidate_MD = both_M2D.addmm_(enriched_MD, weights.gate_enriched).chunk(2, dim=1)
        gate_MD = gate_MD.sigmoid()
        kept_MD = enriched_MD if self._keeps_enriched else contexts_BKD.reshape(h_MD.shape)
        next_MD = _normalise(weights.gate_norm, torch.lerp(kept_MD, candidate_MD.tanh(), gate_MD))
        return next_MD.view(contexts_BKD.shape), gate_MD.view(rows, -1).mean(dim=1)

    def _enrich(self, bucket: PreparedBucket, h_MD: Tensor, spread_MW: Tensor, memory_BTD: Tensor) -> Tensor:
        """The context, having attended to the frames: [B * K, D]."""
        rows, s_MD = bucket.layout.rows, h_MD
        slots = None if self._slots == 1 else self._slots_attention(rows)
        for number, layer in enumerate(self._weights.context_layers):
            if isinstance(layer.attention, LoneSlot):
                first = number == 0
                s_MD = spread_MW[:, : self._d_model] if first else _apply(layer.attention.through, s_MD)
                s_MD = _normalise(layer.attention.norm, s_MD)
            elif slots is not None:
                s_MD = s_MD + layer.attention.shift_D if number == 0 else s_MD
                s_MD = self._self_attend(s_MD, layer.attention, slots)
            sought_BQD = _apply(layer.seek, s_MD).view(rows, -1, self._d_model)
            found_MW = bucket.attention.over_frames(sought_BQD, memory_BTD).view(s_MD.shape[0], -1)
            s_MD = _feed(layer.feed, _normalise(layer.norm, s_MD.addmm_(found_MW, layer.take)))
        return s_MD

    def _slots_attention(self, rows: int) -> Attention:
        layout = Layout([self._slots] * rows, self._device, self._dtype)
        return Attention(layout, self._n_heads, self._device, self._dtype)

    def _contextualise(self, bucket: PreparedBucket, spread_MW: Tensor) -> Tensor:
        """The frames, having attended to the context, and their mean: [B, D]."""
        x_ND, width = bucket.attended_ND, self._d_model
        for number, layer in enumerate(self._weights.frame_layers):
            if number:
                x_ND = self._self_attend(x_ND, layer.attention, bucket.attention)
            if layer.slots is None:
                row_BD = spread_MW[:, (number + 1) * width : (number + 2) * width]
                x_ND = bucket.layout.add_to_frames(x_ND, row_BD, in_place=number > 0)
            else:
                x_ND = self._look_at_slots(x_ND, layer.slots, spread_MW, number, bucket.layout)
            x_ND = _feed(layer.feed, _normalise(layer.norm, x_ND))
        return bucket.layout.mean(bucket.layout.dense(x_ND))

    def _look_at_slots(self, x_ND: Tensor, slots: SlotsQuery, spread_MW: Tensor, number: int, layout: Layout) -> Tensor:
        q_BTD = layout.dense(_apply(slots.query, x_ND))
        spread_BKW = spread_MW.view(layout.rows, self._slots, -1)
        k_BKD, v_BKD = spread_BKW[..., 2 * number * self._d_model : 2 * (number + 1) * self._d_model].chunk(2, dim=-1)
        return torch.addmm(x_ND, layout.packed(over_slots(q_BTD, k_BKD, v_BKD, self._n_heads)), slots.out)

    def _self_attend(self, x_ND: Tensor, layer: SelfAttention, attention: Attention, in_place: bool = True) -> Tensor:
        mixed_ND = attention.among_frames(_apply(layer.qkv, x_ND))
        summed_ND = x_ND.addmm_(mixed_ND, layer.out) if in_place else torch.addmm(x_ND, mixed_ND, layer.out)
        return _normalise(layer.norm, summed_ND)

    def _answers(self, contexts_BKD: Tensor) -> list[Tensor]:
        """Class probabilities, or values in the label's own unit, head by head."""
        context_BD = contexts_BKD.mean(dim=1) if self._slots > 1 else contexts_BKD[:, 0]
        values_BO = _apply(self._weights.head_values, _apply(self._weights.head_hidden, context_BD).relu_())
        parts = values_BO.split(self._head_widths, dim=1)
        return [
            own_BO.softmax(dim=-1) if head.kind == "classification" else own_BO
            for head, own_BO in zip(self._signature.heads, parts, strict=True)
        ]


def _apply(affine: Affine, x: Tensor) -> Tensor:
    return torch.addmm(affine.bias, x, affine.weight)


def _normalise(norm: Norm, x: Tensor) -> Tensor:
    return torch.layer_norm(x, norm.shape, norm.weight, norm.bias, norm.eps)


def _feed(feed: FeedForward, x_ND: Tensor) -> Tensor:
    hidden = torch.nn.functional.gelu(_apply(feed.widen, x_ND))
    return _normalise(feed.norm, x_ND.addmm_(hidden, feed.narrow))
