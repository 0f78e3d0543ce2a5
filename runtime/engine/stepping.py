"""One micro-batch: the next segment of every session whose turn it is, through the model, and what follows of it."""

from __future__ import annotations

from collections.abc import Mapping

from grf_core.step import NO_SLOT, RowStep, StepModel
from runtime.engine.flow import Flow
from runtime.engine.intake import Intake
from runtime.engine.order import Entry
from runtime.engine.outcomes import Failure
from runtime.engine.quota import Quotas
from runtime.engine.residents import Residents
from runtime.engine.room import Room, part_of
from runtime.engine.session import Session
from runtime.engine.slab import Slab
from runtime.engine.stepper import run_steps
from runtime.keys import SessionKey
from runtime.named_tuples import tuple_of


class Stepping:
    def __init__(
        self,
        model: StepModel,
        slab: Slab,
        quotas: Quotas,
        residents: Residents,
        flow: Flow,
        intake: Intake,
        max_segments: int,
    ) -> None:
        self._model = model
        self._slab = slab
        self._quotas = quotas
        self._residents = residents
        self._flow = flow
        self._intake = intake
        self._max_segments = max_segments
        self._part = part_of(slab.capacity)
        self._had_greedy = False
        """a greedy tenant asked for rows of the last batch: idle sessions make room for such a one too"""
        self._fused_arrived_s: list[float] = []
        """of what was fused since `fused_by`, when it arrived"""
        self._modalities = [modality.name for modality in model.signature.modalities]

    @property
    def _sessions(self) -> Mapping[SessionKey, Session]:
        return self._residents.sessions

    def step(self, now_s: float, at_most: int | None) -> int:
        """Fuse one segment of each session in the next batch; return how many were taken."""
        room = self._room_for_each(now_s)
        keys = self._flow.ready.take(room, at_most)
        for session in room.passed_over:
            self._pass_over(session)
        self._flow.is_stuck = not keys and (self._had_greedy or not room.has_greedy)
        self._had_greedy = room.has_greedy
        if not keys:
            return 0
        sessions = [self._sessions[key] for key in keys]
        entries = [session.timeline.entries[session.timeline.fused] for session in sessions]
        steps = [self._step(session, entry) for session, entry in zip(sessions, entries, strict=True)]
        try:
            faults = run_steps(self._model, self._slab, steps)
        except BaseException:  # out of memory, or a broken device: no segment's fault, all of them wait again
            for session, step in zip(sessions, steps, strict=True):
                self._give_back(session, step)
                self._flow.go_on(session)
            raise
        self._flow.tally.batch_sizes.append(len(steps))
        for session, entry, step, fault in zip(sessions, entries, steps, faults, strict=True):
            if fault:
                self._give_back(session, step)
                self._failed(session, entry, fault, now_s)
            else:
                self._done(session, entry, step.out_slot)
            self._flow.go_on(session)
        return len(steps)

    def fused_by(self, now_s: float) -> None:
        """All that was fused since the last call is there now, steps included."""
        if self._fused_arrived_s:
            self._flow.tally.latencies_s += [now_s - arrived_s for arrived_s in self._fused_arrived_s]
            self._fused_arrived_s = []

    def _room_for_each(self, now_s: float) -> Room:
        in_batch = min(len(self._flow.ready), self._max_segments)
        kept_free = 2 * self._part if self._had_greedy else self._part
        self._residents.make_room(in_batch + kept_free, now_s)
        return Room(self._sessions, self._slab.available, self._part)

    def _pass_over(self, session: Session) -> None:
        if not session.lacks_rows:
            session.lacks_rows = True
            for stream in session.streams:  # what is fused too: while a rewind is not through it is not told
                self._flow.tell_if_held_back(session, stream)

    def _step(self, session: Session, entry: Entry) -> RowStep:
        session.lacks_rows = False
        in_slot = session.live_slot
        elapsed_s = 0.0 if in_slot == NO_SLOT else entry.key.event_time_s - session.live_event_time_s
        return tuple_of(RowStep, (in_slot, self._slab.allocate(), entry.key.rank, entry.frames, elapsed_s))

    def _give_back(self, session: Session, step: RowStep) -> None:
        self._slab.free(step.out_slot)
        session.usage.rows_ahead -= 1

    def _done(self, session: Session, entry: Entry, slot: int) -> None:
        event_time_s, rank, stream, sequence = entry.key
        session.timeline.advance(slot)
        state = session.streams[stream]
        state.fused.add(sequence)
        if state.oldest > state.fused.upto + 1:
            self._flow.pass_gaps(session, stream)
        if event_time_s > session.freshness_s[rank]:
            session.freshness_s[rank] = event_time_s
        self._flow.tally.fused[self._modalities[rank]] += 1
        self._fused_arrived_s.append(entry.arrived_s)
        self._flow.acknowledge(session, stream)
        self._flow.state_changed(session)

    def _failed(self, session: Session, entry: Entry, fault: str, now_s: float) -> None:
        """The segment is refused for good; its session keeps its last good state."""
        stream, sequence = entry.key.stream, entry.key.sequence
        session.timeline.remove(entry)
        self._quotas.pending(session.key.tenant, -entry.n_bytes)
        self._intake.reject(session, stream, sequence, "step_failed", fault)
        if session.streams[stream].has_gaps:
            self._flow.pass_gaps(session, stream)
        self._flow.landed(session, stream, now_s)
        self._flow.progress.failures.append(Failure(session.key, stream, sequence, fault))
        self._flow.state_changed(session)
