"""What follows when something has landed, or has been fused: the watermark moves, segments settle, the session's next
segment becomes ready, and all of it is noted for those who are to be told."""

from __future__ import annotations

from collections import OrderedDict
from math import inf

from grf_core.step import NO_SLOT, ModelSignature
from runtime.engine.batcher import ReadyQueue
from runtime.engine.look_times import LookTimes
from runtime.engine.order import Entry
from runtime.engine.outcomes import Progress
from runtime.engine.policies import OrderPolicy
from runtime.engine.quota import Quotas
from runtime.engine.session import Session, extend_lineage
from runtime.engine.slab import Slab
from runtime.engine.tally import Tally
from runtime.history import SettledStep
from runtime.keys import SessionKey
from runtime.named_tuples import tuple_of


class Flow:
    def __init__(
        self,
        signature: ModelSignature,
        slab: Slab,
        quotas: Quotas,
        ready: ReadyQueue,
        order: OrderPolicy,
        history_length: int,
    ) -> None:
        self.ready = ready
        self.dirty: OrderedDict[SessionKey, None] = OrderedDict()
        """sessions with settled state that no checkpoint has taken yet, longest waiting first"""
        self.progress = Progress()
        self.tally = Tally()
        self.is_stuck = False
        """all that is ready waits for rows of the slab"""
        self.silent_at = LookTimes()
        """when to look whether a session with unsettled segments has fallen silent"""
        self.unread_since_s: dict[str, float] = {}
        """of tenants whose messages wait to be taken: since when"""
        self._modalities = [modality.name for modality in signature.modalities]
        self._slab = slab
        self._quotas = quotas
        self._holds = order.mode == "hold"
        self._history_length = history_length

    def forget(self, key: SessionKey) -> None:
        """The session has left memory with all that is unsettled of it: nothing of it is ready, or to be told."""
        self.ready.discard(key)
        self.dirty.pop(key, None)
        self.is_stuck = False
        self.progress.forget(key)

    # ---- after a segment has landed, or was refused for good ----

    def landed(self, session: Session, stream: str, now_s: float) -> None:
        """Move the watermark, and do what that allows."""
        timeline, state = session.timeline, session.streams[stream]
        timeline.land(stream, state.complete_upto_s, now_s, self.read_upto_s(session, now_s))
        if timeline.cut():
            self.tally.horizon_cuts += 1
        self.go_on(session)
        self.watch(session)

    def go_on(self, session: Session) -> None:
        """Settle what the watermark has passed, and put the session in the ready queue if its next segment can be
        fused."""
        self.settle(session)
        entry = session.timeline.next_entry()
        if entry is not None:
            self.ready.add(session.key, len(entry.frames))
            self.is_stuck = False

    def settle(self, session: Session) -> None:
        settled = session.timeline.settle()
        if not settled:
            return
        n_bytes = 0
        with_gaps = set[str]()
        for entry in settled:
            self._settle_entry(session, entry)
            n_bytes += entry.n_bytes
            if session.streams[entry.key.stream].has_gaps:
                with_gaps.add(entry.key.stream)
        for stream in with_gaps:
            self.pass_gaps(session, stream)
        session.usage.rows_ahead -= len(settled)
        session.shorten_history(self._history_length)
        self.tally.watermark_lags_s.append(session.timeline.newest_s - session.timeline.watermark_s)
        self._quotas.pending(session.key.tenant, -n_bytes)
        self.mark_dirty(session)
        self.progress.states.setdefault(session.key, False)

    def pass_gaps(self, session: Session, stream: str) -> None:
        """Count as fused, and as settled, what was given up, as far as nothing below it has come and is still to be so:
        that would be called durable, and a crash would lose it."""
        timeline, state = session.timeline, session.streams[stream]
        to_fuse = to_settle = state.oldest
        for place, entry in enumerate(timeline.entries):
            sequence = entry.key.sequence
            if sequence < to_settle and entry.key.stream == stream:
                to_settle = sequence
            if sequence < to_fuse and place >= timeline.fused and entry.key.stream == stream:
                to_fuse = sequence if sequence not in state.fused else to_fuse
        state.fused.skip_below(to_fuse)
        if to_settle > state.settled.upto + 1:
            state.settled.skip_below(to_settle)
            self.mark_dirty(session)

    def _settle_entry(self, session: Session, entry: Entry) -> None:
        key, slot = entry.key, entry.slot
        session.streams[key.stream].settled.add(key.sequence)
        if session.settled_slot != NO_SLOT:
            self._slab.free(session.settled_slot)
        session.settled_slot = slot
        session.settled_version += 1
        session.settled_event_time_s = session.settled_freshness_s[key.rank] = key.event_time_s
        session.lineage = extend_lineage(session.lineage, key)
        settled = session.settled_version, key.event_time_s, key.rank, self._slab.host[slot].tobytes()
        session.history.append(tuple_of(SettledStep, settled))
        self.tally.settled[self._modalities[key.rank]] += 1

    # ---- what is to be told ----

    def acknowledge(self, session: Session, stream: str) -> None:
        self.is_stuck = False  # committed, for example: a session may leave now
        told = self.progress.streams
        streams = told.get(session.key)
        if streams is None:
            streams = told[session.key] = {}
        streams[stream] = None
        self.tell_if_held_back(session, stream)

    def tell_if_held_back(self, session: Session, stream: str) -> None:
        """A segment that waits for others, or for rows, must not keep its place in the window: while the window is full
        the others cannot come."""
        if session.lacks_rows or self._holds:
            self.progress.held_back.setdefault(session.key, {})[stream] = None

    def state_changed(self, session: Session) -> None:
        """Note a new live state; while a rewind is being fused again there is none until it has caught up."""
        if session.shown is None:
            self.progress.states.setdefault(session.key, False)
            return
        entry = session.timeline.next_entry()
        if entry is None or entry.key > session.shown.upto:
            session.shown = None
            self.progress.states[session.key] = True

    def mark_dirty(self, session: Session) -> None:
        session.dirty = True
        self.dirty[session.key] = None

    def is_untold(self, key: SessionKey) -> bool:
        """An acknowledgement of this session waits to be told."""
        return key in self.progress.streams

    # ---- silence ----

    def read_upto_s(self, session: Session, now_s: float) -> float:
        """All that had come for the session by then has been taken: who was silent until then was silent."""
        return min(now_s, self.unread_since_s.get(session.key.tenant, now_s)) if self.unread_since_s else now_s

    def watch(self, session: Session, unread_s: float = 0.0) -> None:
        """Look again once no stream of the session is waited for, while it has segments that could settle then.

        What has come may have waited for `unread_s` to be taken: then so much later.
        """
        timeline = session.timeline
        if not timeline.entries or timeline.watermark_s >= timeline.newest_s:
            return
        at_s = timeline.idle_at_s + unread_s
        if at_s < session.look_at_s:
            session.look_at_s = at_s
            self.silent_at.add(at_s, session.key)

    def look(self, session: Session, now_s: float) -> None:
        """The session may have fallen silent; most of the time it has not, and is only looked at again later."""
        session.look_at_s = inf
        read_upto_s = self.read_upto_s(session, now_s)
        if session.timeline.idle_at_s <= read_upto_s:
            session.timeline.advance_watermark(read_upto_s)
            self.go_on(session)
        self.watch(session, now_s - read_upto_s)
