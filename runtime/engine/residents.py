"""The sessions in memory: who is resident, who leaves when room is needed, and the rows they hold.

The slab is a cache of the store: a session that is idle and saved may leave at any time and comes back at its next
segment, so sessions are bounded by the store and not by the device.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from grf_core.step import NO_SLOT
from runtime.engine.policies import OrderPolicy
from runtime.engine.quota import Quotas, Refusal
from runtime.engine.session import Session
from runtime.engine.slab import Slab
from runtime.keys import SessionKey

LOOK_AT = 64
"""so many sessions that may not leave are looked at, at most, to find those that may"""


class Residents:
    def __init__(
        self, slab: Slab, quotas: Quotas, order: OrderPolicy, modalities: int, untold: Callable[[SessionKey], bool]
    ) -> None:
        """`untold`: an acknowledgement of this session is still to be told, so it must not leave."""
        self._slab = slab
        self._quotas = quotas
        self._order = order
        self._modalities = modalities
        self._untold = untold
        self._max_sessions = slab.capacity - max(1, slab.capacity // 8)
        """each session comes to hold one row for good; the others are for steps, without which none would settle"""
        self.sessions: OrderedDict[SessionKey, Session] = OrderedDict()
        """longest inactive first, but for those that were not to leave when room was needed: they are the last then"""
        self.evicted = 0

    def create(self, key: SessionKey, now_s: float) -> Session | Refusal:
        """Make a session resident, empty; the caller fills it from its record, if there is one."""
        refusal = self._quotas.refuses_session(key.tenant)
        if refusal is None and not self.make_room(1, now_s, sessions=1):
            refusal = Refusal("slab", f"the {self._slab.capacity} rows of the slab are in use", 200)
        if refusal is not None:
            return refusal
        usage = self._quotas.session_added(key.tenant)
        session = self.sessions[key] = Session(key, usage, self._order, self._modalities, now_s)
        return session

    def remove(self, key: SessionKey) -> None:
        """Free all that a session holds."""
        session = self.sessions.pop(key)
        for entry in session.timeline.entries:
            if entry.slot != NO_SLOT:
                self._slab.free(entry.slot)
        if session.settled_slot != NO_SLOT:
            self._slab.free(session.settled_slot)
        session.usage.rows_ahead -= session.timeline.fused
        self._quotas.pending(key.tenant, -session.timeline.n_bytes)
        self._quotas.session_removed(key.tenant)

    def touch(self, session: Session, now_s: float) -> None:
        session.last_active_s = now_s
        self.sessions.move_to_end(session.key)

    def make_room(self, rows: int, now_s: float, sessions: int = 0) -> bool:
        """Let idle sessions leave, longest inactive first, until so many rows and sessions have room; False if not.

        Who may not leave yet goes behind the others: where nobody may, each step would look at all of them again.
        """
        to_look_at = min(LOOK_AT, len(self.sessions))
        while not self._fits(rows, sessions):
            if not to_look_at or not self.sessions:
                return False
            session = next(iter(self.sessions.values()))
            if self._may_leave(session, now_s):
                self._evict(session.key)
            else:
                self.sessions.move_to_end(session.key)
                to_look_at -= 1
        return True

    def _fits(self, rows: int, sessions: int) -> bool:
        return self._slab.available >= rows and len(self.sessions) + sessions <= self._max_sessions

    def _may_leave(self, session: Session, now_s: float) -> bool:
        return session.is_idle(now_s) and not self._untold(session.key)

    def evict_inactive(self, since_s: float, now_s: float, at_most: int) -> None:
        """Let go of idle sessions that were last active before `since_s`."""
        for _ in range(min(at_most, len(self.sessions))):
            session = next(iter(self.sessions.values()))
            if session.last_active_s > since_s:
                return
            if self._may_leave(session, now_s):
                self._evict(session.key)
            else:
                self.sessions.move_to_end(session.key)
                return

    def _evict(self, key: SessionKey) -> None:
        self.remove(key)
        self.evicted += 1
