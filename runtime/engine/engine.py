"""The engine: segments in, contexts forward. Plain objects driven by calls; every call is told the time.

    add -> timeline (fusion order) -> ready queue -> step (one micro-batch) -> settle -> checkpoint

The shell around it (the worker, a test, the simulator) decides when to call `step`, `tick` and `checkpoint`, and
reads what has happened from `take_progress`. A session must be resident (`create` or `restore`) before its
segments may come.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from math import inf

from grf_core.step import StepModel
from runtime.engine.admission import MAX_REFUSALS_KEPT, MAX_SEQUENCES_AHEAD, frames_fault, time_fault
from runtime.engine.batcher import BatchPolicy, ReadyQueue
from runtime.engine.order import NO_SLOT, Entry, FusionKey, OrderPolicy
from runtime.engine.outcomes import ACCEPTED, DUPLICATE, Failure, Progress, Verdict
from runtime.engine.quota import BYTE_LIMITS, SHARE_OF_THOSE_AHEAD, QuotaPolicy, Quotas, Refusal
from runtime.engine.residents import Residents, rows_for_settling
from runtime.engine.room import Room
from runtime.engine.sequences import SequenceSet
from runtime.engine.session import Session, SettledStep, ShownState, StreamState, extend_lineage
from runtime.engine.slab import Slab
from runtime.engine.stepper import Step, run_steps
from runtime.engine.tally import Tally
from runtime.keys import SessionKey
from runtime.messages import SegmentEntry


@dataclass(frozen=True, slots=True)
class EnginePolicy:
    order: OrderPolicy = field(default_factory=OrderPolicy)
    batch: BatchPolicy = field(default_factory=BatchPolicy)
    quota: QuotaPolicy = field(default_factory=QuotaPolicy)
    capacity: int = 65536
    """rows of the slab"""
    evict_after_s: float = 60.0
    """processing time: an idle session leaves memory; its record stays in the store"""
    history_length: int = 256
    """settled versions of a session that wait for a checkpoint, at most: the store keeps no more either"""


class Engine:
    def __init__(self, model: StepModel, policy: EnginePolicy) -> None:
        self.model = model
        self.policy = policy
        self.signature = model.signature
        unknown = policy.order.lateness_by_modality_s.keys() - {modality.name for modality in self.signature.modalities}
        if unknown:
            raise ValueError(f"lateness_by_modality_s names {', '.join(sorted(unknown))}: no modality of the model")
        self.slab = Slab(self.signature, policy.capacity, model.device)
        self.quotas = Quotas(policy.quota)
        self.residents = Residents(
            self.slab, self.quotas, policy.order, len(self.signature.modalities), self._is_untold
        )
        self.dirty: OrderedDict[SessionKey, None] = OrderedDict()
        """sessions with settled state that no checkpoint has taken yet, longest waiting first"""
        self.tally = Tally()
        self.tapped = False
        """somebody records what is accepted"""
        self._progress = Progress()
        self._ready = ReadyQueue(policy.batch)
        self._is_stuck = False
        self._silent_at: list[tuple[float, SessionKey]] = []
        """heap: when to look whether a session with unsettled segments has fallen silent"""

    @property
    def sessions(self) -> OrderedDict[SessionKey, Session]:
        """Resident sessions."""
        return self.residents.sessions

    # ---- residence ----

    def create(self, key: SessionKey, now_s: float) -> Session | Refusal:
        """Make a session resident; restore its record next, if it has one (`engine.checkpoint.restore`)."""
        session = self.residents.create(key, now_s)
        if isinstance(session, Refusal):
            self.tally.slowed_by_reason[session.reason] += 1
        return session

    def forget(self, key: SessionKey) -> None:
        """Drop a session and all that is unsettled of it from memory."""
        self.residents.remove(key)
        self._ready.discard(key)
        self.dirty.pop(key, None)
        self._is_stuck = False
        self._progress.streams.pop(key, None)
        self._progress.held_back.pop(key, None)
        self._progress.states.pop(key, None)
        self._progress.failures = [failure for failure in self._progress.failures if failure.key != key]

    # ---- streams ----

    def open_stream(self, session: Session, stream: str, modality: str, base: int, owner: str, now_s: float) -> str:
        """Open a stream for publishing from sequence number `base` on; return the client that owned it before.

        Raises KeyError for a modality that the model does not know, ValueError when the stream has another one.
        """
        rank = self.signature.rank(modality)
        state = session.streams.get(stream)
        if state is None:
            state = session.streams[stream] = StreamState(
                rank, SequenceSet(base - 1), durable=0
            )  # nothing is committed
        elif state.rank != rank:
            raise ValueError(f"stream {stream!r} is of modality {self.signature.modalities[state.rank].name}")
        state.let_go(base)
        if not session.timeline.waits_for(stream, now_s):
            state.stored = "no"
            self._mark_dirty(session)  # after a crash it is waited for only if it was saved
        previous = state.owner if state.owner not in (None, owner) else ""
        state.owner = owner
        session.timeline.open_stream(stream, modality, now_s + self.policy.order.idle_timeout_s)
        self.residents.touch(session, now_s)
        return previous or ""

    def gather(self, session: Session, now_s: float) -> None:
        """Let nothing settle in a new session for a while: publishers that have waited for this worker, and hold what
        they could not send, do not all connect at the same moment."""
        if session.settled_version == 0:
            session.timeline.gather_until_s = now_s + self.policy.order.idle_timeout_s

    def wait_for_opening(self, session: Session, stream: str, now_s: float) -> None:
        """Wait for a stream as from now: its publisher has not been told that it may begin."""
        session.timeline.wait_longer(stream, now_s + self.policy.order.idle_timeout_s)
        if session.streams[stream].stored != "yes":
            self.gather(session, now_s)

    def end_stream(self, session: Session, stream: str, now_s: float) -> None:
        session.timeline.end_stream(stream)
        session.timeline.advance_watermark(now_s)
        self._settle(session)
        self._offer(session)
        self._watch(session)

    def skip_below(self, session: Session, stream: str, oldest: int, now_s: float) -> None:
        """The publisher holds nothing below `oldest` any more: what never came is a gap, and is counted."""
        state = session.streams[stream]
        state.let_go(oldest)
        upto = state.settled.upto
        if oldest <= upto + 1:
            return
        self.tally.gaps += state.skip_below(oldest)
        if state.settled.upto != upto:
            self._mark_dirty(session)
        self._landed(session, stream, state.newest_s, now_s)

    # ---- segments ----

    def add(self, session: Session, stream: str, segment: SegmentEntry, now_s: float, wall_s: float) -> Verdict:
        """Take a segment into its session's timeline, or say why not. Refused for good counts as seen."""
        state = session.streams[stream]
        modality = self.signature.modalities[state.rank]
        self.tally.received[modality.name] += 1
        if segment.sequence in state.received:
            self.tally.duplicates[modality.name] += 1
            self._acknowledge(session.key, stream)
            code = state.refused.get(segment.sequence)
            return Verdict(code, "it was refused before") if code else DUPLICATE
        if len(state.refused) >= MAX_REFUSALS_KEPT:
            text = f"{len(state.refused)} segments were refused, and `oldest` does not say that it is known"
            return self._slow_down(session, stream, Refusal("refusals", text), now_s)
        if segment.sequence > state.received.upto + MAX_SEQUENCES_AHEAD:
            text = f"sequence {segment.sequence} is more than {MAX_SEQUENCES_AHEAD} ahead of {state.received.upto}"
            return self._slow_down(session, stream, Refusal("sequence_ahead", text), now_s)
        fault = frames_fault(segment.frames, modality)
        if fault:
            return self._reject(session, stream, segment.sequence, "bad_segment", fault, now_s)
        order = self.policy.order
        fault = time_fault(segment.event_time_s, session.timeline, order, now_s - session.last_segment_s, wall_s)
        if fault:
            return self._reject(session, stream, segment.sequence, "far_future", fault, now_s)
        late = session.timeline.is_late(segment.event_time_s)
        if late and not order.fuses_late:
            self.tally.late_dropped[modality.name] += 1
            behind_s = session.timeline.watermark_s - segment.event_time_s
            return self._reject(
                session, stream, segment.sequence, "late", f"{behind_s:.6f} s behind the watermark", now_s
            )
        return self._accept(session, stream, state, segment, late, now_s)

    def _accept(
        self, session: Session, stream: str, state: StreamState, segment: SegmentEntry, late: bool, now_s: float
    ) -> Verdict:
        timeline = session.timeline
        event_time_s = timeline.just_after_watermark() if late else segment.event_time_s
        entry = Entry(FusionKey(event_time_s, state.rank, stream, segment.sequence), segment.frames, now_s)
        refusal = self._refuses(session, entry, now_s)
        if refusal is not None:
            return self._slow_down(session, stream, refusal, now_s)
        state.received.add(segment.sequence)
        state.newest_s = max(state.newest_s, event_time_s)
        self.quotas.pending(session.key.tenant, entry.n_bytes)
        if self.tapped:
            self._progress.accepted.append((session.key, entry))
        self._rewind(session, entry)
        self.residents.touch(session, now_s)
        session.last_segment_s = now_s
        self._tell_if_held_back(session, stream)
        self._landed(session, stream, event_time_s, now_s)
        if late and self.policy.order.mode != "arrival":
            self.tally.late_fused[self.signature.modalities[state.rank].name] += 1
            return Verdict("late_fused", f"fused at the watermark, {event_time_s - segment.event_time_s:.6f} s later")
        return ACCEPTED

    def _tell_if_held_back(self, session: Session, stream: str) -> None:
        """A segment that waits for others, or for rows, must not keep its place in the window: they could not come."""
        if session.lacks_rows or self.policy.order.mode == "hold":
            self._progress.held_back.setdefault(session.key, {})[stream] = None

    def _refuses(self, session: Session, entry: Entry, now_s: float) -> Refusal | None:
        waiting = len(session.timeline.entries)
        if session.timeline.is_full:
            return Refusal("session_backlog", f"{waiting} segments of the session wait for their step")
        tenant, n_bytes = session.key.tenant, entry.n_bytes
        refusal = self.quotas.refuses_segment(tenant, n_bytes, now_s, SHARE_OF_THOSE_AHEAD)
        if refusal is not None and refusal.reason in BYTE_LIMITS:
            session.timeline.gather_until_s = -inf
            if session.timeline.holds_back(entry.key.stream, now_s):
                return self.quotas.refuses_segment(tenant, n_bytes, now_s)
        return refusal

    def _landed(self, session: Session, stream: str, event_time_s: float, now_s: float) -> None:
        """Move the watermark, and do what that allows."""
        timeline = session.timeline
        timeline.land(stream, event_time_s, session.streams[stream].complete_upto_s, now_s)
        if timeline.cut():
            self.tally.horizon_cuts += 1
        self._settle(session)
        self._offer(session)
        self._watch(session)

    def _rewind(self, session: Session, entry: Entry) -> None:
        """Insert the entry; where that breaks the fused order, keep showing the live state as it was until then."""
        slot, version, upto = session.live_slot, session.live_version, session.timeline.last_fused_key
        stale = session.timeline.insert(entry)
        if not stale or upto is None:
            return
        if session.shown is None:
            session.shown = ShownState(
                version,
                upto.event_time_s,
                self.slab.contexts[slot].cpu().numpy().copy(),
                self.slab.outputs[slot].copy(),
                self.slab.shares[slot].copy(),
                float(self.slab.gate[slot]),
                upto,
            )
        for slot in stale:
            self.slab.free(slot)
        self.tally.rewinds += 1
        self.tally.fused_again += len(stale)

    def _slow_down(self, session: Session, stream: str, refusal: Refusal, now_s: float) -> Verdict:
        """Refuse for now, and wait for the stream.

        But not at a limit that only its publisher can relieve, nor at one of bytes if it holds its session back: what
        waits for it may be what fills the limit, and would never settle.
        """
        self.residents.touch(session, now_s)
        if refusal.reason in BYTE_LIMITS:
            waits = not session.timeline.holds_back(stream, now_s)
        else:
            waits = refusal.reason not in ("sequence_ahead", "refusals")
        if waits:
            retry_s = now_s + refusal.retry_after_ms / 1000
            session.timeline.wait_longer(stream, retry_s + self.policy.order.idle_timeout_s)
        self.tally.slowed_by_reason[refusal.reason] += 1
        return Verdict("slow_down", refusal.text, refusal.retry_after_ms)

    def _reject(self, session: Session, stream: str, sequence: int, code: str, text: str, now_s: float) -> Verdict:
        state = session.streams[stream]
        state.consume(sequence, code)
        self.tally.rejected_by_reason[code] += 1
        self._mark_dirty(session)
        self._acknowledge(session.key, stream)
        self._landed(session, stream, state.newest_s, now_s)
        return Verdict(code, text)

    # ---- steps ----

    @property
    def ready_sessions(self) -> int:
        """Sessions whose next segment waits for its step."""
        return len(self._ready)

    @property
    def has_work(self) -> bool:
        return self.ready_sessions > 0

    @property
    def is_stuck(self) -> bool:
        """All that is ready waits for rows of the slab: another step achieves nothing before something else happens."""
        return self._is_stuck and self.has_work

    def step(self, now_s: float, at_most: int | None = None) -> int:
        """Fuse the next segment of every session in the next micro-batch, of `at_most` so many sessions; return how
        many were fused."""
        room = self._room_for_each(now_s)
        keys = self._ready.take(room, at_most)
        for session in room.passed_over:
            self._pass_over(session)
        self._is_stuck = not keys
        if not keys:
            return 0
        sessions = [self.sessions[key] for key in keys]
        entries = [session.timeline.entries[session.timeline.fused] for session in sessions]
        steps = [self._step(session, entry) for session, entry in zip(sessions, entries, strict=True)]
        try:
            faults = run_steps(self.model, self.slab, steps)
        except BaseException:  # out of memory, or a broken device: no segment's fault, all of them wait again
            for session, step in zip(sessions, steps, strict=True):
                self.slab.free(step.out_slot)
                self._offer(session)
            raise
        self.tally.batch_sizes.append(len(steps))
        for session, entry, step, fault in zip(sessions, entries, steps, faults, strict=True):
            if fault:
                self.slab.free(step.out_slot)
                self._step_failed(session, entry, fault, now_s)
            else:
                self._step_done(session, entry, step.out_slot, now_s)
            self._settle(session)
            self._offer(session)
        return len(steps)

    def _room_for_each(self, now_s: float) -> Room:
        reserve = rows_for_settling(self.slab.capacity)
        self.residents.make_room(min(len(self._ready), self.policy.batch.max_segments) + reserve, now_s)
        return Room(self.sessions, self.slab.available, reserve)

    def _pass_over(self, session: Session) -> None:
        if not session.lacks_rows:
            session.lacks_rows = True
            for stream in session.streams:  # what is fused too: while a rewind is not through it is not told
                self._tell_if_held_back(session, stream)

    def _step(self, session: Session, entry: Entry) -> Step:
        session.lacks_rows = False
        in_slot = session.live_slot
        elapsed_s = 0.0 if in_slot == NO_SLOT else entry.key.event_time_s - session.live_event_time_s
        return Step(in_slot, self.slab.allocate(), entry.key.rank, entry.frames, elapsed_s)

    def _step_done(self, session: Session, entry: Entry, slot: int, now_s: float) -> None:
        key = entry.key
        session.timeline.advance(slot)
        session.streams[key.stream].fused.add(key.sequence)
        session.freshness_s[key.rank] = max(session.freshness_s[key.rank], key.event_time_s)
        self.tally.fused[self.signature.modalities[key.rank].name] += 1
        self.tally.latencies_s.append(now_s - entry.arrived_s)
        self._acknowledge(session.key, key.stream)
        self._state_changed(session)

    def _step_failed(self, session: Session, entry: Entry, fault: str, now_s: float) -> None:
        session.timeline.remove(entry)
        self.quotas.pending(session.key.tenant, -entry.n_bytes)
        self._reject(session, entry.key.stream, entry.key.sequence, "step_failed", fault, now_s)
        self._progress.failures.append(Failure(session.key, entry.key.stream, entry.key.sequence, fault))
        self._state_changed(session)

    def _state_changed(self, session: Session) -> None:
        """Note a new live state; while a rewind is being fused again there is none until it has caught up."""
        if session.shown is None:
            self._progress.states.setdefault(session.key, False)
            return
        entry = session.timeline.next_entry()
        if entry is None or entry.key > session.shown.upto:
            session.shown = None
            self._progress.states[session.key] = True

    def _settle(self, session: Session) -> None:
        settled = session.timeline.settle()
        if not settled:
            return
        for entry in settled:
            self._settle_entry(session, entry)
        self.tally.watermark_lags_s.append(session.timeline.newest_s - session.timeline.watermark_s)
        self.quotas.pending(session.key.tenant, -sum(entry.n_bytes for entry in settled))
        self._mark_dirty(session)
        self._progress.states.setdefault(session.key, False)

    def _settle_entry(self, session: Session, entry: Entry) -> None:
        key, slot = entry.key, entry.slot
        session.streams[key.stream].settled.add(key.sequence)
        if session.settled_slot != NO_SLOT:
            self.slab.free(session.settled_slot)
        session.settled_slot = slot
        session.settled_version += 1
        session.settled_event_time_s = session.settled_freshness_s[key.rank] = key.event_time_s
        session.lineage = extend_lineage(session.lineage, key)
        outputs, shares, gate = (
            self.slab.outputs[slot].copy(),
            self.slab.shares[slot].copy(),
            float(self.slab.gate[slot]),
        )
        del session.history[: -self.policy.history_length]  # the store may be away
        session.history.append(SettledStep(session.settled_version, key.event_time_s, key.rank, outputs, shares, gate))
        self.tally.settled[self.signature.modalities[key.rank].name] += 1

    def _offer(self, session: Session) -> None:
        """Put the session in the ready queue if its next segment can be fused."""
        entry = session.timeline.next_entry()
        if entry is not None:
            self._ready.add(session.key, len(entry.frames))
            self._is_stuck = False

    # ---- time ----

    def tick(self, now_s: float) -> None:
        """Settle sessions that have fallen silent; let go of sessions that have long been idle."""
        while self._silent_at and self._silent_at[0][0] <= now_s:
            at_s, key = heapq.heappop(self._silent_at)
            session = self.sessions.get(key)
            if session is None or session.look_at_s != at_s:
                continue
            session.look_at_s = inf
            session.timeline.advance_watermark(now_s)
            self._settle(session)
            self._offer(session)
            self._watch(session)
        self.residents.evict_inactive(now_s - self.policy.evict_after_s, now_s)

    @property
    def silent_at_s(self) -> float:
        """When `tick` has a session to look at next."""
        return self._silent_at[0][0] if self._silent_at else inf

    def _watch(self, session: Session) -> None:
        """Look again once no stream of the session is waited for, while it has segments that could settle then."""
        timeline = session.timeline
        at_s = timeline.idle_at_s
        if at_s < session.look_at_s and timeline.entries and timeline.watermark_s < timeline.newest_s:
            session.look_at_s = at_s
            heapq.heappush(self._silent_at, (at_s, session.key))

    # ---- what the shell reads ----

    def take_progress(self) -> Progress:
        """What has changed, but no acknowledgement of a session that is being fused again: its state does not show yet
        what has landed."""
        progress, self._progress = self._progress, Progress()
        for key in list(progress.streams):
            session = self.sessions.get(key)
            if session is not None and session.shown is not None:
                self._progress.streams[key] = progress.streams.pop(key)
        return progress

    def take_tally(self) -> Tally:
        tally, self.tally = self.tally, Tally()
        tally.evicted, self.residents.evicted = self.residents.evicted, 0
        return tally

    def _is_untold(self, key: SessionKey) -> bool:
        return key in self._progress.streams

    def acknowledge(self, key: SessionKey, stream: str) -> None:
        self._acknowledge(key, stream)

    def _acknowledge(self, key: SessionKey, stream: str) -> None:
        self._is_stuck = False  # committed, for example: a session may leave now
        self._progress.streams.setdefault(key, {})[stream] = None
        if key in self.sessions:
            self._tell_if_held_back(self.sessions[key], stream)

    def _mark_dirty(self, session: Session) -> None:
        session.dirty = True
        self.dirty[session.key] = None
