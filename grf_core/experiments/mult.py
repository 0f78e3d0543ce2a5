"""MulT, the Multimodal Transformer (Tsai et al., ACL 2019), for any number of modalities: the model GRF is measured
against.

Every modality is a target once. For each of the n - 1 others, its sources, it has a crossmodal transformer of its own,
so there are n(n-1); their results side by side go through a self-attention transformer of width (n-1)D, whose last
frame is what the target knows in the end. Where the paper leaves a thing open, this follows the published code: one
LayerNorm for queries and sources of a layer, positions counted from 1, sines and cosines in halves, a mask that hides
the future, at least 3 self-attention layers. Not from there: one dropout rate for all places but attention, which has
none, as in our GRF; one dropout mask for keys and values; a projection even where the width is D already; and rows of
unequal length or with absent modalities.

Absent modalities: a source that a row lacks adds nothing to the row's attention; a target it lacks ends as zeros.

Shapes: B samples, n modalities, T frames of the target, S frames of the source, F feature width, D model width, W the
width of one transformer (D or (n-1)D), C = n(n-1)D the width of all last frames together, O outputs of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional

from grf_core.config import ConfigError, GRFConfig
from grf_core.experiments.heads import Heads
from grf_core.model import SampleOutput

FEWEST_SELF_ATTENTION_LAYERS = 3


@dataclass(frozen=True, slots=True)
class MulTShape:
    """As the published code comes: `MulTShape(widths, max_frames, d_model=30, n_layers=5, n_heads=5, d_ffn=120)`."""

    widths: tuple[int, ...]  # features per frame, for each modality
    max_frames: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ffn: int  # of a crossmodal layer, 4 D in the paper; of a self-attention layer n - 1 times that
    dropout: float = 0.0
    kernel_size: int = 1  # frames that the temporal convolution sees
    hides_future: bool = True

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ConfigError("kernel_size", f"{self.kernel_size} is even; a frame has as many before it as after it")

    @classmethod
    def of(cls, config: GRFConfig, kernel_size: int = 1) -> MulTShape:
        return cls(
            widths=tuple(modality.width for modality in config.modalities),
            max_frames=max(modality.max_frames for modality in config.modalities),
            d_model=config.d_model,
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            d_ffn=config.d_ffn,
            dropout=config.dropout,
            kernel_size=kernel_size,
        )

    @property
    def sources(self) -> int:
        """How many results a target puts side by side; a modality alone is its own source."""
        return max(len(self.widths) - 1, 1)


class Attention(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.project = _linear(width, 3 * width)
        self.out = _linear(width, width)

    def forward(self, x_BTW: Tensor, source_BSW: Tensor, admitted_B1TS: Tensor) -> Tensor:
        width = x_BTW.shape[-1]
        weight, bias = self.project.weight, self.project.bias
        query_BTW = functional.linear(x_BTW, weight[:width], bias[:width])
        key_BSW, value_BSW = functional.linear(source_BSW, weight[width:], bias[width:]).chunk(2, dim=-1)
        query, key, value = (
            each.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for each in (query_BTW, key_BSW, value_BSW)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, admitted_B1TS)
        attended_BTW: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return attended_BTW


class Layer(nn.Module):
    """Pre-norm attention to the source, then the FFN; without a source, to the sequence itself."""

    def __init__(self, width: int, n_heads: int, d_ffn: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, n_heads)
        self.attention_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(_linear(width, d_ffn), nn.ReLU(), nn.Dropout(dropout), _linear(d_ffn, width))
        self.ffn_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTW: Tensor, source_BSW: Tensor | None, view: View) -> Tensor:
        query_BTW = self.attention_norm(x_BTW)
        source_normed_BSW = query_BTW if source_BSW is None else self.attention_norm(source_BSW)
        attended_BTW = self.attention(query_BTW, source_normed_BSW, view.admitted_B1TS)
        x_BTW = x_BTW + self.dropout(attended_BTW.masked_fill(~view.present_B11, 0.0))
        output_BTW: Tensor = x_BTW + self.dropout(self.ffn(self.ffn_norm(x_BTW)))
        return output_BTW


class Transformer(nn.Module):
    """A stack of layers over embedded frames; a crossmodal one shows the same low-level source to every layer."""

    def __init__(self, width: int, n_layers: int, n_heads: int, d_ffn: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, n_heads, d_ffn, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTW: Tensor, source_BSW: Tensor | None, view: View) -> Tensor:
        x_BTW = self.dropout(x_BTW)
        source_BSW = None if source_BSW is None else self.dropout(source_BSW)
        for layer in self.layers:
            x_BTW = layer(x_BTW, source_BSW, view)
        normed_BTW: Tensor = self.norm(x_BTW)
        return normed_BTW


@dataclass(frozen=True, slots=True)
class View:
    """What the frames of a target see of a source."""

    admitted_B1TS: Tensor
    """Everything where the source is absent, lest a softmax over nothing give NaN; such attention is not used."""
    present_B11: Tensor

    @classmethod
    def of(cls, target_B: Tensor, target_frames: int, source_B: Tensor, source_frames: int, hides_future: bool) -> View:
        """From the lengths [B] of both, and the frames that they are padded to."""
        source_S = torch.arange(source_frames, device=source_B.device)
        present_B = source_B > 0
        admitted_BTS = (source_S < source_B[:, None])[:, None].expand(-1, target_frames, -1)
        if hides_future:
            # Sequences of unequal length are not aligned: as published, the last target frame sees the whole source.
            ahead_TS = source_S - torch.arange(target_frames, device=source_B.device)[:, None]
            admitted_BTS = admitted_BTS & (ahead_TS <= (source_B - target_B).abs()[:, None, None])
        return cls((admitted_BTS | ~present_B[:, None, None])[:, None], present_B[:, None, None])


class MulTBody(nn.Module):
    """All of MulT but its output layer: with `nn.Linear(width, O)` behind it, it is the published model."""

    def __init__(self, shape: MulTShape) -> None:
        super().__init__()
        self.shape = shape
        count, joint = len(shape.widths), shape.sources * shape.d_model
        self.width = count * joint
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, shape.d_model, shape.kernel_size, padding=shape.kernel_size // 2, bias=False)
            for width in shape.widths
        )
        self.pairs = list(permutations(range(count), 2))  # (target, source)
        self.crossmodal = nn.ModuleList(
            Transformer(shape.d_model, shape.n_layers, shape.n_heads, shape.d_ffn, shape.dropout) for _ in self.pairs
        )
        self_layers = max(shape.n_layers, FEWEST_SELF_ATTENTION_LAYERS)
        self.joint = nn.ModuleList(
            Transformer(joint, self_layers, shape.n_heads, shape.sources * shape.d_ffn, shape.dropout)
            for _ in range(count)
        )
        self.residual = nn.Sequential(
            nn.Linear(self.width, self.width), nn.ReLU(), nn.Dropout(shape.dropout), nn.Linear(self.width, self.width)
        )
        self.positions_TD: Tensor
        self.joint_positions_TW: Tensor
        self.register_buffer("positions_TD", positions_from_one(shape.max_frames, shape.d_model), persistent=False)
        self.register_buffer("joint_positions_TW", positions_from_one(shape.max_frames, joint), persistent=False)

    def forward(self, frames: Sequence[Tensor], lengths: Sequence[Tensor]) -> Tensor:
        """[B, C] from frames [B, T, F] and lengths [B] of each modality."""
        projected = [self._project(rank, *each) for rank, each in enumerate(zip(frames, lengths, strict=True))]
        joint = self._reinforce(projected, lengths) if self.pairs else projected
        last_frames = [self._last_frame(target, joint_BTW, lengths[target]) for target, joint_BTW in enumerate(joint)]
        last_BC = torch.cat(last_frames, dim=-1)
        output_BC: Tensor = last_BC + self.residual(last_BC)
        return output_BC

    def _project(self, rank: int, frames_BTF: Tensor, length_B: Tensor) -> Tensor:
        """The temporal convolution, over zeros where the padding is."""
        valid_BT = torch.arange(frames_BTF.shape[1], device=frames_BTF.device) < length_B[:, None]
        frames_BTF = frames_BTF.masked_fill(~valid_BT[:, :, None], 0.0)
        convolved_BDT: Tensor = self.convolutions[rank](frames_BTF.transpose(1, 2))
        return convolved_BDT.transpose(1, 2)

    def _reinforce(self, projected: Sequence[Tensor], lengths: Sequence[Tensor]) -> list[Tensor]:
        """Each target's frames as each source enriches them, side by side: [B, T, (n-1)D]."""
        embedded = [embed(x_BTD, self.positions_TD) for x_BTD in projected]
        enriched: list[list[Tensor]] = [[] for _ in embedded]
        for (target, source), transformer in zip(self.pairs, self.crossmodal, strict=True):
            view = self._view(lengths[target], embedded[target], lengths[source], embedded[source])
            enriched[target].append(transformer(embedded[target], embedded[source], view))
        return [torch.cat(of_target, dim=-1) for of_target in enriched]

    def _last_frame(self, target: int, joint_BTW: Tensor, length_B: Tensor) -> Tensor:
        view = self._view(length_B, joint_BTW, length_B, joint_BTW)
        x_BTW = self.joint[target](embed(joint_BTW, self.joint_positions_TW), None, view)
        rows_B = torch.arange(len(x_BTW), device=x_BTW.device)
        last_BW: Tensor = x_BTW[rows_B, (length_B - 1).clamp(min=0)]
        return last_BW.masked_fill(~view.present_B11[:, 0], 0.0)

    def _view(self, target_B: Tensor, target_BTW: Tensor, source_B: Tensor, source_BSW: Tensor) -> View:
        return View.of(target_B, target_BTW.shape[1], source_B, source_BSW.shape[1], self.shape.hides_future)


class MulT(nn.Module):
    """MulT with the sizes, the interface and the heads of GRF."""

    def __init__(self, config: GRFConfig) -> None:
        super().__init__()
        self.config = config
        self.body = MulTBody(MulTShape.of(config))
        self.heads = Heads(config, self.body.width)

    def forward(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor]) -> SampleOutput:
        """One whole segment [B, T, F] per modality; `lengths` [B] are 0 where a sample lacks the modality."""
        names = [modality.name for modality in self.config.modalities]
        fused_BC = self.body([inputs[name] for name in names], [lengths[name] for name in names])
        return SampleOutput(outputs=self.heads(fused_BC), auxiliary={}, contexts=[], gates=[])


def embed(x_BTW: Tensor, positions_TW: Tensor) -> Tensor:
    return math.sqrt(x_BTW.shape[-1]) * x_BTW + positions_TW[: x_BTW.shape[1]]


def positions_from_one(frames: int, width: int) -> Tensor:
    """[frames, width]: the positions 1, 2, .. in the form of tensor2tensor, all sines before all cosines."""
    half = width // 2
    rate_H = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10_000.0) / max(half - 1, 1)))
    angle_TH = torch.arange(1, frames + 1, dtype=torch.float32)[:, None] * rate_H
    return torch.cat([torch.sin(angle_TH), torch.cos(angle_TH)], dim=1)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Initialised as published: Xavier, and no bias at first."""
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
