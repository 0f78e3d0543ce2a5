"""What the folded form of GRF computes with, made by `folding.py`. Weights lie as [in, out], as `addmm` takes them.

Shapes: F feature width, T frames, K context slots, D model width, H attention heads, O the widths of all heads
together.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Affine:
    """x @ weight + bias"""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Norm:
    shape: tuple[int]
    """(D,)"""
    weight: Tensor
    bias: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class LoneSlot:
    """The self-attention of a single token: x -> norm(through(x)), the residual included."""

    through: Affine
    norm: Norm


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """x -> norm(x + attention(x)). `x` comes in with the bias of the sum already added."""

    shift_D: Tensor
    """That bias."""
    qkv: Affine
    """[D, 3D], queries scaled"""
    out: Tensor
    """[D, D]"""
    norm: Norm


@dataclass(frozen=True, slots=True)
class FeedForward:
    """x -> norm(x + feed(x)). `x` comes in with the bias of the sum already added."""

    widen: Affine
    narrow: Tensor
    norm: Norm


@dataclass(frozen=True, slots=True)
class ContextLayer:
    """One layer of the decoder in which the context attends to the frames."""

    attention: LoneSlot | SelfAttention
    seek: Affine
    """[D, H * D]: what each head of a slot looks for among the embedded frames"""
    take: Tensor
    """[H * D, D]: what it makes of its weighted mean of the embedded frames"""
    norm: Norm
    feed: FeedForward


@dataclass(frozen=True, slots=True)
class SlotsQuery:
    """Frames that attend to several slots; keys and values are in `spread`."""

    query: Affine
    """[D, D], scaled"""
    out: Tensor
    """[D, D]"""


@dataclass(frozen=True, slots=True)
class FrameLayer:
    """One layer of the decoder in which the frames attend to the context."""

    attention: SelfAttention
    slots: SlotsQuery | None
    """None for one slot, from which each frame gets the same vector."""
    norm: Norm
    feed: FeedForward


@dataclass(frozen=True, slots=True)
class Entry:
    """How the frames of one modality come in."""

    mean_F: Tensor
    nearest_F: Tensor
    farthest_F: Tensor
    """Frames, their mean subtracted, are clipped to this range."""
    weight_FD: Tensor
    table_TD: Tensor
    """Positions, the bias, and the bias of the first residual sum."""


@dataclass(frozen=True, slots=True)
class FoldedWeights:
    """In the dtype of the step, but for statistics, gate and heads, which are float32 at least."""

    entries: tuple[Entry, ...]
    start_KD: Tensor
    """Added to the mean of the embedded frames to start a context."""
    ageing_D: Tensor | None
    """The logarithm of the fading per second."""
    spread: Affine
    """[D, .]: all that is linear in the context itself. K = 1: `through` of the first context layer, then for each
    frame layer the vector its frames get. K > 1: for each frame layer the keys and the values, D each."""
    context_layers: tuple[ContextLayer, ...]
    frame_layers: tuple[FrameLayer, ...]
    gate_enriched: Tensor
    """[D, 2D]: gate, then candidate"""
    gate_modality: Affine
    gate_norm: Norm
    head_hidden: Affine
    head_values: Affine
    """[sum of D / 2, O]: block-diagonal"""
