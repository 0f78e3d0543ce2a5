"""Rows of nearly equal length: how a batch is cut into buckets, and where the frames of one bucket lie.

What concerns single frames runs on packed frames [N, .], never on padding. Attention needs rows side by side [B, T, .]:
where all lengths are equal that is a view, else one gather there and one back.

Shapes: B segments, T frames of the longest, S = T and padding to a full vector of the processor, N packed frames,
W any width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IntArray = npt.NDArray[np.int64]
VECTOR = 16
"""Softmax over a last dimension that is no multiple of this took 2 to 2.5 times as long, measured with AVX-512."""
SMALLEST_RATIO = 0.75
"""Rows at least so long in proportion to the longest share its bucket whatever the padding."""


def buckets(lengths: Sequence[int], most_frames: int, most_padding: int) -> Iterator[Sequence[int]]:
    """Cut a batch into buckets of row numbers, each of at most `most_frames` frames, or of one row.

    `most_padding` is how many attention scores may be spent on padding before rows much shorter than the longest get a
    bucket of their own: fewer scores cost less time than another bucket.
    """
    if sum(lengths) <= most_frames and _are_near(lengths, most_padding):
        yield range(len(lengths))
        return
    longest_first = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    bucket: list[int] = []
    longest = frames = padding = 0
    for row in longest_first:
        length = lengths[row]
        own_padding = longest * longest - length * length
        too_short = length < SMALLEST_RATIO * longest and padding + own_padding > most_padding
        if bucket and (frames + length > most_frames or too_short):
            yield sorted(bucket)
            bucket, frames, padding = [], 0, 0
        if not bucket:
            longest, own_padding = length, 0
        bucket.append(row)
        frames += length
        padding += own_padding
    yield sorted(bucket)


def _are_near(lengths: Sequence[int], most_padding: int) -> bool:
    longest = max(lengths)
    if min(lengths) >= SMALLEST_RATIO * longest:
        return True
    return sum(longest * longest - length * length for length in lengths) <= most_padding


class Layout:
    """Where the frames of one bucket lie. The padding of a row repeats its own last frame, so that no value of one row
    ever comes near another's, not even times zero."""

    def __init__(self, lengths: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        self.rows, self.longest, self.frames = len(lengths), max(lengths), sum(lengths)
        self.full = -(-self.longest // VECTOR) * VECTOR
        """S"""
        self.equal = self.frames == self.rows * self.longest
        if not self.equal:
            self._index(np.array(lengths), device, dtype)

    def _index(self, lengths_B: IntArray, device: torch.device, dtype: torch.dtype) -> None:
        first_B1 = (np.cumsum(lengths_B) - lengths_B)[:, None]
        dense_BT = first_B1 + np.minimum(np.arange(self.longest), lengths_B[:, None] - 1)
        row_N = np.repeat(np.arange(self.rows), lengths_B)
        position_N = np.arange(self.frames) - first_B1[row_N, 0]
        parts = [row_N, position_N, row_N * self.longest + position_N, dense_BT.reshape(-1), lengths_B]
        indices = torch.from_numpy(np.concatenate(parts)).to(device)
        self._row_N, self._position_N, self._place_N, self._dense_BT, lengths = indices.split([len(p) for p in parts])
        self._valid_BT = torch.arange(self.longest, device=device) < lengths[:, None]
        self._lengths_B1 = lengths[:, None].to(dtype)
        self._counted_B1T = self._valid_BT[:, None].to(dtype)

    def place_positions(self, table_TD: Tensor, first_frame: int, out_ND: Tensor) -> None:
        """Fill some rows' frames, packed ones from `first_frame` on, from a table over positions."""
        if self.equal:
            out_ND.view(-1, self.longest, out_ND.shape[1]).copy_(table_TD[: self.longest])
        else:
            position_N = self._position_N[first_frame : first_frame + out_ND.shape[0]]
            torch.index_select(table_TD, 0, position_N, out=out_ND)

    def dense(self, x_NW: Tensor) -> Tensor:
        """[B, T, W]"""
        x = x_NW if self.equal else x_NW.index_select(0, self._dense_BT)
        return x.view(self.rows, self.longest, -1)

    def packed(self, x_BTW: Tensor) -> Tensor:
        """[N, W], of a contiguous tensor."""
        x = x_BTW.view(self.rows * self.longest, -1)
        return x if self.equal else x.index_select(0, self._place_N)

    def mean(self, x_BTD: Tensor) -> Tensor:
        """[B, D]: over the valid frames."""
        return x_BTD.mean(dim=1) if self.equal else torch.bmm(self._counted_B1T, x_BTD)[:, 0].div_(self._lengths_B1)

    def add_to_frames(self, x_ND: Tensor, row_BD: Tensor, in_place: bool) -> Tensor:
        """Each row's vector, added to all its frames."""
        if not self.equal:
            added_ND = row_BD.index_select(0, self._row_N)
            return x_ND.add_(added_ND) if in_place else added_ND.add_(x_ND)
        x_BTD, row_B1D = x_ND.view(self.rows, self.longest, -1), row_BD[:, None]
        return (x_BTD.add_(row_B1D) if in_place else x_BTD + row_B1D).view(x_ND.shape)

    def mask(self, full: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """[B or 1, 1, full]: 0 at frames, minus infinity at padding; None where there is no padding."""
        if self.equal and full == self.longest:
            return None
        mask = torch.full((1 if self.equal else self.rows, 1, full), -torch.inf, dtype=dtype, device=device)
        if self.equal:
            mask[..., : self.longest] = 0.0
        else:
            mask[..., : self.longest].masked_fill_(self._valid_BT[:, None], 0.0)
        return mask
