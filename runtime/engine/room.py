"""Which of the ready sessions find a row of the slab for their next step.

A step ahead of the watermark holds its row until the watermark comes, which may take the very steps that would find no
row then; and until it comes one tenant's steps could hold every row, and the others wait for it. So of sixteen parts

    the last is for steps that settle at once
    the one before it is for those too, and for tenants that hold less than such a part ahead of the watermark
    the others are for all
"""

from __future__ import annotations

from collections.abc import Mapping

from runtime.engine.session import Session
from runtime.keys import SessionKey

PARTS = 16


def part_of(capacity: int) -> int:
    return max(1, capacity // PARTS)


class Room:
    """Lets sessions into one batch while rows are free for them, and counts the rows to their tenants."""

    __slots__ = ("_part", "_rows", "_sessions", "has_greedy", "passed_over")

    def __init__(self, sessions: Mapping[SessionKey, Session], rows: int, part: int) -> None:
        """So many `rows` are free; a `part` is what `part_of` says."""
        self._sessions = sessions
        self._rows = rows
        self._part = part
        self.has_greedy = False
        """a tenant that holds a part or more ahead of the watermark has asked for another row"""
        self.passed_over: list[Session] = []

    def __call__(self, key: SessionKey) -> bool:
        session = self._sessions[key]
        if self._rows <= self._must_stay_free(session):
            self.passed_over.append(session)
            return False
        self._rows -= 1
        session.usage.rows_ahead += 1
        return True

    def _must_stay_free(self, session: Session) -> int:
        timeline = session.timeline
        if timeline.entries[timeline.fused].key.event_time_s <= timeline.watermark_s:
            return 0
        if session.usage.rows_ahead < self._part:
            return self._part
        self.has_greedy = True
        return 2 * self._part
