"""Counts that the engine adds up locally; the worker flushes them to its metrics on a timer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

Counts = defaultdict[str, int]
"""no Counter: that is a class of Python, whose items are set through a look-up of its methods, thrice for a segment"""
_counts = partial(Counts, int)


@dataclass(slots=True)
class Tally:
    """Since it was last taken. Counters are keyed by modality name, or by reason where the name says so."""

    received: Counts = field(default_factory=_counts)
    fused: Counts = field(default_factory=_counts)
    settled: Counts = field(default_factory=_counts)
    duplicates: Counts = field(default_factory=_counts)
    late_dropped: Counts = field(default_factory=_counts)
    late_fused: Counts = field(default_factory=_counts)
    rejected_by_reason: Counts = field(default_factory=_counts)
    slowed_by_reason: Counts = field(default_factory=_counts)
    gaps: int = 0
    """sequence numbers that their publisher gave up before they were ever received"""
    rewinds: int = 0
    fused_again: int = 0
    """steps undone by rewinds"""
    horizon_cuts: int = 0
    """times a session reached its limit of unsettled segments and settled early"""
    evicted: int = 0
    batch_sizes: list[int] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    """from arrival at the worker to the end of the turn that has fused it, one per step"""
    watermark_lags_s: list[float] = field(default_factory=list)
    """newest event time less watermark, one per settling"""
