"""GRF with one part of its block exchanged, for the questions that the config does not ask.

Whatever the variant, the model is a `GRF` of its config. The default variant is GRF itself: the same parts, made in the
same order, so the same seed gives the same weights.

Shapes: B samples in the batch, T frames, U frames of the first segment, K context slots, D model width, H attention
heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, cast, get_args, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional

from grf_core.config import GRFConfig
from grf_core.model import GRF, DecoderStack, FusionBlock, GatedFusionUnit, SampleOutput, Step, mean_over_frames
from grf_core.packing import PackedSegments

Fusion = Literal["gfu", "linear"]
Cross = Literal["symmetric", "context_only", "modality_only"]
First = Literal["pooled", "sequence"]
Attention = Literal["softmax", "linear"]
Norm = Literal["post", "pre"]


class VariantError(ValueError):
    """A variant that does not exist, or is asked for what it cannot do."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The first choice of each is GRF's."""

    fusion: Fusion = "gfu"  # or concatenation and a linear layer in its place
    cross: Cross = "symmetric"  # or only the context attends to the segment, or only the segment to the context
    first: First = "pooled"  # or the first block sees all frames of the first segment and pools after it
    attention: Attention = "softmax"  # of a segment's frames to each other; or elu + 1 features, linear in T
    norm: Norm = "post"  # or before each sub-layer, with one more at the end of each stack

    def __post_init__(self) -> None:
        hints = get_type_hints(Variant)
        for field in fields(self):
            if getattr(self, field.name) not in get_args(hints[field.name]):
                choices = " or ".join(get_args(hints[field.name]))
                raise VariantError(f"{field.name} is {getattr(self, field.name)!r}, not {choices}")


PLAIN = Variant()


@dataclass(frozen=True, slots=True)
class VariantFactory:
    """A model factory that can be sent to another process."""

    variant: Variant

    def __call__(self, config: GRFConfig) -> nn.Module:
        return VariantGRF(config, self.variant)


class VariantGRF(GRF):
    def __init__(self, config: GRFConfig, variant: Variant = PLAIN) -> None:
        super().__init__(config)
        self.variant = variant
        if variant.first == "sequence" and config.context_slots > 1:
            raise VariantError("first = sequence leaves one pooled vector, and there are several context slots")
        if variant != PLAIN:
            self.blocks = nn.ModuleList(VariantBlock(config, variant) for _ in self.blocks)

    def step(self, contexts_BKD: Tensor, fresh_B: Tensor, segments: PackedSegments, elapsed_s_B: Tensor) -> Step:
        self._check_streams()
        return super().step(contexts_BKD, fresh_B, segments, elapsed_s_B)

    def start(self, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        self._check_streams()
        return super().start(x_BTD, valid_BT)

    def forward(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> SampleOutput:
        if self.variant.first == "pooled":
            return super().forward(inputs, lengths)
        return self._forward_from_sequence(inputs, lengths)

    def _forward_from_sequence(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> SampleOutput:
        """`GRF.forward`, but a sample's second modality meets all frames of its first."""
        met = _Met()
        contexts: list[Tensor] = []
        gates: list[Tensor] = []
        first_fused_B1D = torch.empty(0)
        for rank, modality in enumerate(self.config.modalities):
            frames_BTF, length_B = inputs[modality.name], lengths[modality.name]
            present_B = length_B > 0
            # An absent modality attends to its padding, lest a softmax over nothing give NaN; the result is not used.
            seen_B1 = torch.where(present_B, length_B, frames_BTF.shape[1])[:, None]
            valid_BT = torch.arange(frames_BTF.shape[1], device=frames_BTF.device) < seen_B1
            x_BTD = self.projections[rank](frames_BTF) + self.positions_TD[: frames_BTF.shape[1]]
            started_B1D = mean_over_frames(x_BTD, valid_BT)[:, None]
            if not contexts:
                contexts.append(torch.where(present_B[:, None, None], started_B1D, 0.0))
                met.begin(x_BTD, valid_BT, present_B)
                first_fused_B1D = contexts[0]
                continue
            block = self.blocks[0 if self.config.shared_block else rank - 1]
            fused_B1D, gate_B1D = met.fuse(block, contexts[-1], x_BTD, valid_BT)
            fresh_B = met.count_B == 0
            next_B1D = torch.where(fresh_B[:, None, None], started_B1D, fused_B1D)
            contexts.append(torch.where(present_B[:, None, None], next_B1D, contexts[-1]))
            gates.append(torch.where(present_B, torch.where(fresh_B, 1.0, gate_B1D.mean(dim=(1, 2))), 0.0))
            met.add(x_BTD, valid_BT, present_B)
            first_fused_B1D = torch.where((met.count_B <= 2)[:, None, None], contexts[-1], first_fused_B1D)
        auxiliary = self._read(self.auxiliary_heads, first_fused_B1D) if self.auxiliary_heads else {}
        return SampleOutput(self.read_heads(contexts[-1]), auxiliary, contexts, gates)

    def _check_streams(self) -> None:
        if self.variant.first == "sequence":
            raise VariantError("first = sequence keeps the frames of the first segment, and a stream keeps a context")


class _Met:
    """How many modalities each sample has met, and the frames of its first."""

    def begin(self, x_BTD: Tensor, valid_BT: Tensor, present_B: Tensor) -> None:
        self.count_B = present_B.long()
        self._x_BUD, self._valid_BU = x_BTD, valid_BT

    def add(self, x_BTD: Tensor, valid_BT: Tensor, present_B: Tensor) -> None:
        fresh_B = present_B & (self.count_B == 0)
        self.count_B = self.count_B + present_B
        if fresh_B.any():
            longest = max(self._x_BUD.shape[1], x_BTD.shape[1])
            mine_BTD, theirs_BTD = _padded(x_BTD, longest), _padded(self._x_BUD, longest)
            self._x_BUD = torch.where(fresh_B[:, None, None], mine_BTD, theirs_BTD)
            valid_mine_BT, valid_theirs_BT = _padded(valid_BT, longest), _padded(self._valid_BU, longest)
            self._valid_BU = torch.where(fresh_B[:, None], valid_mine_BT, valid_theirs_BT)

    def fuse(self, block: nn.Module, context_B1D: Tensor, x_BTD: Tensor, valid_BT: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(block, VariantBlock)
        once_B = self.count_B <= 1
        if once_B.all():
            return block.fuse_first(self._x_BUD, self._valid_BU, x_BTD, valid_BT)
        fused_B1D, gate_B1D = block(context_B1D, x_BTD, valid_BT)
        if once_B.any():
            first_B1D, first_gate_B1D = block.fuse_first(self._x_BUD, self._valid_BU, x_BTD, valid_BT)
            fused_B1D = torch.where(once_B[:, None, None], first_B1D, fused_B1D)
            gate_B1D = torch.where(once_B[:, None, None], first_gate_B1D, gate_B1D)
        return fused_B1D, gate_B1D


class VariantBlock(FusionBlock):
    def __init__(self, config: GRFConfig, variant: Variant) -> None:
        super().__init__(config)
        linear = variant.attention == "linear"
        self.enrich = VariantStack(
            config, variant.norm, variant.cross != "modality_only", linear and variant.first == "sequence"
        )
        self.contextualise = VariantStack(config, variant.norm, variant.cross != "context_only", linear)
        if variant.fusion == "linear":
            self.fuse = cast(GatedFusionUnit, LinearFusion(config.d_model))

    def fuse_first(self, first_BUD: Tensor, valid_BU: Tensor, x_BTD: Tensor, valid_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Two sequences meet, each is pooled after it: the next context [B, 1, D] and its gate."""
        enriched_BUD = self.enrich(first_BUD, x_BTD, ~valid_BU, ~valid_BT)
        modality_BTD = self.contextualise(x_BTD, first_BUD, ~valid_BT, ~valid_BU)
        context_B1D = mean_over_frames(first_BUD, valid_BU)[:, None]
        enriched_B1D = mean_over_frames(enriched_BUD, valid_BU)[:, None]
        next_B1D, gate_B1D = self.fuse(context_B1D, enriched_B1D, mean_over_frames(modality_BTD, valid_BT))
        return next_B1D, gate_B1D


class LinearFusion(nn.Module):
    """`h' = LayerNorm(W [s'; m'] + b)`. There is no gate, and 0 is told in its place."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.blend = nn.Linear(2 * d_model, d_model)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, context_BKD: Tensor, enriched_BKD: Tensor, modality_BD: Tensor) -> tuple[Tensor, Tensor]:
        modality_BKD = modality_BD[:, None].expand_as(enriched_BKD)
        blended_BKD = self.norm(self.blend(torch.cat([enriched_BKD, modality_BKD], dim=-1)))
        return blended_BKD, torch.zeros_like(blended_BKD)


class VariantStack(DecoderStack):
    def __init__(self, config: GRFConfig, norm: Norm, crosses: bool, linear: bool) -> None:
        super().__init__(config)
        for layer in self.layers:
            cast(nn.TransformerDecoderLayer, layer).norm_first = norm == "pre"
            if linear:
                layer.self_attn = LinearAttention(config.d_model, config.n_heads)
        if not crosses:
            self.layers = nn.ModuleList(UncrossedLayer(layer) for layer in self.layers)
        self.norm = nn.LayerNorm(config.d_model) if norm == "pre" else nn.Identity()

    def forward(
        self, target: Tensor, memory: Tensor, target_padding: Tensor | None, memory_padding: Tensor | None
    ) -> Tensor:
        normed: Tensor = self.norm(super().forward(target, memory, target_padding, memory_padding))
        return normed


class UncrossedLayer(nn.Module):
    """A decoder layer that attends to itself, and to no memory: what is left of a direction without cross-attention."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, nn.TransformerDecoderLayer)
        self.norm_first = layer.norm_first
        self.self_attn, self.dropout1, self.norm1, self.norm3 = (
            layer.self_attn,
            layer.dropout1,
            layer.norm1,
            layer.norm3,
        )
        self.feed_forward = nn.Sequential(layer.linear1, nn.GELU(), layer.dropout, layer.linear2, layer.dropout3)

    def forward(
        self,
        target: Tensor,
        memory: Tensor,
        tgt_key_padding_mask: Tensor | None,
        memory_key_padding_mask: Tensor | None,
    ) -> Tensor:
        if self.norm_first:
            target = target + self._attended(self.norm1(target), tgt_key_padding_mask)
            fed: Tensor = self.feed_forward(self.norm3(target))
            return target + fed
        target = self.norm1(target + self._attended(target, tgt_key_padding_mask))
        normed: Tensor = self.norm3(target + self.feed_forward(target))
        return normed

    def _attended(self, target: Tensor, padding: Tensor | None) -> Tensor:
        attended, _ = self.self_attn(target, target, target, key_padding_mask=padding, need_weights=False)
        dropped: Tensor = self.dropout1(attended)
        return dropped


class LinearAttention(nn.Module):
    """Self-attention with the kernel `(elu(q) + 1) . (elu(k) + 1)` (Katharopoulos et al., ICML 2020): keys and values
    are summed once for all queries, so the cost is linear in the frames. It is called as `nn.MultiheadAttention` is."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.project = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.project.weight)

    def forward(
        self,
        x_BTD: Tensor,
        _key: Tensor,
        _value: Tensor,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
        need_weights: bool = False,
    ) -> tuple[Tensor, None]:
        parts = self.project(x_BTD).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in parts)
        query, key = functional.elu(query) + 1, functional.elu(key) + 1
        if key_padding_mask is not None:
            key = key.masked_fill(key_padding_mask[:, None, :, None], 0.0)
        memory_BHEE = key.transpose(-1, -2) @ value
        mass_BHT1 = query @ key.sum(dim=2)[..., None]
        attended_BTD: Tensor = self.out(((query @ memory_BHEE) / mass_BHT1).transpose(1, 2).flatten(2))
        return attended_BTD, None


def _padded(values: Tensor, frames: int) -> Tensor:
    """[B, T, ...] grown to so many frames, with zeros or False."""
    grown = values.new_zeros(values.shape[0], frames, *values.shape[2:])
    grown[:, : values.shape[1]] = values
    return grown
