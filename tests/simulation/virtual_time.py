"""Time that passes only when there is nothing left to do in it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Callback = Callable[[], None]


class Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualTime:
    def __init__(self, start_s: float = 1000.0) -> None:
        self.now_s = start_s
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()

    def at(self, time_s: float, callback: Callback) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (max(time_s, self.now_s), next(self._order), timer))
        return timer

    def after(self, delay_s: float, callback: Callback) -> Timer:
        return self.at(self.now_s + delay_s, callback)

    def run(self, until: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until `until`, for `limit_s` at most; True if it has come."""
        end_s = self.now_s + limit_s
        while not until():
            if not self._timers or self._timers[0][0] > end_s:
                return False
            self.now_s, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()
        return True
