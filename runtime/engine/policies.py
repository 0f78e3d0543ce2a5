"""What a deployment may choose about order, batches and quotas.

Settings read these annotations, and Ray pickles the objects: neither works with a compiled class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal


@dataclass(frozen=True, slots=True)
class OrderPolicy:
    """How sessions order their segments. Times in seconds of event time unless the remark says otherwise."""

    mode: Literal["rewind", "hold", "arrival"] = "rewind"
    """rewind: fuse at once, fuse again when order was wrong. hold: fuse only what is settled.
    arrival: the order of arrival is the fusion order"""
    lateness_s: float = 0.5
    """how far behind the others a segment may land and still be put in its place"""
    lateness_by_modality_s: Mapping[str, float] = field(default_factory=dict)
    """the same for single modalities"""
    idle_timeout_s: float = 2.0
    """processing time: a stream silent for so long is not waited for, a silent session settles all it has"""
    restart_grace_s: float = 10.0
    """processing time: how long a stream that was flowing when its worker died is waited for"""
    late: Literal["drop", "fuse"] = "drop"
    """fuse: a late segment is fused as if it had happened just after the watermark"""
    max_future_s: float = 60.0
    """how far ahead of this machine's wall clock an event may claim to be"""
    max_jump_s: float = 3600.0
    """how far ahead of its session's newest event a segment may be, while the session is not idle"""
    max_unsettled_segments: int = 1024
    """of a session; beyond, its oldest settle early"""
    max_unsettled_bytes: int = 32 << 20
    """the same in bytes"""

    def __post_init__(self) -> None:
        for name in ("lateness_s", "idle_timeout_s", "restart_grace_s", "max_future_s", "max_jump_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")
        for modality, lateness_s in self.lateness_by_modality_s.items():
            if not lateness_s >= 0:
                raise ValueError(f"lateness_by_modality_s[{modality!r}] must not be negative: {lateness_s}")
        if self.mode not in ("rewind", "hold", "arrival"):
            raise ValueError(f"mode must be rewind, hold or arrival: {self.mode!r}")
        if self.late not in ("drop", "fuse"):
            raise ValueError(f"late must be drop or fuse: {self.late!r}")
        if self.max_unsettled_segments < 1 or self.max_unsettled_bytes < 1:
            raise ValueError("max_unsettled_segments and max_unsettled_bytes must be positive")

    def lateness_of(self, modality: str) -> float:
        if self.mode == "arrival":
            return 0.0
        return self.lateness_by_modality_s.get(modality, self.lateness_s)

    @property
    def fuses_late(self) -> bool:
        return self.late == "fuse" or self.mode == "arrival"


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    max_segments: int = 256
    """in one micro-batch, at most; the pace of the worker (dispatch.turn_s) may ask for fewer"""
    max_padded_frames: int = 16384
    """rows times the longest segment: bounds the work of one step"""

    def __post_init__(self) -> None:
        if self.max_segments < 1 or self.max_padded_frames < 1:
            raise ValueError("max_segments and max_padded_frames must be positive")


@dataclass(frozen=True, slots=True)
class QuotaPolicy:
    """Per tenant and worker, but for `worker_pending_bytes`."""

    max_sessions: int = 1_000_000
    """in memory at once"""
    max_pending_bytes: int = 256 << 20
    """of segments that have landed and are not settled"""
    max_segments_per_s: float = inf
    """sustained; a second's worth may come at once"""
    worker_pending_bytes: int = 1 << 30
    """over all tenants"""

    def __post_init__(self) -> None:
        for name in ("max_sessions", "max_pending_bytes", "max_segments_per_s", "worker_pending_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive: {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class EnginePolicy:
    """All of the engine's."""

    order: OrderPolicy = field(default_factory=OrderPolicy)
    batch: BatchPolicy = field(default_factory=BatchPolicy)
    quota: QuotaPolicy = field(default_factory=QuotaPolicy)
    capacity: int = 65536
    """rows of the slab"""
    evict_after_s: float = 60.0
    """processing time: an idle session leaves memory; its record stays in the store"""
    history_length: int = 256
    """settled versions of a session that wait for a checkpoint, at most: the store keeps no more either"""
