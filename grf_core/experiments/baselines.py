"""The plain ways to fuse, of the same interface and sizes as GRF: late fusion, concatenation, one modality alone.

Both have an encoder of their own for each modality: projection, positions, L post-norm GELU Transformer layers, the
mean over the valid frames. `LateFusion` lets every modality answer and averages the answers of those present;
`Concatenation` puts the means side by side, with a learned vector in the place of an absent one, and answers once.

Shapes: B samples, n modalities, T frames, F feature width, D model width, O outputs of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from grf_core.config import ConfigError, GRFConfig, ModalityConfig
from grf_core.experiments.heads import Heads
from grf_core.model import SampleOutput, mean_over_frames, sinusoidal_positions


def single_modality(config: GRFConfig, name: str) -> GRFConfig:
    """The same model with one of its modalities only."""
    kept = tuple(modality for modality in config.modalities if modality.name == name)
    if not kept:
        raise ConfigError("modalities", f"there is no {name!r}")
    return replace(config, modalities=kept, shared_block=True)


class ModalityEncoder(nn.Module):
    def __init__(self, config: GRFConfig, modality: ModalityConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(modality.width, config.d_model)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.d_model, config.n_heads, config.d_ffn, config.dropout, activation="gelu", batch_first=True
            )
            for _ in range(config.n_layers)
        )
        for attention in (module for module in self.modules() if isinstance(module, nn.MultiheadAttention)):
            attention.dropout = 0.0  # as in GRF, so that all are regularised alike
        self.positions_TD: Tensor
        positions_TD = sinusoidal_positions(modality.max_frames, config.d_model)
        self.register_buffer("positions_TD", positions_TD, persistent=False)

    def forward(self, frames_BTF: Tensor, length_B: Tensor) -> Tensor:
        """The mean over the encoded frames [B, D]; finite but without meaning where the length is 0."""
        frames = frames_BTF.shape[1]
        # A row without frames attends to its padding: a softmax over nothing would be NaN.
        seen_B1 = length_B.masked_fill(length_B == 0, frames)[:, None]
        valid_BT = torch.arange(frames, device=frames_BTF.device) < seen_B1
        x_BTD = self.projection(frames_BTF) + self.positions_TD[:frames]
        for layer in self.layers:
            x_BTD = layer(x_BTD, src_key_padding_mask=~valid_BT)
        return mean_over_frames(x_BTD, valid_BT)


class LateFusion(nn.Module):
    def __init__(self, config: GRFConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = _encoders(config)
        self.heads = nn.ModuleList(Heads(config, config.d_model) for _ in config.modalities)

    def forward(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> SampleOutput:
        """One whole segment [B, T, F] per modality; `lengths` [B] are 0 where a sample lacks the modality."""
        pooled_BnD, present_Bn = _encode(self.config, self.encoders, inputs, lengths)
        answers = [heads(pooled_BnD[:, rank]) for rank, heads in enumerate(self.heads)]
        outputs = {
            head.name: mean_over_frames(torch.stack([each[head.name] for each in answers], dim=1), present_Bn)
            for head in self.config.heads
        }
        return SampleOutput(outputs=outputs, auxiliary={}, contexts=[], gates=[])


class Concatenation(nn.Module):
    def __init__(self, config: GRFConfig) -> None:
        super().__init__()
        self.config = config
        count, d_model = len(config.modalities), config.d_model
        self.encoders = _encoders(config)
        self.absent_nD = nn.Parameter(torch.randn(count, d_model) / math.sqrt(d_model))
        self.heads = Heads(config, count * d_model)

    def forward(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> SampleOutput:
        """One whole segment [B, T, F] per modality; `lengths` [B] are 0 where a sample lacks the modality."""
        pooled_BnD, present_Bn = _encode(self.config, self.encoders, inputs, lengths)
        side_by_side_BnD = torch.where(present_Bn[:, :, None], pooled_BnD, self.absent_nD)
        return SampleOutput(outputs=self.heads(side_by_side_BnD.flatten(1)), auxiliary={}, contexts=[], gates=[])


def _encoders(config: GRFConfig) -> nn.ModuleList:
    return nn.ModuleList(ModalityEncoder(config, modality) for modality in config.modalities)


def _encode(
    config: GRFConfig, encoders: nn.ModuleList, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The mean of each modality's encoded frames [B, n, D], and which of them a sample has [B, n]."""
    names = [modality.name for modality in config.modalities]
    pooled = [encoder(inputs[name], lengths[name]) for name, encoder in zip(names, encoders, strict=True)]
    return torch.stack(pooled, dim=1), torch.stack([lengths[name] > 0 for name in names], dim=1)
