"""GRF that fuses a whole sample's modalities in an order of its own: fixed, random, or learned.

The learned order is a scorer on the context and the pooled projection of each modality that still waits: the best is
fused next. Where gradients flow its choice is drawn with Gumbel noise, and is passed straight through: forward it is
one modality, backward the softmax of the scores.

Shapes: B samples, n modalities, T frames of the longest, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from grf_core.config import GRFConfig
from grf_core.model import GRF, SampleOutput, mean_over_frames

Order = Literal["fixed", "random", "learned"]


@dataclass(frozen=True, slots=True)
class OrderFactory:
    order: Order

    def __call__(self, config: GRFConfig) -> nn.Module:
        return OrderedGRF(config, self.order)


class OrderedGRF(GRF):
    """`fixed` is GRF itself, in the order of the config."""

    def __init__(self, config: GRFConfig, order: Order) -> None:
        super().__init__(config)
        self.order = order
        if order == "learned":
            d_model = config.d_model
            self.scorer = nn.Sequential(nn.Linear(2 * d_model, d_model // 2), nn.ReLU(), nn.Linear(d_model // 2, 1))

    def forward(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> SampleOutput:
        return self.fuse(inputs, lengths)[0]

    def fuse(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> tuple[SampleOutput, Tensor]:
        """The output, and the rank of the modality fused at each step [B, n]; -1 where none was left."""
        x_BnTD, valid_BnT, waiting_Bn = self._embedded(inputs, lengths)
        pooled_BnD = mean_over_frames(x_BnTD.flatten(0, 1), valid_BnT.flatten(0, 1)).unflatten(0, waiting_Bn.shape)
        rows_B = torch.arange(len(x_BnTD), device=x_BnTD.device)
        context_BKD = torch.zeros_like(self.start(x_BnTD[:, 0], valid_BnT[:, 0]))
        contexts, gates, chosen, first_fused_BKD = [], [], [], context_BKD
        for step in range(waiting_Bn.shape[1]):
            choice_Bn = self._choose(context_BKD, pooled_BnD, waiting_Bn)
            rank_B, left_B = choice_Bn.argmax(dim=1), waiting_Bn.any(dim=1)
            x_BTD, valid_BT = (choice_Bn[:, :, None, None] * x_BnTD).sum(dim=1), valid_BnT[rows_B, rank_B]
            if step == 0:
                next_BKD, gate_B = self.start(x_BTD, valid_BT), torch.ones(len(rows_B), device=x_BTD.device)
            else:
                next_BKD, gate_BKD = self.blocks[0](context_BKD, x_BTD, valid_BT)
                gate_B = gate_BKD.mean(dim=(1, 2))
            context_BKD = torch.where(left_B[:, None, None], next_BKD, context_BKD)
            first_fused_BKD = context_BKD if step <= 1 else first_fused_BKD
            contexts.append(context_BKD)
            gates.append(torch.where(left_B, gate_B, 0.0))
            chosen.append(torch.where(left_B, rank_B, -1))
            waiting_Bn = waiting_Bn & ~functional.one_hot(rank_B, waiting_Bn.shape[1]).bool()
        auxiliary = self._read(self.auxiliary_heads, first_fused_BKD) if self.auxiliary_heads else {}
        output = SampleOutput(self.read_heads(context_BKD), auxiliary, contexts, gates[1:])
        return output, torch.stack(chosen, dim=1)

    def _choose(self, context_BKD: Tensor, pooled_BnD: Tensor, waiting_Bn: Tensor) -> Tensor:
        """One of those that wait, as [B, n] of one 1 and zeros."""
        count = waiting_Bn.shape[1]
        if self.order == "fixed":
            scores_Bn = -torch.arange(count, device=waiting_Bn.device).expand_as(waiting_Bn).float()
        elif self.order == "random":
            scores_Bn = torch.rand(waiting_Bn.shape, device=waiting_Bn.device)
        else:
            context_BnD = context_BKD.mean(dim=1, keepdim=True).expand_as(pooled_BnD)
            scores_Bn = self.scorer(torch.cat([context_BnD, pooled_BnD], dim=-1))[:, :, 0]
            if self.training:
                scores_Bn = scores_Bn - torch.empty_like(scores_Bn).exponential_().log()
        scores_Bn = scores_Bn.masked_fill(~waiting_Bn, -1e9)
        hard_Bn = functional.one_hot(scores_Bn.argmax(dim=1), count).to(pooled_BnD.dtype)
        if self.order != "learned" or not self.training:
            return hard_Bn
        soft_Bn = scores_Bn.softmax(dim=1)
        return hard_Bn + soft_Bn - soft_Bn.detach()

    def _embedded(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, n, T, D], its valid frames [B, n, T], and who has which modality [B, n]."""
        longest = max(inputs[modality.name].shape[1] for modality in self.config.modalities)
        embedded, valid, present = [], [], []
        for rank, modality in enumerate(self.config.modalities):
            frames_BTF, length_B = inputs[modality.name], lengths[modality.name]
            x_BTD = self.projections[rank](frames_BTF) + self.positions_TD[: frames_BTF.shape[1]]
            embedded.append(functional.pad(x_BTD, (0, 0, 0, longest - x_BTD.shape[1])))
            # An absent modality attends to its padding, lest a softmax over nothing give NaN; the result is not used.
            seen_B1 = torch.where(length_B > 0, length_B, longest)[:, None]
            valid.append(torch.arange(longest, device=frames_BTF.device) < seen_B1)
            present.append(length_B > 0)
        return torch.stack(embedded, dim=1), torch.stack(valid, dim=1), torch.stack(present, dim=1)
