"""Gated Recurrent Fusion (arXiv 2507.02985), the readable form: the one that is trained.

What is unusual about this model: there is one fusion block, whatever the number of modalities. A context of fixed
size meets the segments one after the other, each through the same block, so the cost is linear in the number of
segments, and the next may come at any time and of any modality. Only the projection [F -> D] belongs to a modality.

Shapes: B segments in the batch, T frames, F feature width, K context slots (1 in the paper), D model width, O outputs
of a head, N packed frames of all segments. `valid_BT` is true at frames, false at padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from grf_core.config import Carry, GRFConfig
from grf_core.packing import PackedSegments

FIRST_AGEING = -5.0
"""Initial lambda: softplus gives a fading of 0.7 % a second."""


class SegmentDropout(nn.Dropout):
    """Drops the same features in all frames of a segment (Gal and Ghahramani, 2016).

    A mean over frames, which is what the context sees of them, averages independent dropout away; and drawing one mask
    for a segment instead of one for each frame takes a fifth of the time off a training step on a CPU.
    """

    def forward(self, x_BTD: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x_BTD
        kept_B1D = torch.empty_like(x_BTD[:, :1]).bernoulli_(1 - self.p).div_(1 - self.p)
        return x_BTD * kept_B1D


class DecoderLayer(nn.TransformerDecoderLayer):
    """PyTorch's layer, its weights and its order of things. Attention to a single key gives its value whatever was
    asked, so no query is computed for it and the one answer is given to all frames."""

    def __init__(self, config: GRFConfig) -> None:
        super().__init__(
            config.d_model, config.n_heads, config.d_ffn, config.dropout, activation="gelu", batch_first=True
        )
        if config.dropout_by == "segment":
            for name in ("dropout", "dropout1", "dropout2", "dropout3"):
                setattr(self, name, SegmentDropout(config.dropout))
        for attention in (self.self_attn, self.multihead_attn):
            # No dropout of attention: where the context is the one key, it would drop all of it; and PyTorch's fused
            # attention on a CPU has no dropout, which makes an epoch 1.4 times as long.
            attention.dropout = 0.0

    def forward(  # type: ignore[override]  # without the masks that nobody here has
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        def to_itself(x: Tensor) -> Tensor:
            dropped: Tensor = self.dropout1(attend(self.self_attn, x, x, tgt_key_padding_mask))
            return dropped

        def to_memory(x: Tensor) -> Tensor:
            attended = attend(self.multihead_attn, x, memory, memory_key_padding_mask)
            dropped: Tensor = self.dropout2(attended.expand_as(x))
            return dropped

        def feed_forward(x: Tensor) -> Tensor:
            dropped: Tensor = self.dropout3(self.linear2(self.dropout(functional.gelu(self.linear1(x)))))
            return dropped

        if self.norm_first:
            tgt = tgt + to_itself(self.norm1(tgt))
            tgt = tgt + to_memory(self.norm2(tgt))
            return tgt + feed_forward(self.norm3(tgt))
        tgt = self.norm1(tgt + to_itself(tgt))
        tgt = self.norm2(tgt + to_memory(tgt))
        fed: Tensor = self.norm3(tgt + feed_forward(tgt))
        return fed


def attend(attention: nn.Module, query_BQD: Tensor, memory_BSD: Tensor, padding_BS: Tensor | None) -> Tensor:
    """[B, Q, D]; or [B, 1, D] where there is one key, which is no padding, and so the same answer for every query."""
    if memory_BSD.shape[1] == 1 and isinstance(attention, nn.MultiheadAttention):
        width = attention.embed_dim
        weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
        value_B1D: Tensor = attention.out_proj(functional.linear(memory_BSD, weight, bias))
        return value_B1D
    attended_BQD: Tensor = attention(
        query_BQD, memory_BSD, memory_BSD, key_padding_mask=padding_BS, need_weights=False
    )[0]
    return attended_BQD


class DecoderStack(nn.Module):
    """L post-norm GELU Transformer decoder layers: `target` attends to itself, then to `memory`."""

    def __init__(self, config: GRFConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layers))

    def forward(
        self, target: Tensor, memory: Tensor, target_padding: Tensor | None, memory_padding: Tensor | None
    ) -> Tensor:
        for layer in self.layers:
            target = layer(target, memory, tgt_key_padding_mask=target_padding, memory_key_padding_mask=memory_padding)
        return target


class GatedFusionUnit(nn.Module):
    """Blend the context with what is new: `z = sigmoid(W_z [s'; m'] + b_z)`, `c = tanh(W_c [s'; m'] + b_c)`,
    `h' = LayerNorm((1 - z) * kept + z * c)`, where kept is s' or the context before the block (`carry`)."""

    def __init__(self, d_model: int, carry: Carry, gate_bias: float) -> None:
        super().__init__()
        self.carry = carry
        self.gate = nn.Linear(2 * d_model, d_model)
        self.candidate = nn.Linear(2 * d_model, d_model)
        self.norm = nn.LayerNorm(d_model)
        nn.init.constant_(self.gate.bias, gate_bias)

    def forward(self, context_BKD: Tensor, enriched_BKD: Tensor, modality_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The next context [B, K, D], and the update gate z [B, K, D]."""
        modality_BKD = modality_BD[:, None].expand_as(enriched_BKD)
        both_BK2D = torch.cat([enriched_BKD, modality_BKD], dim=-1)
        gate_BKD = torch.sigmoid(self.gate(both_BK2D))
        candidate_BKD = torch.tanh(self.candidate(both_BK2D))
        kept_BKD = enriched_BKD if self.carry == "enriched" else context_BKD
        return self.norm((1 - gate_BKD) * kept_BKD + gate_BKD * candidate_BKD), gate_BKD


class FusionBlock(nn.Module):
    """Symmetric cross-attention, then the gate: one step of the recurrence."""

    def __init__(self, config: GRFConfig) -> None:
        super().__init__()
        self.enrich = DecoderStack(config)
        self.contextualise = DecoderStack(config)
        self.fuse = GatedFusionUnit(config.d_model, config.carry, config.gate_bias)

    def forward(self, context_BKD: Tensor, x_BTD: Tensor, valid_BT: Tensor) -> tuple[Tensor, Tensor]:
        padding_BT = ~valid_BT
        enriched_BKD = self.enrich(context_BKD, x_BTD, None, padding_BT)
        modality_BTD = self.contextualise(x_BTD, context_BKD, padding_BT, None)
        next_BKD, gate_BKD = self.fuse(context_BKD, enriched_BKD, mean_over_frames(modality_BTD, valid_BT))
        return next_BKD, gate_BKD


class Head(nn.Sequential):
    """The paper's MLP: D -> D/2 -> O, ReLU, dropout."""

    def __init__(self, d_model: int, outputs: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(d_model, d_model // 2), nn.ReLU(), nn.Dropout(dropout), nn.Linear(d_model // 2, outputs)
        )


@dataclass(frozen=True, slots=True)
class Step:
    contexts: Tensor
    """[B, K, D]"""
    gate: Tensor
    """[B]: mean update gate; 1 where the segment started the context."""


@dataclass(frozen=True, slots=True)
class SampleOutput:
    """What whole-sample fusion gives; head outputs [B, O] are logits, or normalised values."""

    outputs: dict[str, Tensor]
    auxiliary: dict[str, Tensor]
    """The auxiliary heads on the first fused state; empty where the config has none."""
    contexts: list[Tensor]
    """h_1 .. h_n, each [B, K, D]; zeros before the first modality that the sample has"""
    gates: list[Tensor]
    """[B] for each modality after the first; 1 where it started the context, 0 where the sample lacks it"""


class GRF(nn.Module):
    def __init__(self, config: GRFConfig) -> None:
        super().__init__()
        self.config = config
        d_model, dropout = config.d_model, config.dropout
        self.projections = nn.ModuleList(nn.Linear(modality.width, d_model) for modality in config.modalities)
        self.blocks = nn.ModuleList(
            FusionBlock(config) for _ in range(1 if config.shared_block else len(config.modalities) - 1)
        )
        self.heads = nn.ModuleList(Head(d_model, head.outputs, dropout) for head in config.heads)
        self.auxiliary_heads = nn.ModuleList(
            Head(d_model, head.outputs, dropout) for head in config.heads if config.auxiliary_heads
        )
        if config.context_slots > 1:
            self.slots_KD = nn.Parameter(random_slots(config.context_slots, d_model))
        if config.ageing:
            self.ageing_D = nn.Parameter(torch.full((d_model,), FIRST_AGEING))
        self.positions_TD: Tensor
        self.reset_positions()

    def reset_positions(self) -> None:
        """Compute the position table, which is not a weight and not stored with them."""
        longest = max(modality.max_frames for modality in self.config.modalities)
        self.register_buffer("positions_TD", sinusoidal_positions(longest, self.config.d_model), persistent=False)

    def step(self, contexts_BKD: Tensor, fresh_B: Tensor, segments: PackedSegments, elapsed_s_B: Tensor) -> Step:
        """Fuse one segment into each row's context; where `fresh_B`, the segment starts it, whatever it held."""
        x_BTD = self.embed(segments)
        valid_BT = segments.valid()
        started_BKD = self.start(x_BTD, valid_BT)
        fused_BKD, gate_BKD = self.blocks[0](self.age(contexts_BKD, elapsed_s_B), x_BTD, valid_BT)
        return Step(
            contexts=torch.where(fresh_B[:, None, None], started_BKD, fused_BKD),
            gate=torch.where(fresh_B, 1.0, gate_BKD.mean(dim=(1, 2))),
        )

    def forward(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> SampleOutput:
        """One whole segment [B, T, F] per modality, fused in config order; `lengths` [B].

        Where the length is 0 the sample lacks the modality, and its context stays as it was: the first modality that
        a sample has starts it. A sample has at least one; padding may hold anything finite.
        """
        contexts: list[Tensor] = []
        gates: list[Tensor] = []
        for rank, modality in enumerate(self.config.modalities):
            frames_BTF, length_B = inputs[modality.name], lengths[modality.name]
            present_B = length_B > 0
            # An absent modality's padding is attended to, lest a softmax over nothing give NaN; the result is not used.
            seen_B1 = torch.where(present_B, length_B, frames_BTF.shape[1])[:, None]
            valid_BT = torch.arange(frames_BTF.shape[1], device=frames_BTF.device) < seen_B1
            x_BTD = self.projections[rank](frames_BTF) + self.positions_TD[: frames_BTF.shape[1]]
            present_B11, started_BKD = present_B[:, None, None], self.start(x_BTD, valid_BT)
            if not contexts:
                contexts.append(torch.where(present_B11, started_BKD, 0.0))
                first_fused_BKD, met_B = contexts[0], present_B.long()
                continue
            block = self.blocks[0 if self.config.shared_block else rank - 1]
            fused_BKD, gate_BKD = block(contexts[-1], x_BTD, valid_BT)
            fresh_B = met_B == 0
            next_BKD = torch.where(fresh_B[:, None, None], started_BKD, fused_BKD)
            contexts.append(torch.where(present_B11, next_BKD, contexts[-1]))
            gates.append(torch.where(present_B, torch.where(fresh_B, 1.0, gate_BKD.mean(dim=(1, 2))), 0.0))
            met_B = met_B + present_B
            first_fused_BKD = torch.where((met_B <= 2)[:, None, None], contexts[-1], first_fused_BKD)
        return SampleOutput(
            outputs=self.read_heads(contexts[-1]),
            auxiliary=self._read(self.auxiliary_heads, first_fused_BKD) if self.auxiliary_heads else {},
            contexts=contexts,
            gates=gates,
        )

    def embed(self, segments: PackedSegments) -> Tensor:
        """Project each modality's packed frames, add positions, and place them: x [B, T, D], zero at padding."""
        projected_ND = torch.cat([self.projections[rank](frames) for rank, frames in segments.frames.items()])
        x_BTD = projected_ND.new_zeros(len(segments.lengths), segments.longest, self.config.d_model)
        return x_BTD.index_put((segments.row, segments.position), projected_ND + self.positions_TD[segments.position])

    def start(self, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        """The context of a first segment: its mean over the valid frames, in every slot."""
        mean_B1D = mean_over_frames(x_BTD, valid_BT)[:, None]
        return mean_B1D + self.slots_KD if self.config.context_slots > 1 else mean_B1D

    def age(self, contexts_BKD: Tensor, elapsed_s_B: Tensor) -> Tensor:
        """`h * exp(-softplus(lambda) * dt)`, where the config asks for it."""
        if not self.config.ageing:
            return contexts_BKD
        fading_B1D = torch.exp(-functional.softplus(self.ageing_D) * elapsed_s_B[:, None, None])
        return contexts_BKD * fading_B1D

    def read_heads(self, contexts_BKD: Tensor) -> dict[str, Tensor]:
        """Each head on the mean over the slots: logits, or normalised values, [B, O] by head name."""
        return self._read(self.heads, contexts_BKD)

    def _read(self, heads: nn.ModuleList, contexts_BKD: Tensor) -> dict[str, Tensor]:
        context_BD = contexts_BKD.mean(dim=1)
        return {head.name: module(context_BD) for head, module in zip(self.config.heads, heads, strict=True)}


def mean_over_frames(x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
    valid_BT1 = valid_BT[:, :, None]
    return x_BTD.masked_fill(~valid_BT1, 0.0).sum(dim=1) / valid_BT1.sum(dim=1)


def random_slots(slots: int, d_model: int) -> Tensor:
    """[K, D], drawn on the CPU for the reason of `sinusoidal_positions`."""
    return (torch.randn(slots, d_model, device="cpu") / math.sqrt(d_model)).to(torch.get_default_device())


def sinusoidal_positions(frames: int, d_model: int) -> Tensor:
    """PE [frames, D] of "Attention Is All You Need", section 3.5; D is even.

    Computed on the CPU, whatever the device: on "meta", for shapes alone, arithmetic imports torch's compiler.
    """
    cpu = torch.device("cpu")
    position_T1 = torch.arange(frames, dtype=torch.float32, device=cpu)[:, None]
    rate_H = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float32, device=cpu) * (-math.log(10_000.0) / d_model))
    table_TD = torch.empty(frames, d_model, device=cpu)
    table_TD[:, 0::2] = torch.sin(position_T1 * rate_H)
    table_TD[:, 1::2] = torch.cos(position_T1 * rate_H)
    return table_TD.to(torch.get_default_device())
