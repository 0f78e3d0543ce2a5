"""Between a library that calls back and a source that is iterated: one bounded queue, and what happens when it is full.

`block` keeps everything and makes the other side wait (a heart-rate belt); `drop_oldest` gives up the oldest sample
and counts it (a camera: what is new matters more).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Literal

from connectors.base import MAX_BATCH, Sample

WhenFull = Literal["block", "drop_oldest"]


class Intake:
    """Belongs to one event loop; another thread uses `loop.call_soon_threadsafe(intake.offer, sample)`."""

    def __init__(self, *, max_samples: int, when_full: WhenFull) -> None:
        self.dropped = 0
        self.max_samples = max_samples
        self._when_full = when_full
        self._samples: deque[Sample] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._error: Exception | None = None
        self._ended = False

    def __len__(self) -> int:
        return len(self._samples)

    def offer(self, sample: Sample) -> bool:
        """Take it if there is room, or by giving up the oldest; False where the policy is to wait: use `put`."""
        if len(self._samples) >= self.max_samples:
            if self._when_full == "block":
                return False
            self._samples.popleft()
            self.dropped += 1
        self._samples.append(sample)
        self._changed.set()
        return True

    async def put(self, sample: Sample) -> None:
        """Take it, once there is room."""
        while not self.offer(sample):
            self._room.clear()
            await self._room.wait()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """What is there is still handed over, then this is raised."""
        self._error = error
        self._changed.set()

    async def batches(self) -> AsyncGenerator[list[Sample], None]:
        while True:
            if self._samples:
                batch = [self._samples.popleft() for _ in range(min(MAX_BATCH, len(self._samples)))]
                self._room.set()
                yield batch
            elif self._error is not None:
                raise self._error
            elif self._ended:
                return
            else:
                self._changed.clear()
                await self._changed.wait()
