"""Attention for inference among the frames of one bucket, and from its contexts to its frames.

Shapes: B segments, T frames of the longest, S = T and padding to a full vector of the processor, N packed frames,
Q queries of a context, D model width, H attention heads, d = D / H.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from grf_core.layout import Layout

SCORED_FRAMES = (4, 48)
SCORED_ROWS = 8
"""On a CPU, for so many rows of such lengths, products over all heads at once take 0.6 to 0.9 of the time of torch's
attention. Elsewhere torch's is faster; and it never holds all scores of a long segment."""


class Attention:
    """For the segments of one layout. It holds room for all layers' heads, so it is of one step, not of the model."""

    def __init__(self, layout: Layout, n_heads: int, device: torch.device, dtype: torch.dtype) -> None:
        self._layout, self._n_heads = layout, n_heads
        fewest, most = SCORED_FRAMES
        self._scored = device.type == "cpu" and fewest <= layout.longest <= most and layout.rows >= SCORED_ROWS
        self._full = layout.full if self._scored else layout.longest
        self._mask = layout.mask(self._full, dtype, device)
        self._heads: Tensor | None = None
        if self._mask is None:
            self._score_mask = None
        else:
            self._score_mask = self._mask if layout.equal else self._mask.repeat_interleave(n_heads, dim=0)

    def among_frames(self, qkv_N3D: Tensor) -> Tensor:
        """[N, D]: each frame's attention over the frames of its own segment; queries come scaled."""
        layout = self._layout
        dense = layout.dense(qkv_N3D).view(layout.rows, layout.longest, 3, self._n_heads, -1)
        heads_3BHTd = dense.permute(2, 0, 3, 1, 4)
        if self._scored:
            mixed_BHTd = self._score(heads_3BHTd)
        else:
            q_BHTd, k_BHTd, v_BHTd = heads_3BHTd.unbind(0)
            mask = None if self._mask is None else self._mask[:, None]
            mixed_BHTd = functional.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, attn_mask=mask, scale=1.0)
        return layout.packed(mixed_BHTd.transpose(1, 2).reshape(layout.rows, layout.longest, -1))

    def _score(self, heads_3BHTd: Tensor) -> Tensor:
        _, rows, heads, frames, width = heads_3BHTd.shape
        if self._heads is None:
            self._heads = heads_3BHTd.new_zeros(3, rows, heads, self._full, width)
        self._heads[:, :, :, :frames].copy_(heads_3BHTd)
        q, k, v = self._heads.view(3, rows * heads, self._full, width).unbind(0)
        scores = _scores(self._score_mask, q[:, :frames], k)
        return torch.bmm(scores.softmax(dim=-1), v).view(rows, heads, frames, width)

    def over_frames(self, sought_BQD: Tensor, memory_BTD: Tensor) -> Tensor:
        """[B, Q, D]: for each query the mean of the frames of its segment, weighted by softmax."""
        mask = None if self._mask is None or self._layout.equal else self._mask[..., : self._layout.longest]
        return torch.bmm(_scores(mask, sought_BQD, memory_BTD).softmax(dim=-1), memory_BTD)


def over_slots(q_BTD: Tensor, k_BKD: Tensor, v_BKD: Tensor, n_heads: int) -> Tensor:
    """[B, T, D]: each frame's attention over the slots of the context; queries come scaled."""
    q, k, v = (part.unflatten(2, (n_heads, -1)).transpose(1, 2) for part in (q_BTD, k_BKD, v_BKD))
    return functional.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2)


def _scores(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    key = key.transpose(1, 2)
    return torch.bmm(query, key) if mask is None else torch.baddbmm(mask, query, key)
