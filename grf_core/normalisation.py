"""Means and standard deviations of the training half: frames are normalised going in, regression values coming out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grf_core.config import GRFConfig

SMALLEST_STD = 1e-30
"""What is divided by it stays finite as float32. Teslas and farads are far above."""
STILL = 1e-6
"""A feature that moves this little, beside the one of its modality that moves most and beside 1, does not move."""
ROUNDING = float(np.finfo(np.float32).eps)
"""Beside its mean, a feature does not move either if float32 cannot tell."""
LARGEST = float(np.finfo(np.float32).max)
FARTHEST_STD = 1e4
"""Normalised frames are clipped here: one absurd, finite value must not turn a context into infinities."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and standard deviation of each of F features, or of each of O values, in the data's own unit."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means for {len(self.std)} standard deviations")
        if not all(abs(value) <= LARGEST for value in (*self.mean, *self.std)):
            raise ValueError("not all finite as float32")
        if any(std < SMALLEST_STD for std in self.std):
            raise ValueError(f"a standard deviation is below {SMALLEST_STD}")

    @property
    def width(self) -> int:
        return len(self.mean)

    @classmethod
    def identity(cls, width: int) -> Statistics:
        return cls((0.0,) * width, (1.0,) * width)

    @classmethod
    def of(cls, rows: Iterable[npt.ArrayLike]) -> Statistics:
        """Over all rows of all the arrays [rows, F] given, at least one row in all. What never changes is divided by 1,
        not by its rounding noise."""
        values = np.concatenate([np.asarray(part, np.float64) for part in rows])
        mean, std = values.mean(axis=0), values.std(axis=0)
        noise = np.maximum(STILL * min(1.0, std.max()), ROUNDING * np.abs(mean))
        moves = std > np.maximum(noise, SMALLEST_STD)
        return cls(tuple(mean.tolist()), tuple(np.where(moves, std, 1.0).tolist()))


@dataclass(frozen=True, slots=True)
class Normalisation:
    modalities: Mapping[str, Statistics]
    """Every modality of the config."""
    heads: Mapping[str, Statistics]
    """Every regression head of the config."""

    @classmethod
    def identity(cls, config: GRFConfig) -> Normalisation:
        return cls(
            {modality.name: Statistics.identity(modality.width) for modality in config.modalities},
            {head.name: Statistics.identity(head.outputs) for head in config.heads if head.kind == "regression"},
        )
