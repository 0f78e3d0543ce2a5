"""The fusion block of GRF in folded form: what a step computes once its frames are embedded, whatever their layout.

`folded.py` drives it over buckets of a batch, `graphed.py` in fixed shapes. `folding.py` says what has been multiplied
out beforehand.

Shapes: B rows (segments of a layout), T frames of the longest, N frames in the layout, K context slots, D model width,
M = B * K, O the widths of all heads together, Q queries of a context, W the width of `spread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grf_core.attention import Attention, over_slots
from grf_core.folded_weights import Affine, FeedForward, LoneSlot, Norm, SelfAttention, SlotsQuery
from grf_core.folding import fold
from grf_core.layout import Layout
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.step import HeadSignature


@dataclass(frozen=True, slots=True)
class Prepared:
    """All of a step that does not depend on contexts."""

    layout: Layout
    attention: Attention
    memory_ND: Tensor
    """The embedded frames, with the bias of the first residual sum."""
    attended_ND: Tensor
    """After the self-attention of the first layer."""


class FoldedBlock:
    def __init__(
        self,
        model: GRF,
        normalisation: Normalisation,
        heads: Sequence[HeadSignature],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        config = model.config
        self.device, self.dtype, self.exact = device, dtype, torch.promote_types(dtype, torch.float32)
        self.d_model = config.d_model
        self.weights = fold(model, normalisation, device, dtype)
        self._n_heads, self._slots = config.n_heads, config.context_slots
        self._heads = heads
        self._keeps_enriched = config.carry == "enriched"

    @property
    def ages(self) -> bool:
        return self.weights.ageing_D is not None

    def prepared(self, layout: Layout, memory_ND: Tensor) -> Prepared:
        attention = Attention(layout, self._n_heads, self.device, self.dtype)
        attended_ND = self._self_attend(memory_ND, self.weights.frame_layers[0].attention, attention, in_place=False)
        return Prepared(layout, attention, memory_ND, attended_ND)

    def started(self, prepared: Prepared) -> Tensor:
        """[B, K, D]: the contexts of sessions that begin with these segments."""
        layout = prepared.layout
        return layout.mean(layout.dense(prepared.memory_ND)).to(self.exact)[:, None] + self.weights.start_KD

    def faded(self, contexts_BKD: Tensor, elapsed_s_B: Tensor) -> Tensor:
        """[B, K, D]: contexts as they are after so many seconds."""
        if self.weights.ageing_D is None:
            return contexts_BKD
        return contexts_BKD * torch.exp(self.weights.ageing_D * elapsed_s_B[:, None, None])

    def fuse(self, prepared: Prepared, contexts_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """The next contexts [B, K, D], and the mean gate [B]."""
        weights, rows = self.weights, prepared.layout.rows
        memory_BTD = prepared.layout.dense(prepared.memory_ND)
        h_MD = contexts_BKD.reshape(rows * self._slots, self.d_model).to(self.dtype)
        spread_MW = _apply(weights.spread, h_MD)
        enriched_MD = self._enrich(prepared, h_MD, spread_MW, memory_BTD).to(self.exact)
        modality_BD = self._contextualise(prepared, spread_MW).to(self.exact)
        both_M2D = torch.addmm(weights.gate_modality.bias, modality_BD, weights.gate_modality.weight)
        if self._slots > 1:
            both_M2D = both_M2D.repeat_interleave(self._slots, dim=0)
        gate_MD, candidate_MD = both_M2D.addmm_(enriched_MD, weights.gate_enriched).chunk(2, dim=1)
        gate_MD = gate_MD.sigmoid()
        kept_MD = enriched_MD if self._keeps_enriched else contexts_BKD.reshape(h_MD.shape)
        next_MD = _normalise(weights.gate_norm, torch.lerp(kept_MD, candidate_MD.tanh(), gate_MD))
        return next_MD.view(contexts_BKD.shape), gate_MD.view(rows, -1).mean(dim=1)

    def _enrich(self, prepared: Prepared, h_MD: Tensor, spread_MW: Tensor, memory_BTD: Tensor) -> Tensor:
        """The context, having attended to the frames: [B * K, D]."""
        rows, s_MD = prepared.layout.rows, h_MD
        slots = None if self._slots == 1 else self._slots_attention(rows)
        for number, layer in enumerate(self.weights.context_layers):
            if isinstance(layer.attention, LoneSlot):
                first = number == 0
                s_MD = spread_MW[:, : self.d_model] if first else _apply(layer.attention.through, s_MD)
                s_MD = _normalise(layer.attention.norm, s_MD)
            elif slots is not None:
                s_MD = s_MD + layer.attention.shift_D if number == 0 else s_MD
                s_MD = self._self_attend(s_MD, layer.attention, slots)
            sought_BQD = _apply(layer.seek, s_MD).view(rows, -1, self.d_model)
            found_MW = prepared.attention.over_frames(sought_BQD, memory_BTD).view(s_MD.shape[0], -1)
            s_MD = _feed(layer.feed, _normalise(layer.norm, s_MD.addmm_(found_MW, layer.take)))
        return s_MD

    def _slots_attention(self, rows: int) -> Attention:
        layout = Layout([self._slots] * rows, self.device, self.dtype)
        return Attention(layout, self._n_heads, self.device, self.dtype)

    def _contextualise(self, prepared: Prepared, spread_MW: Tensor) -> Tensor:
        """The frames, having attended to the context, and their mean: [B, D]."""
        x_ND, width = prepared.attended_ND, self.d_model
        for number, layer in enumerate(self.weights.frame_layers):
            if number:
                x_ND = self._self_attend(x_ND, layer.attention, prepared.attention)
            if layer.slots is None:
                row_BD = spread_MW[:, (number + 1) * width : (number + 2) * width]
                x_ND = prepared.layout.add_to_frames(x_ND, row_BD, in_place=number > 0)
            else:
                x_ND = self._look_at_slots(x_ND, layer.slots, spread_MW, number, prepared.layout)
            x_ND = _feed(layer.feed, _normalise(layer.norm, x_ND))
        return prepared.layout.mean(prepared.layout.dense(x_ND))

    def _look_at_slots(self, x_ND: Tensor, slots: SlotsQuery, spread_MW: Tensor, number: int, layout: Layout) -> Tensor:
        q_BTD = layout.dense(_apply(slots.query, x_ND))
        spread_BKW = spread_MW.view(layout.rows, self._slots, -1)
        k_BKD, v_BKD = spread_BKW[..., 2 * number * self.d_model : 2 * (number + 1) * self.d_model].chunk(2, dim=-1)
        return torch.addmm(x_ND, layout.packed(over_slots(q_BTD, k_BKD, v_BKD, self._n_heads)), slots.out)

    def _self_attend(self, x_ND: Tensor, layer: SelfAttention, attention: Attention, in_place: bool = True) -> Tensor:
        mixed_ND = attention.among_frames(_apply(layer.qkv, x_ND))
        summed_ND = x_ND.addmm_(mixed_ND, layer.out) if in_place else torch.addmm(x_ND, mixed_ND, layer.out)
        return _normalise(layer.norm, summed_ND)

    def answers(self, contexts_BKD: Tensor) -> Tensor:
        """[B, O]: class probabilities, or values in the label's own unit, head by head."""
        context_BD = contexts_BKD.mean(dim=1) if self._slots > 1 else contexts_BKD[:, 0]
        values_BO = _apply(self.weights.head_values, _apply(self.weights.head_hidden, context_BD).relu_())
        parts = values_BO.split([head.stop - head.start for head in self._heads], dim=1)
        return torch.cat(
            [
                own_BO.softmax(dim=-1) if head.kind == "classification" else own_BO
                for head, own_BO in zip(self._heads, parts, strict=True)
            ],
            dim=1,
        )


def _apply(affine: Affine, x: Tensor) -> Tensor:
    return torch.addmm(affine.bias, x, affine.weight)


def _normalise(norm: Norm, x: Tensor) -> Tensor:
    return torch.layer_norm(x, norm.shape, norm.weight, norm.bias, norm.eps)


def _feed(feed: FeedForward, x_ND: Tensor) -> Tensor:
    hidden = torch.nn.functional.gelu(_apply(feed.widen, x_ND))
    return _normalise(feed.norm, x_ND.addmm_(hidden, feed.narrow))
