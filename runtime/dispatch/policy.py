"""What a deployment may choose about windows, checkpoints and turns. Not compiled, as `runtime/engine/policies.py`."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class DispatchPolicy:
    window_segments: int = 1024
    """per connection: segments sent and not yet fused"""
    window_bytes: int = 8 << 20
    """the same in bytes"""
    checkpoint_sessions: int = 2000
    """sessions in one write to the store, at most"""
    checkpoint_interval_s: float = 0.02
    """at least so long between two writes"""
    store_retry_s: float = 0.5
    """between two attempts while the store does not answer"""
    turn_s: float = 0.025
    """how long a turn of the worker should take at most: it bounds the segments admitted and fused in one"""
    shared_turn_s: float = 0.001
    """the same while several tenants are connected: whoever sends meanwhile waits for its end"""

    def __post_init__(self) -> None:
        for name in ("window_segments", "window_bytes", "checkpoint_sessions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)}")
        if not 0 <= self.checkpoint_interval_s < inf:
            raise ValueError(f"checkpoint_interval_s must be finite and not negative: {self.checkpoint_interval_s:g}")
        if not 0 < self.store_retry_s < inf:
            raise ValueError(f"store_retry_s must be positive and finite: {self.store_retry_s:g}")
        if not 0 < self.shared_turn_s <= self.turn_s:
            raise ValueError(f"shared_turn_s ({self.shared_turn_s:g}) must be positive and at most turn_s")
