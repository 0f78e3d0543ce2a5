"""Folded weights as the compiled step reads them: rows padded to whole registers, matrices packed into panels."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from grf_core import folded_weights as folded
from grf_core.config import GRFConfig
from grf_core.kernels import library as native
from grf_core.kernels.library import Kernels
from grf_core.step import HeadSignature

FloatArray = npt.NDArray[np.float32]

ALIGNED_BYTES = 64


class NativeModel:
    """A model for the compiled step, and the memory that it points to."""

    def __init__(
        self, weights: folded.FoldedWeights, config: GRFConfig, heads: Sequence[HeadSignature], kernels: Kernels
    ) -> None:
        self._kernels = kernels
        self._kept: list[object] = []
        entries = [self._entry(entry, config.modalities[rank].width) for rank, entry in enumerate(weights.entries)]
        outputs = [native.Head(head.start, head.stop, head.kind == "classification") for head in heads]
        self.model = native.Model(
            d_model=config.d_model,
            slots=config.context_slots,
            heads=config.n_heads,
            layers=config.n_layers,
            keeps_enriched=config.carry == "enriched",
            n_entries=len(entries),
            n_outputs=max(head.stop for head in heads),
            entries=self._array(native.Entry, entries),
            start=self._rows(weights.start_KD),
            ageing=None if weights.ageing_D is None else self._rows(weights.ageing_D),
            spread=self._affine(weights.spread),
            context_layers=self._array(native.ContextLayer, list(map(self._context_layer, weights.context_layers))),
            frame_layers=self._array(native.FrameLayer, list(map(self._frame_layer, weights.frame_layers))),
            gate_enriched=self._product(weights.gate_enriched),
            gate_modality=self._affine(weights.gate_modality),
            gate_norm=self._norm(weights.gate_norm),
            head_hidden=self._affine(weights.head_hidden),
            head_values=self._affine(weights.head_values),
            outputs=self._array(native.Head, [*outputs, native.Head(0, 0, 0)]),
        )

    def _entry(self, entry: folded.Entry, width: int) -> native.Entry:
        return native.Entry(
            mean=self._rows(entry.mean_F),
            nearest=self._rows(entry.nearest_F),
            farthest=self._rows(entry.farthest_F),
            weight=self._product(entry.weight_FD),
            table=self._rows(entry.table_TD),
            width=width,
            max_frames=len(entry.table_TD),
        )

    def _context_layer(self, layer: folded.ContextLayer) -> native.ContextLayer:
        made = native.ContextLayer(
            seek=self._affine(layer.seek),
            take=self._product(layer.take),
            norm=self._norm(layer.norm),
            feed=self._feed(layer.feed),
        )
        if isinstance(layer.attention, folded.LoneSlot):
            made.through = self._affine(layer.attention.through)
            made.through_norm = self._norm(layer.attention.norm)
        else:
            made.attention = self._self_attention(layer.attention)
        return made

    def _frame_layer(self, layer: folded.FrameLayer) -> native.FrameLayer:
        made = native.FrameLayer(
            attention=self._self_attention(layer.attention), norm=self._norm(layer.norm), feed=self._feed(layer.feed)
        )
        if layer.slots is not None:
            made.slots_query, made.slots_out = self._affine(layer.slots.query), self._product(layer.slots.out)
        return made

    def _self_attention(self, layer: folded.SelfAttention) -> native.SelfAttention:
        return native.SelfAttention(
            self._rows(layer.shift_D), self._affine(layer.qkv), self._product(layer.out), self._norm(layer.norm)
        )

    def _feed(self, feed: folded.FeedForward) -> native.FeedForward:
        return native.FeedForward(self._affine(feed.widen), self._product(feed.narrow), self._norm(feed.norm))

    def _norm(self, norm: folded.Norm) -> native.Norm:
        return native.Norm(self._rows(norm.weight), self._rows(norm.bias), norm.shape[0], norm.eps)

    def _affine(self, affine: folded.Affine) -> native.Affine:
        product = self._product(affine.weight)
        product.bias = self._rows(affine.bias)
        return product

    def _product(self, weight: Tensor) -> native.Affine:
        """Without a bias: it is added to what is there."""
        return native.Affine(
            self._address(packed(_values(weight), self._kernels.panel)), None, weight.shape[0], weight.shape[1]
        )

    def _rows(self, rows: Tensor) -> int:
        """[..., width] padded with zeros to whole registers."""
        values = _values(rows)
        missing = -values.shape[-1] % self._kernels.lanes
        return self._address(np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)]))

    def _array(self, kind: type[ctypes.Structure], items: Sequence[ctypes.Structure]) -> object:
        self._kept.append(array := (kind * len(items))(*items))
        return array

    def _address(self, values: FloatArray) -> int:
        self._kept.append(kept := aligned(values.size))
        kept[:] = values.reshape(-1)
        return int(kept.ctypes.data)


def packed(weight: FloatArray, panel: int) -> FloatArray:
    """[depth, width] as [panels, depth, panel], with zeros at the end of the last."""
    depth, width = weight.shape
    panels = -(-width // panel)
    whole = np.pad(weight, [(0, 0), (0, panels * panel - width)])
    return np.ascontiguousarray(whole.reshape(depth, panels, panel).transpose(1, 0, 2))


def aligned(floats: int) -> FloatArray:
    """Uninitialised memory that begins with a line of the cache."""
    memory = np.empty(4 * floats + ALIGNED_BYTES, np.uint8)
    first = -memory.ctypes.data % ALIGNED_BYTES
    return memory[first : first + 4 * floats].view(np.float32)


def _values(tensor: Tensor) -> FloatArray:
    values: FloatArray = tensor.detach().numpy()
    return values
