"""A labelled session as continuous streams, and its cutting into segments.

Datasets give streams; how they are cut into segments is the trainer's choice (drawn anew every epoch) or the
experiment's, so that a model is never tied to one segmentation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grf_core.step import Float32Array

Label = str | float
Times = npt.NDArray[np.float64]
LONGEST_SILENCE = 100
"""In segments, as far as cutting goes: a clock that jumps by years would be years of empty windows."""
TIME_SLACK_S = 1e-6
"""Frame times are sums of periods: a frame this little before an edge belongs behind it."""


@dataclass(frozen=True, slots=True)
class StreamFrames:
    """One stream of a session, whole. Frames need not be evenly spaced."""

    stream: str
    modality: str
    frames: Float32Array
    """[T, F], finite, T >= 1"""
    times_s: Times
    """[T] event time of each frame, ascending"""
    measured: npt.NDArray[np.float32] | None = None
    """What the frames were computed from, whole, where a recipe varies that and computes them anew."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelTrack:
    """A label that changes along the session: each value holds from its time on until the next."""

    times_s: Times
    """[N] event times, ascending, N >= 1; nothing is known before the first, which may be -inf"""
    values: tuple[Label, ...]
    """N class labels, or N values in their own unit"""

    def __post_init__(self) -> None:
        if len(self.times_s) != len(self.values) or not self.values:
            raise ValueError(f"{len(self.times_s)} times for {len(self.values)} labels")
        if np.isnan(self.times_s).any() or (np.diff(self.times_s) < 0).any():
            raise ValueError("the times of a label do not ascend")

    def positions(self, times_s: Times) -> npt.NDArray[np.int64]:
        """[M]: which of the values holds at each time; -1 where none is known yet."""
        return np.searchsorted(self.times_s, times_s, side="right").astype(np.int64) - 1


Labels = Mapping[str, Label | LabelTrack]
"""By head. A head that is absent is not known for this session."""


@dataclass(frozen=True, slots=True)
class LabelledSession:
    session: str
    labels: Labels
    """By head: a class label, or a value in its own unit, of the whole session or along it."""
    streams: tuple[StreamFrames, ...]

    @property
    def end_s(self) -> float:
        """Event time of its last frame."""
        return max(float(stream.times_s[-1]) for stream in self.streams)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The halves as its authors cut them, and what a model card has to say of it."""

    name: str
    source: str
    licence: str
    split: str
    train: tuple[LabelledSession, ...]
    test: tuple[LabelledSession, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    stream: str
    modality: str
    sequence: int
    event_time_s: float
    """The time of its last frame: it cannot have been published before."""
    frames: Float32Array
    """[T, F]"""


@dataclass(frozen=True, slots=True)
class Cutting:
    """How long segments are: each session draws a typical length, each of its segments varies around it."""

    shortest_s: float
    longest_s: float
    vary: float = 0.0
    """A segment lasts from (1 - vary) to (1 + vary) times the session's typical length."""

    def __post_init__(self) -> None:
        if not 0 < self.shortest_s <= self.longest_s:
            raise ValueError(f"segments from {self.shortest_s} s to {self.longest_s} s cannot be cut")
        if not 0 <= self.vary < 1:
            raise ValueError(f"vary = {self.vary} is not in [0, 1)")


def cut_session(
    session: LabelledSession, cutting: Cutting, max_frames: Mapping[str, int], rng: np.random.Generator
) -> list[Segment]:
    """All segments of a session, stream after stream. Windows without a frame give no segment; longer ones than the
    modality's `max_frames` give several."""
    typical_s = math.exp(rng.uniform(math.log(cutting.shortest_s), math.log(cutting.longest_s)))
    segments: list[Segment] = []
    for stream in session.streams:
        bounds = _frame_bounds(stream.times_s, typical_s, cutting.vary, max_frames[stream.modality], rng)
        segments += [
            Segment(
                stream.stream, stream.modality, sequence, float(stream.times_s[stop - 1]), stream.frames[start:stop]
            )
            for sequence, (start, stop) in enumerate(bounds, start=1)
        ]
    return segments


def in_fusion_order(segments: Sequence[Segment], modalities: Sequence[str]) -> list[Segment]:
    """Sorted by event time, modality rank, stream, sequence."""
    rank = {name: position for position, name in enumerate(modalities)}
    return sorted(segments, key=lambda s: (s.event_time_s, rank[s.modality], s.stream, s.sequence))


def _frame_bounds(
    times_s: Times, typical_s: float, vary: float, max_frames: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    gaps_s = np.diff(times_s, prepend=times_s[:1])
    if gaps_s.max() > LONGEST_SILENCE * typical_s:
        times_s = np.cumsum(np.minimum(gaps_s, LONGEST_SILENCE * typical_s))
    windows = math.ceil((times_s[-1] - times_s[0]) / (typical_s * (1 - vary))) + 1
    lengths_s = typical_s * rng.uniform(1 - vary, 1 + vary, windows)
    edges_s = times_s[0] + np.cumsum(lengths_s) - TIME_SLACK_S
    starts = [0, *np.searchsorted(times_s, edges_s).tolist()]
    stops = [*starts[1:], len(times_s)]
    return [
        (first, min(first + max_frames, stop))
        for start, stop in zip(starts, stops, strict=True)
        for first in range(start, stop, max_frames)
    ]
