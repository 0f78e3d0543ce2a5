"""Promises 1, 2, 4 and 5, attacked: whatever happens on the way, the settled state is the offline model's.

An example is a tape of bytes that decides a whole life of sessions (`world.py`). A failure prints its story.
"""

from __future__ import annotations

from math import inf, nextafter
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.checkpoint import committed, restore, take_records
from runtime.engine.engine import Engine
from runtime.engine.order import FusionKey
from runtime.engine.policies import BatchPolicy, EnginePolicy, OrderPolicy
from runtime.engine.session import Session
from runtime.keys import SessionKey
from runtime.messages import SegmentEntry
from runtime.records import SessionRecord, decode_record, encode_record
from tests.runtime.engine.offline import Fused, OfflineModel, assert_close
from tests.runtime.engine.world import FRAMES, MODALITIES, Tape, World
from tests.runtime.toy_model import ToyModel

KEY = SessionKey("north", "1")
IDLE_S, EVICT_S = 2.0, 5.0


@pytest.mark.parametrize("mode", ["rewind", "hold", "arrival"])
@settings(max_examples=700)
@given(tape=st.binary(min_size=200, max_size=200))
def test_settled_state_equals_the_offline_model_after_any_life(
    mode: Literal["rewind", "hold", "arrival"], tape: bytes
) -> None:
    World(tape, mode).live()


# ---- segments that are late -------------------------------------------------------------------------------


class ReferenceWatermark:
    """The watermark of one session as design.md tells it: no entries, no records.

    The engine looks at the clock when something lands or ends, and when all streams are silent at the latest (the
    watermark of a `patient` reference); the moment a stream falls silent at the earliest.
    """

    def __init__(self, order: OrderPolicy, patient: bool) -> None:
        self._order = order
        self._patient = patient
        self._newest_s: dict[str, float] = {}
        self._wait_until_s: dict[str, float] = {}
        self._ended: set[str] = set()
        self._excused: set[str] = set()
        self._heard_s = inf
        self._lateness_s = 0.0
        self.watermark_s = -inf

    def open(self, stream: str, modality: str, now_s: float) -> None:
        self._lateness_s = max(
            self._lateness_s, self._order.lateness_by_modality_s.get(modality, self._order.lateness_s)
        )
        self._newest_s.setdefault(stream, -inf)
        self._wait_until_s[stream] = max(self._wait_until_s.get(stream, -inf), now_s + IDLE_S)
        self._ended.discard(stream)

    def land(self, stream: str, event_time_s: float, now_s: float) -> None:
        if max(self._wait_until_s.values()) <= now_s:  # after a silence all are expected to go on
            for other in self._wait_until_s.keys() - self._ended:
                self._wait_until_s[other] = now_s + IDLE_S
        elif now_s - self._heard_s >= IDLE_S / 2:  # after a shorter one those that would have gone on, but once
            timed_out = {name for name, until_s in self._wait_until_s.items() if self._heard_s < until_s <= now_s}
            self._wait_until_s |= dict.fromkeys(timed_out - self._excused, now_s + IDLE_S)
            self._excused |= timed_out
        self._heard_s = now_s
        self._excused.discard(stream)
        self._ended.discard(stream)
        self._newest_s[stream] = max(self._newest_s[stream], event_time_s)
        self._wait_until_s[stream] = max(self._wait_until_s[stream], now_s + IDLE_S)
        self.advance(now_s)

    def forget_ends(self) -> None:
        """A record does not hold them: after an eviction an ended stream may be waited for again."""
        self._ended.clear()
        self._excused.clear()
        self._heard_s = inf

    def end(self, stream: str, now_s: float) -> None:
        self._ended.add(stream)
        self._wait_until_s[stream] = -inf
        self.advance(now_s)

    def advance(self, now_s: float) -> None:
        waited_for = [self._newest_s[stream] for stream, until_s in self._wait_until_s.items() if until_s > now_s]
        if waited_for:
            self.watermark_s = max(self.watermark_s, nextafter(min(waited_for) - self._lateness_s, -inf))
        else:
            self.watermark_s = max(self.watermark_s, *self._newest_s.values())

    def tick(self, now_s: float) -> None:
        all_silent = max(self._wait_until_s.values(), default=inf) <= now_s
        if self._newest_s and (all_silent or not self._patient):
            self.advance(now_s)


class LateLife:
    """One session whose segments come in any order at all, with silences, ends and evictions between."""

    def __init__(self, data: bytes, mode: Literal["rewind", "hold"], late: Literal["drop", "fuse"]) -> None:
        self.tape = tape = Tape(data)
        by_modality = {"text": 1.5} if tape.chance(64) else {}
        self.order = OrderPolicy(
            mode=mode,
            late=late,
            lateness_s=(0.5, 0.0, 1.0)[tape.below(3)],
            lateness_by_modality_s=by_modality,
            idle_timeout_s=IDLE_S,
        )
        policy = EnginePolicy(self.order, BatchPolicy(1 + tape.below(2)), evict_after_s=EVICT_S)
        self.model = ToyModel()
        self.engine = Engine(self.model, policy)
        self.patient = ReferenceWatermark(self.order, patient=True)
        self.eager = ReferenceWatermark(self.order, patient=False)
        self.references = (self.patient, self.eager)
        self.ranks = [tape.below(3) for _ in range(1 + tape.below(3))]
        self.sent = [0] * len(self.ranks)
        self.fused: list[Fused] = []
        self.late = 0
        self.store: dict[SessionKey, bytes] = {}
        self.now_s = 50.0

    def live(self) -> None:
        for _ in range(40):
            action = self.tape.byte()
            if action < 150:
                self._send()
            elif action < 190:
                self.engine.step(self.now_s)
            elif action < 220:
                self._pass_time((0.5, 1.5, 2.5)[self.tape.below(3)])
            elif action < 230:
                self._end()
            else:
                self._leave()
        self._finish()

    def _session(self) -> Session:
        session = self.engine.sessions.get(KEY)
        if session is None:
            created = self.engine.create(KEY, self.now_s)
            assert isinstance(created, Session)
            session = created
            if KEY in self.store:
                restore(self.engine, session, decode_record(KEY, self.store[KEY]), "0", self.now_s)
        return session

    def _send(self) -> None:
        session, n = self._session(), self.tape.below(len(self.ranks))
        name, rank = f"s{n}", self.ranks[n]
        if name not in session.streams:
            self.engine.open_stream(session, name, MODALITIES[rank], self.sent[n] + 1, "publisher", 1, self.now_s)
            for reference in self.references:
                reference.open(name, MODALITIES[rank], self.now_s)
        self.sent[n] += 1
        event_time_s, frames = 0.25 * self.tape.below(24), FRAMES[rank][self.tape.below(32)]
        watermark_s = session.timeline.watermark_s
        assert self.patient.watermark_s <= watermark_s <= self.eager.watermark_s
        is_late = event_time_s <= watermark_s
        self.late += is_late
        entry = SegmentEntry(self.sent[n], event_time_s, frames)
        (verdict,) = self.engine.take(session, name, [entry], self.now_s, wall_s=1e6)
        if is_late and self.order.late == "drop":
            assert verdict.code == "late"
            event_time_s = -inf
        else:
            assert verdict.code == ("late_fused" if is_late else "accepted")
            event_time_s = nextafter(watermark_s, inf) if is_late else event_time_s
            self.fused.append(Fused(FusionKey(event_time_s, rank, name, self.sent[n]), frames))
        for reference in self.references:
            reference.land(name, event_time_s, self.now_s)

    def _pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.engine.tick(self.now_s)
        for reference in self.references:
            reference.tick(self.now_s)

    def _end(self) -> None:
        name = f"s{self.tape.below(len(self.ranks))}"
        session = self.engine.sessions.get(KEY)
        if session is not None and name in session.streams:
            self.engine.end_stream(session, name, self.now_s)
            for reference in self.references:
                reference.end(name, self.now_s)

    def _leave(self) -> None:
        """All is fused, settled and stored; the session leaves memory and must come back as if it had stayed."""
        self._pass_time(IDLE_S + 0.1)
        while self.engine.has_work:
            self.engine.step(self.now_s)
        self._save(take_records(self.engine, "0", 10))
        self.engine.take_progress()
        self._pass_time(EVICT_S + 0.1)
        assert not self.engine.sessions
        for reference in self.references:
            reference.forget_ends()

    def _save(self, records: list[SessionRecord]) -> None:
        self.store |= {record.key: encode_record(record) for record in records}
        committed(self.engine, records)

    def _finish(self) -> None:
        self._leave()
        state = OfflineModel(self.model).after(sorted(self.fused, key=lambda fused: fused.key))
        if state.context_KD is not None:
            session = self._session()
            assert (session.settled_version, session.lineage) == (state.version, state.lineage)
            assert_close(self.engine.slab.contexts[session.settled_slot], state.context_KD, "context")
        tally = self.engine.take_tally()
        counted = tally.late_dropped if self.order.late == "drop" else tally.late_fused
        assert sum(counted.values()) == self.late
        assert tally.rejected_by_reason["late"] == (self.late if self.order.late == "drop" else 0)
        assert sum(tally.settled.values()) == len(self.fused)


@pytest.mark.parametrize("late", ["drop", "fuse"])
@pytest.mark.parametrize("mode", ["rewind", "hold"])
@settings(max_examples=200)
@given(tape=st.binary(min_size=140, max_size=140))
def test_each_late_segment_is_told_and_counted_and_no_other(
    mode: Literal["rewind", "hold"], late: Literal["drop", "fuse"], tape: bytes
) -> None:
    LateLife(tape, mode, late).live()
