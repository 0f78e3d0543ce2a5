"""What is fused: two sizes of the block and of its segments. No torch here, so that loads start quickly.

    light     d_model 64, 1 layer,  segments of  8 frames of width 32 (1 KB)
    paper     d_model 64, 4 layers, segments of 20 frames of width 74 (6 KB)

Each has two modalities of one width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

D_MODEL = 64
MODALITIES = ("left", "right")
LABELS = ("sitting", "walking", "running", "falling")


@dataclass(frozen=True, slots=True)
class Block:
    name: str
    n_layers: int
    frames: int
    width: int

    @property
    def segment_bytes(self) -> int:
        return 4 * self.frames * self.width

    def segments(self, count: int) -> list[npt.NDArray[np.float32]]:
        """Different segments [T, F], always the same ones."""
        rng = np.random.default_rng(self.frames)
        return list(rng.normal(size=(count, self.frames, self.width)).astype(np.float32))


LIGHT = Block("light", 1, 8, 32)
PAPER = Block("paper", 4, 20, 74)
BLOCKS = {block.name: block for block in (LIGHT, PAPER)}
