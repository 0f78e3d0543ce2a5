"""The worker's own time: it stands still while the worker does.

A worker that was stopped for a while (SIGSTOP, a suspended machine, a step of many seconds) has heard nobody; that
must not count as the silence of its publishers, or it would settle without them and call late what they have sent.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_STANDSTILL_S = 0.5
"""the longest that may pass between two readings: more than a turn ever waits"""


class TurnClock:
    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic; the worker reads this one at least once a turn."""
        self._clock = clock
        self._read_s = self._now_s = clock()

    def __call__(self) -> float:
        read_s = self._clock()
        self._now_s += min(read_s - self._read_s, MAX_STANDSTILL_S)
        self._read_s = read_s
        return self._now_s
