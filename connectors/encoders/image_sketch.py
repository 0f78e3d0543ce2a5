"""A whole picture into 176 numbers, without any learnt weights: where it is bright and of which colour, and which way
its edges run.

Made by hand in the manner of HOG (Dalal and Triggs, CVPR 2005): 4 x 4 cells, of each its mean colour (3) and the
directions of its edges (8 bins, weighted by their strength, the whole of length 1 where there are any). It tells a lit
room from a dark one, a face from a wall, a thing that moved from one that did not. It knows nothing of what is in the
picture: for that, bring a network of your own by `kind: python`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from connectors.base import JsonValue, Sample
from connectors.encoders.base import EncoderOptions, Frames
from connectors.encoders.hosted import HostedFactory
from connectors.media import Picture, picture_of, time_of

CELLS, DIRECTIONS, SIDE = 4, 8, 64
"""cells across and down, bins of half a turn, and pixels across and down that a picture is brought to"""
NUMBERS = CELLS * CELLS * (3 + DIRECTIONS)
FAINT = 1e-3
"""added to the strength of all edges together, so that noise on a wall is not made as strong as a face"""


class ImageSketchOptions(EncoderOptions):
    kind: Literal["image_sketch"] = "image_sketch"
    processes: int = Field(1, ge=1, le=64, description="How many; a stream stays with one of them.")

    def build(self) -> HostedFactory:
        return HostedFactory(ImageSketchWorkshop, processes=self.processes, lag_s=0)


class ImageSketchWorkshop:
    def work(self, stream: str) -> ImageSketchWork:
        return ImageSketchWork()


class ImageSketchWork:
    """Remembers nothing: a picture is a frame."""

    def encode(self, samples: Sequence[Sample]) -> list[Frames]:
        pictures = [(picture_of(sample), time_of(sample)) for sample in samples]
        if not pictures:
            return []
        frames = np.stack([image_sketch(picture) for picture, _ in pictures])
        return [Frames(frames, np.array([time_s for _, time_s in pictures]))]

    def end(self) -> list[Frames]:
        return []

    def snapshot(self) -> JsonValue:
        return None

    def restore(self, state: JsonValue) -> None:
        pass


def image_sketch(picture: Picture) -> npt.NDArray[np.float32]:
    """[176] of [H, W, 3]."""
    small = _small(picture)
    grey = small.mean(axis=2)
    down, across = np.gradient(grey)
    strength = np.hypot(down, across)
    bins = (np.arctan2(down, across) % np.pi / np.pi * DIRECTIONS).astype(int) % DIRECTIONS
    directions = np.stack([np.where(bins == one, strength, 0.0) for one in range(DIRECTIONS)], axis=-1)
    edges = _cells(directions).reshape(-1)
    edges /= np.linalg.norm(edges) + FAINT
    return np.concatenate([_cells(small).reshape(-1), edges]).astype(np.float32)


def _small(picture: Picture) -> npt.NDArray[np.float64]:
    """[SIDE, SIDE, 3] in [0, 1]: means of what falls on each pixel; a smaller picture is repeated."""
    rows, columns = (np.linspace(0, size, SIDE, endpoint=False).astype(int) for size in picture.shape[:2])
    sums: npt.NDArray[Any] = picture
    for axis, starts in ((0, rows), (1, columns)):
        if picture.shape[axis] < SIDE:
            sums = np.take(sums, starts, axis=axis)
        else:
            counts = np.diff([*starts, picture.shape[axis]]).reshape([-1 if at == axis else 1 for at in range(3)])
            sums = np.add.reduceat(sums, starts, axis=axis, dtype=np.float64) / counts
    small: npt.NDArray[np.float64] = sums / 255.0
    return small


def _cells(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[CELLS, CELLS, C]: means over the cells of [SIDE, SIDE, C]."""
    size = SIDE // CELLS
    means: npt.NDArray[np.float64] = values.reshape(CELLS, size, CELLS, size, -1).mean(axis=(1, 3))
    return means
