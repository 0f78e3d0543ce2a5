"""What happened in a pipeline, to be counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """What happened since it was last taken, for the metrics. Nothing is left out without being counted."""

    samples: int = 0
    segments: int = 0
    frames_left_out: int = 0
    duplicates: int = 0
    unrouted: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    clock: Counter[str] = field(default_factory=Counter)
    last_bad: str = ""
    lag_s: float | None = None
    """of the newest sample that has both: arrival less event time"""
