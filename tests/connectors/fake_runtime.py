"""A runtime as a connector sees it: knows numbers, makes durable after a while, forgets nothing durable."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from connectors.cutting import Values
from runtime.client import Refused
from runtime.client.published import Receipt

Name = tuple[str, str]


class FakeRuntime:
    """Outlives the connector. What lands is durable a little later, whoever is there to hear it."""

    def __init__(self) -> None:
        self.segments: dict[Name, dict[int, tuple[bytes, float]]] = {}
        self.times_landed = 0
        self.contradictions: list[str] = []
        """numbers that came again with other content"""
        self.ended: set[Name] = set()
        self.begun: list[Name] = []
        """before they had a segment"""

    def land(self, name: Name, sequence: int, frames: Values, event_time_s: float) -> None:
        stream = self.segments.setdefault(name, {})
        content = (frames.tobytes(), event_time_s)
        self.times_landed += 1
        if stream.setdefault(sequence, content) != content:
            self.contradictions.append(f"{name} {sequence}: {stream[sequence]} and then {content}")


class FakeSink:
    """Of one life of a connector."""

    def __init__(self, runtime: FakeRuntime, rng: random.Random, slowest_s: float = 2.0) -> None:
        self.receipts: list[Receipt] = []
        self.refusal: Refused | None = None
        self._runtime = runtime
        self._rng = rng
        self._slowest_s = slowest_s
        self._alive = True
        self._changed = asyncio.Event()
        self._lands_at_s: dict[Name, float] = {}
        self._next: dict[Name, int] = {}

    def begin(self, session: str, stream: str, modality: str, *, sequence: int | None) -> None:
        name = (session, stream)
        expected = self._next.get(name, sequence)
        assert sequence == expected, f"{name}: begun at {sequence}, expected {expected}"
        self._runtime.begun.append(name)
        if sequence is not None:
            self._next[name] = sequence

    async def publish(
        self, session: str, stream: str, modality: str, frames: Values, event_time_s: float, *, sequence: int | None
    ) -> Receipt:
        await asyncio.sleep(self._rng.choice([0.0, 0.0, 0.0, 0.01]))
        receipt = Receipt()
        name = (session, stream)
        self._runtime.ended.discard(name)
        number = self._next.get(name, 1) if sequence is None else sequence
        expected = self._next.setdefault(name, number)
        assert number == expected, f"{name}: number {number} out of turn, expected {expected}"
        self._next[name] = number + 1
        receipt.sequence = number
        loop = asyncio.get_running_loop()
        # A stream's segments land in order, as they do over one connection.
        at_s = max(loop.time() + self._rng.uniform(0.0, self._slowest_s), self._lands_at_s.get(name, 0.0) + 1e-6)
        self._lands_at_s[name] = at_s
        loop.call_at(at_s, self._land, name, number, np.array(frames), event_time_s, receipt)
        self.receipts.append(receipt)
        return receipt

    def _land(self, name: Name, sequence: int, frames: Values, event_time_s: float, receipt: Receipt) -> None:
        if self._alive:  # else it was in the buffer of a process that is no more
            self._runtime.land(name, sequence, frames, event_time_s)
            receipt.is_durable = True
            self.notify()

    def notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def kill(self) -> None:
        self._alive = False

    @property
    def unfinished(self) -> int:
        return sum(not receipt.is_final for receipt in self.receipts)

    def end(self, session: str, stream: str) -> None:
        """A stream to which nothing was ever published, its windows being too short, has no end either."""
        name = (session, stream)
        if name in self._next or name in self._runtime.segments:
            self._runtime.ended.add(name)

    def forget(self, session: str, stream: str) -> None:
        self.end(session, stream)
        self._next.pop((session, stream), None)

    async def wait_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            if self.refusal is not None:
                raise self.refusal
            changed = self._changed
            await changed.wait()

    async def flush(self, timeout_s: float | None = None) -> None:
        await self.wait_until(lambda: all(receipt.is_final for receipt in self.receipts))


class MemorySnapshots:
    """As a file: there whole or not at all, after a while."""

    def __init__(self, rng: random.Random) -> None:
        self.kept: Any = None
        self.saved = 0
        self._rng = rng

    def load(self) -> Any:
        return copy.deepcopy(self.kept)

    async def save(self, snapshot: Any) -> None:
        snapshot = copy.deepcopy(snapshot)
        await asyncio.sleep(self._rng.uniform(0.0, 0.1))
        self.kept = snapshot
        self.saved += 1
        await asyncio.sleep(self._rng.uniform(0.0, 0.1))
