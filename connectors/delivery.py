"""When is a position of a replayable source safe? Pure: told what was published, what is durable, and the time.

    source      s1 s2 s3 s4 | s5 s6 s7 ...
                            barrier: position of s4, snapshot of pipeline and encoders
    segments    a1 b1 a2    | b2 a3 ...
                all durable -> snapshot written -> commit(position of s4)

One barrier is on its way at a time. A process killed at any moment finds the last written snapshot, and
- what was published after it is made again with the same numbers, which the worker knows or sees for the first time;
- what was published before it is durable.
So nothing is lost and nothing counted twice. The position is committed last: a source that does not seek hands over
again what lies between a written snapshot and a commit that never came, and the snapshot knows those samples.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from pydantic import Field

from connectors.base import Options, Position
from runtime.client.published import Receipt


class SnapshotOptions(Options):
    every_s: float = Field(1.0, gt=0, description="A snapshot at most this long after the first sample it holds.")
    every_samples: int = Field(20_000, ge=1, description="And at most this many samples after the last one.")
    idle_s: float = Field(0.2, gt=0, description="And as soon as the source has been silent for this long.")


class Barrier:
    """One snapshot on its way."""

    __slots__ = ("position", "receipts", "snapshot")

    def __init__(self, position: Position, snapshot: Any, receipts: deque[Receipt]) -> None:
        self.position = position
        self.snapshot = snapshot
        self.receipts = receipts
        """of the segments before it that were not durable or refused when last looked at"""

    def is_safe(self) -> bool:
        """Every segment before it is durable, or was refused for good and so is accounted for."""
        while self.receipts and self.receipts[0].is_final:
            self.receipts.popleft()
        return not self.receipts


class Delivery:
    """Of one source."""

    def __init__(self, options: SnapshotOptions) -> None:
        self.barrier: Barrier | None = None
        """the one on its way"""
        self.committed = 0
        """barriers whose snapshot is written"""
        self._options = options
        self._receipts: deque[Receipt] = deque()
        """of segments after the last barrier, or all if there was none"""
        self._samples = 0
        self._first_at_s = 0.0
        self._newest_at_s = 0.0

    @property
    def uncommitted(self) -> int:
        """Samples after the last barrier."""
        return self._samples

    def took(self, samples: int, now_s: float) -> None:
        if not self._samples:
            self._first_at_s = now_s
        self._samples += samples
        self._newest_at_s = now_s

    def published(self, receipt: Receipt) -> None:
        if not receipt.is_final:
            self._receipts.append(receipt)

    def is_due(self, now_s: float) -> bool:
        """Is it time for a barrier? Never while one is on its way."""
        if self.barrier is not None or not self._samples:
            return False
        return now_s >= self._due_at_s or self._samples >= self._options.every_samples

    @property
    def _due_at_s(self) -> float:
        return min(self._first_at_s + self._options.every_s, self._newest_at_s + self._options.idle_s)

    def wake_in_s(self, now_s: float) -> float | None:
        """How long until a barrier may be due if no sample comes; None if none will be."""
        if self.barrier is not None or not self._samples:
            return None
        return max(self._due_at_s - now_s, 0.0)

    def begin(self, position: Position, snapshot: Any) -> Barrier:
        """A barrier here: what was published so far is before it."""
        assert self.barrier is None
        self.barrier = Barrier(position, snapshot, self._receipts)
        self._receipts = deque()
        self._samples = 0
        return self.barrier

    def written(self) -> None:
        """The snapshot of the barrier is on disk."""
        assert self.barrier is not None
        self.barrier = None
        self.committed += 1
