"""Segments that arrive: seen before, refused with the reason, put off, or taken into their session's timeline."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from grf_core.step import ModalitySignature, ModelSignature
from runtime.engine.admission import MAX_REFUSALS_KEPT, MAX_SEQUENCES_AHEAD, frames_fault, time_fault
from runtime.engine.flow import Flow
from runtime.engine.order import Entry, FusionKey
from runtime.engine.outcomes import ACCEPTED, DUPLICATE, Verdict
from runtime.engine.policies import OrderPolicy
from runtime.engine.quota import BYTE_LIMITS, SHARE_OF_THOSE_AHEAD, Quotas, Refusal
from runtime.engine.residents import Residents
from runtime.engine.session import Session, ShownState, StreamState
from runtime.engine.slab import Slab
from runtime.messages import SegmentEntry
from runtime.named_tuples import tuple_of

AT_ITS_PUBLISHER = ("sequence_ahead", "refusals")
"""limits that only the publisher can relieve"""


class Intake:
    def __init__(
        self,
        signature: ModelSignature,
        slab: Slab,
        quotas: Quotas,
        residents: Residents,
        flow: Flow,
        order: OrderPolicy,
    ) -> None:
        self.tapped = False
        """somebody records what is accepted"""
        self._signature = signature
        self._slab = slab
        self._quotas = quotas
        self._residents = residents
        self._flow = flow
        self._order = order

    def take(
        self,
        session: Session,
        stream: str,
        segments: Sequence[SegmentEntry],
        now_s: float,
        wall_s: float,
        arrived_s: float,
    ) -> list[Verdict]:
        """Take segments of one stream, in their order. One verdict each, but none after `slow_down`: the publisher
        sends again from that one on.

        Of more than one segment the frames are copied: they are slices of one message, which would stay in memory
        until the last of them has settled.
        """
        state = session.streams[stream]
        modality = self._signature.modalities[state.rank]
        verdicts = []
        copy = len(segments) > 1
        for segment in segments:
            verdict = self._take(session, stream, state, modality, segment, copy, now_s, wall_s, arrived_s)
            verdicts.append(verdict)
            if verdict is not ACCEPTED and verdict.code == "slow_down":
                break
        self._flow.tally.received[modality.name] += len(verdicts)
        if any(verdict is ACCEPTED or verdict.code not in ("duplicate", "slow_down") for verdict in verdicts):
            self._flow.landed(session, stream, now_s)
        self._residents.touch(session, now_s)
        return verdicts

    def _take(
        self,
        session: Session,
        stream: str,
        state: StreamState,
        modality: ModalitySignature,
        segment: SegmentEntry,
        copy: bool,
        now_s: float,
        wall_s: float,
        arrived_s: float,
    ) -> Verdict:
        sequence, event_time_s, frames = segment
        if sequence in state.received:
            return self._seen_before(session, stream, state, modality, sequence)
        if len(state.refused) >= MAX_REFUSALS_KEPT:
            text = f"{len(state.refused)} segments were refused, and `oldest` does not say that it is known"
            return self._slow_down(session, stream, Refusal("refusals", text), now_s)
        if sequence > state.received.upto + MAX_SEQUENCES_AHEAD:
            text = f"sequence {sequence} is more than {MAX_SEQUENCES_AHEAD} ahead of {state.received.upto}"
            return self._slow_down(session, stream, Refusal("sequence_ahead", text), now_s)
        timeline = session.timeline
        fault = frames_fault(frames, modality)
        if fault:
            return self.reject(session, stream, sequence, "bad_segment", fault)
        fault = time_fault(event_time_s, timeline, self._order, now_s - session.last_segment_s, wall_s)
        if fault:
            return self.reject(session, stream, sequence, "far_future", fault)
        late = event_time_s <= timeline.watermark_s
        if late and not self._order.fuses_late:
            self._flow.tally.late_dropped[modality.name] += 1
            behind_s = timeline.watermark_s - event_time_s
            return self.reject(session, stream, sequence, "late", f"{behind_s:.6f} s behind the watermark")
        placed_s = timeline.just_after_watermark() if late else event_time_s
        key = tuple_of(FusionKey, (placed_s, state.rank, stream, sequence))
        entry = Entry(key, frames.copy() if copy else frames, arrived_s)
        if entry.n_bytes > self._quotas.largest_segment_bytes:
            fault = f"segment has {entry.n_bytes} bytes, this worker takes {self._quotas.largest_segment_bytes:.0f}"
            return self.reject(session, stream, sequence, "too_large", fault)
        refusal = self._accept(session, state, entry, now_s)
        if refusal is not None:
            return self._slow_down(session, stream, refusal, now_s)
        if late and self._order.mode != "arrival":
            self._flow.tally.late_fused[modality.name] += 1
            return Verdict("late_fused", f"fused at the watermark, {placed_s - event_time_s:.6f} s later")
        return ACCEPTED

    def _seen_before(
        self, session: Session, stream: str, state: StreamState, modality: ModalitySignature, sequence: int
    ) -> Verdict:
        self._flow.tally.duplicates[modality.name] += 1
        self._flow.acknowledge(session, stream)
        code = state.refused.get(sequence)
        return Verdict(code, "it was refused before") if code else DUPLICATE

    def _accept(self, session: Session, state: StreamState, entry: Entry, now_s: float) -> Refusal | None:
        """Put the entry in its place, or say which limit is reached."""
        refusal = self._refuses(session, entry, now_s)
        if refusal is not None:
            return refusal
        key = entry.key
        state.received.add(key.sequence)
        if key.event_time_s > state.newest_s:
            state.newest_s = key.event_time_s
        session.timeline.reach(key.stream, state.complete_upto_s)
        self._quotas.pending(session.key.tenant, entry.n_bytes)
        if self.tapped:
            self._flow.progress.accepted.append((session.key, entry))
        if session.timeline.rewinds(key):
            self._rewind(session, entry)
        else:
            session.timeline.insert(entry)
        session.last_segment_s = now_s
        self._flow.tell_if_held_back(session, key.stream)
        return None

    def _refuses(self, session: Session, entry: Entry, now_s: float) -> Refusal | None:
        timeline = session.timeline
        if timeline.is_full:
            return Refusal("session_backlog", f"{len(timeline.entries)} segments of the session wait for their step")
        tenant, n_bytes = session.key.tenant, entry.n_bytes
        refusal = self._quotas.refuses_segment(tenant, n_bytes, now_s, SHARE_OF_THOSE_AHEAD)
        if refusal is not None and refusal.reason in BYTE_LIMITS:
            timeline.gather_until_s = -inf
            if timeline.holds_back(entry.key.stream, now_s):
                return self._quotas.refuses_segment(tenant, n_bytes, now_s)
        return refusal

    def _rewind(self, session: Session, entry: Entry) -> None:
        """Insert an entry that breaks the fused order; keep showing the live state as it was until then."""
        timeline = session.timeline
        upto = timeline.last_fused_key
        assert upto is not None, "only what was fused can be undone"
        if session.shown is None:
            slot = session.live_slot
            session.shown = ShownState(
                session.live_version,
                upto.event_time_s,
                self._slab.contexts[slot].cpu().numpy().copy(),
                self._slab.host[slot].copy(),
                upto,
            )
        stale = timeline.insert(entry)
        for slot in stale:
            self._slab.free(slot)
        session.usage.rows_ahead -= len(stale)
        self._flow.tally.rewinds += 1
        self._flow.tally.fused_again += len(stale)

    def _slow_down(self, session: Session, stream: str, refusal: Refusal, now_s: float) -> Verdict:
        """Refuse for now, and wait for the stream.

        But not at a limit that only its publisher can relieve, nor at one of bytes if it holds its session back: what
        waits for it may be what fills the limit, and would never settle.
        """
        if refusal.reason in BYTE_LIMITS:
            waits = not session.timeline.holds_back(stream, now_s)
        else:
            waits = refusal.reason not in AT_ITS_PUBLISHER
        if waits:
            retry_s = now_s + refusal.retry_after_ms / 1000
            session.timeline.wait_longer(stream, retry_s + self._order.idle_timeout_s)
        self._flow.tally.slowed_by_reason[refusal.reason] += 1
        return Verdict("slow_down", refusal.text, refusal.retry_after_ms)

    def reject(self, session: Session, stream: str, sequence: int, code: str, text: str) -> Verdict:
        """Refuse for good: the number counts as seen. `Flow.landed` comes next."""
        session.streams[stream].consume(sequence, code)
        self._flow.tally.rejected_by_reason[code] += 1
        self._flow.mark_dirty(session)
        self._flow.acknowledge(session, stream)
        return Verdict(code, text)
