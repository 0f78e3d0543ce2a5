"""Segments of mixed modalities side by side: packed for projection, padded for the shared block.

Frames are projected packed, so nothing is computed for padding there, then placed into the grid [B, T, D].

Shapes: B segments, T frames of the longest, N frames of all segments together, F the width of one modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from grf_core.step import Float32Array


@dataclass(frozen=True, slots=True)
class PackedSegments:
    frames: Mapping[int, Tensor]
    """By modality rank, ascending: [frames of all its segments, F]. Only the ranks that occur."""
    row: Tensor
    """[N] int64: the segment each packed frame belongs to, in the order of `frames`."""
    position: Tensor
    """[N] int64: its place within that segment, from 0."""
    lengths: Tensor
    """[B] int64: frames of each segment, at least 1."""
    longest: int
    """T"""

    def with_frames(self, frames: Mapping[int, Tensor]) -> PackedSegments:
        """The same segments with other values, of the same shapes."""
        return replace(self, frames=frames)

    def valid(self) -> Tensor:
        """[B, T]: true at frames, false at padding."""
        return torch.arange(self.longest, device=self.lengths.device) < self.lengths[:, None]


def pack_segments(
    frames: Sequence[Float32Array], ranks: npt.NDArray[np.int64], device: torch.device | str = "cpu"
) -> PackedSegments:
    """Pack B arrays [T_b, F of its rank]: one copy of the values and one of the indices, whatever B is."""
    lengths_B = np.fromiter((len(segment) for segment in frames), np.int64, len(frames))
    by_rank_B = np.argsort(ranks, kind="stable")
    packed_lengths_B = lengths_B[by_rank_B]
    row_N = np.repeat(by_rank_B, packed_lengths_B)
    first_of_row_B = np.cumsum(packed_lengths_B) - packed_lengths_B
    position_N = np.arange(len(row_N)) - np.repeat(first_of_row_B, packed_lengths_B)

    values = torch.from_numpy(np.concatenate([frames[row].reshape(-1) for row in by_rank_B])).to(device)
    indices = torch.from_numpy(np.concatenate([row_N, position_N, lengths_B])).to(device)
    row, position, lengths = indices.split([len(row_N), len(row_N), len(lengths_B)])
    return PackedSegments(
        frames=_split_by_rank(values, frames, ranks, lengths_B),
        row=row,
        position=position,
        lengths=lengths,
        longest=int(lengths_B.max()),
    )


def _split_by_rank(
    values: Tensor, frames: Sequence[Float32Array], ranks: npt.NDArray[np.int64], lengths_B: npt.NDArray[np.int64]
) -> dict[int, Tensor]:
    present, first_row = np.unique(ranks, return_index=True)
    counts = [int(lengths_B[ranks == rank].sum()) for rank in present]
    widths = [frames[row].shape[1] for row in first_row]
    parts = values.split([count * width for count, width in zip(counts, widths, strict=True)])
    return {
        int(rank): part.view(count, width)
        for rank, part, count, width in zip(present, parts, counts, widths, strict=True)
    }
