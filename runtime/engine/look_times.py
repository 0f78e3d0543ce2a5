"""When to look at which session again.

The times are a fixed while after the present one, nearly always, so they come in order, and need no heap: with 100,000
sessions that each send seldom, a heap of them was a tenth of the time of a segment.
"""

from __future__ import annotations

import heapq
from collections import deque
from math import inf

from runtime.keys import SessionKey

Look = tuple[float, SessionKey]


class LookTimes:
    def __init__(self) -> None:
        self._in_order: deque[Look] = deque()
        self._others: list[Look] = []
        """a heap: earlier ones than were in order when they came"""

    def __len__(self) -> int:
        return len(self._in_order) + len(self._others)

    def add(self, at_s: float, key: SessionKey) -> None:
        if not self._in_order or at_s >= self._in_order[-1][0]:
            self._in_order.append((at_s, key))
        else:
            heapq.heappush(self._others, (at_s, key))

    @property
    def next_s(self) -> float:
        """The earliest of all; inf if there is none."""
        next_s = self._in_order[0][0] if self._in_order else inf
        return min(next_s, self._others[0][0]) if self._others else next_s

    def take_next(self) -> Look:
        """Take out the earliest, of which there must be one."""
        if self._others and (not self._in_order or self._others[0][0] < self._in_order[0][0]):
            return heapq.heappop(self._others)
        return self._in_order.popleft()
