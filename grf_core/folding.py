"""Make the weights of the folded form: what is linear twice in a row in GRF is multiplied out once, at load time.

Exact, not approximate; `folded.py` is the step that uses them. What is folded, in the order of a step:

normalisation: 1 / std goes into the projection. The mean does not: where it is large, `x - mean` has to come first.
positions: together with the projection's bias they are one table [T, D] for each modality.
one context slot: its self-attention is the map W_o W_v, a softmax over one key being 1; with the residual, I + W_o W_v.
    What the frames get from it is one vector, W_o W_v h, the same for all frames: one product for all layers.
context to frames: key and value projections go to the query's side, q^T (W_k x) = (W_k^T q)^T x and
    W_v (sum a x) = sum a (W_v x). Key biases drop out of the softmax, value biases pass through it unchanged.
biases of residual sums: of x + W y + b, b is added by the norm (or table) that makes x, so that the sum is one product
    accumulated in place; whoever else reads x takes b away in its own bias.
heads: side by side, with the scale of the values.

All products are made in float64.

Shapes: T frames, K context slots, D model width, H attention heads.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from grf_core.config import GRFConfig
from grf_core.folded_weights import (
    Affine,
    ContextLayer,
    Entry,
    FeedForward,
    FoldedWeights,
    FrameLayer,
    LoneSlot,
    Norm,
    SelfAttention,
    SlotsQuery,
)
from grf_core.model import GRF, DecoderStack, FusionBlock, GatedFusionUnit, Head
from grf_core.normalisation import FARTHEST_STD, LARGEST, Normalisation, Statistics

Kind = TypeVar("Kind")

MAX_FOLDED_NUMBERS = 1 << 28
"""A GiB of float32. Folded attention is H / 2 times as large as plain: nothing for a few heads, too much for many."""


def numbers_of(config: GRFConfig) -> int:
    """At most so many numbers does `fold` make of a model."""
    d = config.d_model
    layer = 2 * config.n_heads * d * d + 14 * d * d + 4 * d * config.d_ffn + (40 + config.n_heads) * d
    entries = sum((m.width + m.max_frames + 2) * d for m in config.modalities)
    hidden = len(config.heads) * (d // 2)
    heads = hidden * (d + sum(head.outputs for head in config.heads))
    return config.n_layers * (layer + 2 * config.d_ffn) + entries + heads + 4 * d * d


def fold(model: GRF, normalisation: Normalisation, device: torch.device, dtype: torch.dtype) -> FoldedWeights:
    """The weights of a model with a shared block, which is left as it is."""
    return _Folding(model, normalisation, device, dtype).weights()


class _Folding:
    """On the way all is float64, on the CPU, and [out, in] as torch has it; `_stored`, `_exact`, `_affine` end it."""

    def __init__(self, model: GRF, normalisation: Normalisation, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.normalisation = model, normalisation
        self.device, self.dtype, self.exact = device, dtype, torch.promote_types(dtype, torch.float32)
        self.d_model, self.n_heads = model.config.d_model, model.config.n_heads
        self.one_slot = model.config.context_slots == 1
        self.block = _is(FusionBlock, model.blocks[0])

    def weights(self) -> FoldedWeights:
        model, block = self.model, self.block
        enrich, contextualise = block.enrich, block.contextualise
        memory_shift_D = _Attention(_layers(contextualise)[0].self_attn).constant
        slots_KD = torch.zeros(1, self.d_model, dtype=torch.float64) if self.one_slot else _wide(model.slots_KD)
        layers = range(model.config.n_layers)
        enriched, modality, gate_bias = self._gate(block.fuse)
        hidden, values = self._heads()
        return FoldedWeights(
            entries=tuple(self._entry(rank, memory_shift_D) for rank in range(len(model.config.modalities))),
            start_KD=self._exact(slots_KD - memory_shift_D),
            ageing_D=self._exact(-functional.softplus(_wide(model.ageing_D))) if model.config.ageing else None,
            spread=self._spread(_layers(enrich)[0], _layers(contextualise)),
            context_layers=tuple(self._context_layer(enrich, number, memory_shift_D) for number in layers),
            frame_layers=tuple(self._frame_layer(contextualise, number) for number in layers),
            gate_enriched=self._exact(enriched.T),
            gate_modality=Affine(self._exact(modality.T), self._exact(gate_bias)),
            gate_norm=Norm(
                (self.d_model,),
                self._exact(block.fuse.norm.weight),
                self._exact(block.fuse.norm.bias),
                block.fuse.norm.eps,
            ),
            head_hidden=hidden,
            head_values=values,
        )

    def _gate(self, fuse: GatedFusionUnit) -> tuple[Tensor, Tensor, Tensor]:
        """Gate over candidate: from the enriched context, from the modality, the bias."""
        enriched, modality = torch.cat([_wide(fuse.gate.weight), _wide(fuse.candidate.weight)]).chunk(2, dim=1)
        return enriched, modality, torch.cat([_wide(fuse.gate.bias), _wide(fuse.candidate.bias)])

    def _entry(self, rank: int, first_shift_D: Tensor) -> Entry:
        modality = self.model.config.modalities[rank]
        statistics = self.normalisation.modalities[modality.name]
        std_F = torch.tensor(statistics.std, dtype=torch.float64)
        farthest_F = (FARTHEST_STD * std_F).clamp(max=LARGEST)
        projection = _is(nn.Linear, self.model.projections[rank])
        table_TD = _wide(self.model.positions_TD[: modality.max_frames]) + _wide(projection.bias) + first_shift_D
        return Entry(
            mean_F=self._exact(torch.tensor(statistics.mean, dtype=torch.float64)),
            nearest_F=self._exact(-farthest_F),
            farthest_F=self._exact(farthest_F),
            weight_FD=self._stored((_wide(projection.weight) / std_F).T),
            table_TD=self._stored(table_TD),
        )

    def _spread(self, first: nn.TransformerDecoderLayer, layers: list[nn.TransformerDecoderLayer]) -> Affine:
        cross = [_Attention(layer.multihead_attn) for layer in layers]
        if not self.one_slot:
            weight = torch.cat([part for attention in cross for part in (attention.key, attention.value)])
            return self._affine(weight, torch.zeros(len(weight), dtype=torch.float64))
        alone = _Attention(first.self_attn)
        weight = torch.cat([self._with_residual(alone.through), *(attention.through for attention in cross)])
        return self._affine(weight, torch.cat([alone.constant, *(attention.constant for attention in cross)]))

    def _context_layer(self, stack: DecoderStack, number: int, memory_shift_D: Tensor) -> ContextLayer:
        layer = _layers(stack)[number]
        cross = _Attention(layer.multihead_attn)
        constant_D = cross.constant - cross.through @ memory_shift_D
        keys, outs = cross.key.chunk(self.n_heads), cross.out.chunk(self.n_heads, dim=1)
        queries, query_biases = cross.query.chunk(self.n_heads), cross.query_bias.chunk(self.n_heads)
        values = cross.value.chunk(self.n_heads)
        return ContextLayer(
            attention=self._lone_slot(layer, constant_D) if self.one_slot else self._self_attention(layer, constant_D),
            seek=self._affine(
                torch.cat([key.T @ query for key, query in zip(keys, queries, strict=True)]),
                torch.cat([key.T @ bias for key, bias in zip(keys, query_biases, strict=True)]),
                constant_D,
            ),
            take=self._stored(torch.cat([out @ value for out, value in zip(outs, values, strict=True)], dim=1).T),
            norm=self._norm(layer.norm2, _wide(layer.linear2.bias)),
            feed=self._feed_forward(stack, number),
        )

    def _frame_layer(self, stack: DecoderStack, number: int) -> FrameLayer:
        layer = _layers(stack)[number]
        cross = _Attention(layer.multihead_attn)
        slots, shift_D = None, torch.zeros_like(cross.constant)
        if not self.one_slot:
            shift_D = cross.constant
            slots = SlotsQuery(self._affine(cross.query, cross.query_bias, shift_D), self._stored(cross.out.T))
        return FrameLayer(
            attention=self._self_attention(layer, shift_D),
            slots=slots,
            norm=self._norm(layer.norm2, _wide(layer.linear2.bias)),
            feed=self._feed_forward(stack, number),
        )

    def _lone_slot(self, layer: nn.TransformerDecoderLayer, next_shift_D: Tensor) -> LoneSlot:
        attention = _Attention(layer.self_attn)
        return LoneSlot(
            through=self._affine(self._with_residual(attention.through), attention.constant),
            norm=self._norm(layer.norm1, next_shift_D),
        )

    def _self_attention(self, layer: nn.TransformerDecoderLayer, next_shift_D: Tensor) -> SelfAttention:
        attention = _Attention(layer.self_attn)
        weight = torch.cat([attention.query, attention.key, attention.value])
        bias = torch.cat([attention.query_bias, torch.zeros(2 * self.d_model, dtype=torch.float64)])
        return SelfAttention(
            shift_D=self._stored(attention.constant),
            qkv=self._affine(weight, bias, attention.constant),
            out=self._stored(attention.out.T),
            norm=self._norm(layer.norm1, next_shift_D),
        )

    def _feed_forward(self, stack: DecoderStack, number: int) -> FeedForward:
        """Its norm prepares the residual sum of the layer after it, where that begins with self-attention."""
        layers = _layers(stack)
        layer = layers[number]
        shift_D = torch.zeros(self.d_model, dtype=torch.float64)
        attends = not (self.one_slot and stack is self.block.enrich)
        if attends and number + 1 < len(layers):
            shift_D = _Attention(layers[number + 1].self_attn).constant
        return FeedForward(
            widen=self._affine(_wide(layer.linear1.weight), _wide(layer.linear1.bias), _wide(layer.linear2.bias)),
            narrow=self._stored(_wide(layer.linear2.weight).T),
            norm=self._norm(layer.norm3, shift_D),
        )

    def _heads(self) -> tuple[Affine, Affine]:
        hidden, hidden_bias, values, values_bias = [], [], [], []
        for config, head in zip(self.model.config.heads, self.model.heads, strict=True):
            layers = _is(Head, head)
            first, last = _is(nn.Linear, layers[0]), _is(nn.Linear, layers[3])
            statistics = self.normalisation.heads.get(config.name, Statistics.identity(config.outputs))
            std, mean = (torch.tensor(part, dtype=torch.float64) for part in (statistics.std, statistics.mean))
            hidden.append(_wide(first.weight))
            hidden_bias.append(_wide(first.bias))
            values.append((_wide(last.weight).T * std).T)
            values_bias.append(_wide(last.bias) * std + mean)
        return (
            Affine(self._exact(torch.cat(hidden).T), self._exact(torch.cat(hidden_bias))),
            Affine(self._exact(torch.block_diag(*values).T), self._exact(torch.cat(values_bias))),
        )

    def _with_residual(self, through_DD: Tensor) -> Tensor:
        return through_DD + torch.eye(self.d_model, dtype=torch.float64)

    def _affine(self, weight: Tensor, bias: Tensor, shift: Tensor | None = None) -> Affine:
        """For an x that comes in with `shift` added."""
        return Affine(self._stored(weight.T), self._stored(bias if shift is None else bias - weight @ shift))

    def _norm(self, norm: nn.LayerNorm, shift: Tensor) -> Norm:
        return Norm((self.d_model,), self._stored(norm.weight), self._stored(_wide(norm.bias) + shift), norm.eps)

    def _stored(self, value: Tensor) -> Tensor:
        return value.detach().to(self.device, self.dtype).contiguous()

    def _exact(self, value: Tensor) -> Tensor:
        return value.detach().to(self.device, self.exact).contiguous()


class _Attention:
    """The parts of a `MultiheadAttention`, queries scaled. Without the key bias: it adds the same to every score."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        scale = 1 / math.sqrt(attention.head_dim)
        query, self.key, self.value = _wide(attention.in_proj_weight).chunk(3)
        query_bias, _, value_bias = _wide(attention.in_proj_bias).chunk(3)
        self.query, self.query_bias = query * scale, query_bias * scale
        self.out = _wide(attention.out_proj.weight)
        self.constant = self.out @ value_bias + _wide(attention.out_proj.bias)
        """What every query gets, whatever it attends to."""

    @property
    def through(self) -> Tensor:
        """What a query gets of the one key there is."""
        return self.out @ self.value


def _layers(stack: DecoderStack) -> list[nn.TransformerDecoderLayer]:
    return [_is(nn.TransformerDecoderLayer, layer) for layer in stack.layers]


def _is(kind: type[Kind], value: object) -> Kind:
    """For the type checker: torch's containers do not say what they hold."""
    assert isinstance(value, kind)
    return value


def _wide(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", torch.float64)
