"""Whole samples of different lengths, with noise where the padding is, and some without one modality or another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grf_core.config import GRFConfig
from grf_core.model import SampleOutput

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Samples:
    inputs: dict[str, Tensor]
    lengths: dict[str, Tensor]

    def row(self, row: int) -> Samples:
        """One sample alone, without padding; of an absent modality one frame of it is left."""
        frames = {name: max(int(lengths[row]), 1) for name, lengths in self.lengths.items()}
        inputs = {name: frames_BTF[row : row + 1, : frames[name]] for name, frames_BTF in self.inputs.items()}
        return Samples(inputs, {name: lengths[row : row + 1] for name, lengths in self.lengths.items()})

    def with_other_padding(self) -> Samples:
        inputs = {}
        for name, frames_BTF in self.inputs.items():
            valid_BT = torch.arange(frames_BTF.shape[1]) < self.lengths[name][:, None]
            inputs[name] = torch.where(valid_BT[:, :, None], frames_BTF, torch.full_like(frames_BTF, 50.0))
        return Samples(inputs, self.lengths)


def random_samples(config: GRFConfig, count: int, seed: int = 0, absent: bool = True) -> Samples:
    """Every pattern of presence but "none" appears, over and over, where modalities may be `absent`."""
    generator = torch.Generator().manual_seed(seed)
    patterns = 2 ** len(config.modalities) - 1
    inputs, lengths = {}, {}
    for rank, modality in enumerate(config.modalities):
        length_B = torch.randint(1, modality.max_frames + 1, (count,), generator=generator)
        present_B = torch.tensor([not absent or bool((row % patterns + 1) >> rank & 1) for row in range(count)])
        lengths[modality.name] = torch.where(present_B, length_B, 0)
        inputs[modality.name] = torch.randn(count, modality.max_frames, modality.width, generator=generator)
    return Samples(inputs, lengths)


def all_answers(output: SampleOutput) -> Tensor:
    """Every head beside the other: [B, O of all]."""
    return torch.cat(list(output.outputs.values()), dim=1)
