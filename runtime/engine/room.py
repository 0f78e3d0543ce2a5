"""Which of the ready sessions find a row of the slab for their next step."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.engine.session import Session
from runtime.keys import SessionKey


class Room:
    """Lets sessions into a batch while rows are free; the last ones only for steps that settle at once.

    A step ahead of the watermark holds its row until the watermark comes, which may take the very steps that would
    find no row then.
    """

    __slots__ = ("_reserve", "_rows", "_sessions", "passed_over")

    def __init__(self, sessions: Mapping[SessionKey, Session], rows: int, reserve: int) -> None:
        self._sessions = sessions
        self._rows = rows
        self._reserve = reserve
        self.passed_over: list[Session] = []

    def __call__(self, key: SessionKey) -> bool:
        session = self._sessions[key]
        timeline = session.timeline
        settles = timeline.entries[timeline.fused].key.event_time_s <= timeline.watermark_s
        if self._rows <= (0 if settles else self._reserve):
            self.passed_over.append(session)
            return False
        self._rows -= 1
        return True
