"""Counts that the engine adds up locally; the worker flushes them to its metrics on a timer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Since it was last taken. Counters are keyed by modality name, or by reason where the name says so."""

    received: Counter[str] = field(default_factory=Counter)
    fused: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    late_dropped: Counter[str] = field(default_factory=Counter)
    late_fused: Counter[str] = field(default_factory=Counter)
    rejected_by_reason: Counter[str] = field(default_factory=Counter)
    slowed_by_reason: Counter[str] = field(default_factory=Counter)
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
    """from landing to fused, one per step"""
    watermark_lags_s: list[float] = field(default_factory=list)
    """newest event time less watermark, one per settling"""
