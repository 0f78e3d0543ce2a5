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


@dataclass(slots=True)
class Totals:
    """What has become of one source since the command began."""

    samples: int = 0
    segments: int = 0
    frames_left_out: int = 0
    duplicates: int = 0
    unrouted: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """segments, by the code that the runtime gave"""
    dropped: Counter[str] = field(default_factory=Counter)
    """samples and segments that nobody took in time"""

    def add(self, tally: Tally) -> None:
        self.samples += tally.samples
        self.segments += tally.segments
        self.frames_left_out += tally.frames_left_out
        self.duplicates += tally.duplicates
        self.unrouted += tally.unrouted
        self.bad += tally.bad
