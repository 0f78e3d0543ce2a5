"""How many workers should serve? Pure: fed with what they report, told the time, with hysteresis and bounds.

One more when all of them are busy, hold much that is unsettled, or look late at what has come, for a while; one less
when all are idle for a longer while and the others could carry it. One at a time: each step changes what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from runtime.placement import Beat, ClusterPolicy


@dataclass(frozen=True, slots=True)
class Load:
    busy: float
    """mean share of their time that the serving workers work"""
    pending_bytes: float
    """mean"""
    lag_s: float
    """largest"""

    @staticmethod
    def of(beats: Sequence[Beat]) -> Load | None:
        """None while nobody serves."""
        if not beats:
            return None
        return Load(
            sum(beat.busy for beat in beats) / len(beats),
            sum(beat.pending_bytes for beat in beats) / len(beats),
            max(beat.lag_s for beat in beats),
        )


@dataclass(frozen=True, slots=True)
class Decision:
    workers: int
    reason: str


class Autoscaler:
    def __init__(self, policy: ClusterPolicy) -> None:
        self._policy = policy
        self._high_since_s = self._low_since_s = inf

    def decide(self, load: Load, workers: int, now_s: float) -> Decision | None:
        policy = self._policy
        if not policy.max_workers:
            return None
        high = self._why_more(load)
        low = self._why_less(load, workers)
        self._high_since_s = min(self._high_since_s, now_s) if high else inf
        self._low_since_s = min(self._low_since_s, now_s) if low else inf
        if workers < policy.max_workers and now_s - self._high_since_s >= policy.scale_up_after_s:
            self._high_since_s = inf
            return Decision(workers + 1, f"{high} for {policy.scale_up_after_s:g} s")
        if workers > policy.workers and now_s - self._low_since_s >= policy.scale_down_after_s:
            self._low_since_s = inf
            return Decision(workers - 1, f"{low} for {policy.scale_down_after_s:g} s")
        return None

    def _why_more(self, load: Load) -> str:
        policy = self._policy
        if load.busy > policy.scale_up_busy:
            return f"workers are {load.busy:.0%} busy"
        if load.pending_bytes > policy.scale_up_pending_bytes:
            return f"{load.pending_bytes / 2**20:.0f} MiB per worker are unsettled"
        if load.lag_s > policy.scale_up_lag_s:
            return f"what comes waits for {load.lag_s:.1f} s"
        return ""

    def _why_less(self, load: Load, workers: int) -> str:
        """Only if the others would not be busy enough to call one back."""
        policy = self._policy
        others_busy = load.busy * workers / max(workers - 1, 1)
        if load.busy < policy.scale_down_busy and others_busy < policy.scale_up_busy and not self._why_more(load):
            return f"workers are {load.busy:.0%} busy"
        return ""
