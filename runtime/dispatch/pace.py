"""How much one turn of the worker does: so many segments that it takes about as long as it may.

Whoever sends while a turn is under way waits for its end, so the length of a turn is what one tenant can do to the
latency of another. While several tenants are connected turns are short; a tenant that is alone waits for nobody else,
and gets the larger batches that use the device best.
"""

from __future__ import annotations

FEWEST_SEGMENTS = 8
"""a batch of so few costs hardly more than one of a single segment"""
LARGEST_CUT = 0.7
"""of the bound, after one turn: a turn may have been long for a reason of its own"""
GROWTH = 1.1


class Pace:
    def __init__(self, turn_s: float, shared_turn_s: float, most_segments: int) -> None:
        """A turn should take `turn_s` at most, and `shared_turn_s` while several tenants are connected."""
        self._turn_s = turn_s
        self._shared_turn_s = shared_turn_s
        self._most = most_segments
        self._bound = float(most_segments)

    @property
    def segments(self) -> int:
        """The most that a turn admits, and the most that it fuses."""
        return int(self._bound)

    def turn_took(self, seconds: float, segments: int, *, shared: bool) -> None:
        """Learn from a turn that admitted or fused so many segments."""
        target_s = self._shared_turn_s if shared else self._turn_s
        if seconds > target_s and segments > self._bound * LARGEST_CUT:
            self._bound *= max(LARGEST_CUT, target_s / seconds)
        elif seconds < target_s * LARGEST_CUT and segments >= int(self._bound):
            self._bound *= GROWTH
        self._bound = min(max(self._bound, min(FEWEST_SEGMENTS, self._most)), float(self._most))
