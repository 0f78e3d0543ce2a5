"""Random lives of sessions: publishers, the engine, a store and their accidents, decided by a tape of bytes.

Publishers keep what is not durable and send it again after a crash, each stream in its order, streams interleaved
at will. Within a phase segments come in one of two ways, both within what the engine promises to put in order:

- *scattered*: none is later than the allowed lateness behind what has come before in its session;
- *skewed*: streams run apart without limit, but each is waited for (open, flowing, or in the restart grace).

Between phases everything falls silent for longer than any time-out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, nextafter
from typing import Literal, TypeVar

import numpy as np

from runtime.engine.checkpoint import committed, not_committed, restore, take_records
from runtime.engine.engine import Engine
from runtime.engine.order import FusionKey
from runtime.engine.outcomes import Progress
from runtime.engine.policies import BatchPolicy, EnginePolicy, OrderPolicy, QuotaPolicy
from runtime.engine.quota import Quotas, Refusal
from runtime.engine.session import Session
from runtime.keys import SessionKey
from runtime.messages import Float32Array, SegmentEntry
from runtime.records import SessionRecord, decode_record, encode_record
from tests.runtime.engine.offline import Fused, OfflineModel, assert_close
from tests.runtime.toy_model import POISON, SIGNATURE, ToyModel

KEYS = (SessionKey("north", "1"), SessionKey("south", "1"), SessionKey("north", "01"))
MODALITIES = [modality.name for modality in SIGNATURE.modalities]
STREAMS = ("b", "a", "d", "c")
GRID_S = 0.25
Option = TypeVar("Option")
IDLE_S, GRACE_S, EVICT_S = 2.0, 10.0, 5.0
EPSILON_S = 1e-3

_rng = np.random.default_rng(11)
FRAMES = [
    [_rng.normal(size=(1 + i % 3, modality.width)).astype(np.float32) for i in range(32)]
    for modality in SIGNATURE.modalities
]


class Tape:
    """Decisions, a byte each. Behind its end all are 0, the plainest choice, so that every life comes to an end."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def byte(self) -> int:
        return next(self._bytes, 0)

    def below(self, bound: int) -> int:
        return self.byte() * bound >> 8

    def chance(self, in_256: int) -> bool:
        """0 is no."""
        return self.byte() >= 256 - in_256


@dataclass(eq=False, slots=True)
class Piece:
    """A segment that a publisher will send."""

    stream: PlannedStream
    sequence: int
    event_time_s: float
    frames: Float32Array
    fails: bool
    is_due: bool = False
    """its time has come: it was sent, or will be in this phase"""


@dataclass(eq=False, slots=True)
class PlannedStream:
    name: str
    rank: int
    pieces: list[Piece] = field(default_factory=list)
    durable_seen: int = 0
    """what its publisher has seen acknowledged"""
    to_send: list[Piece] = field(default_factory=list)
    """in sequence order"""
    waited_until_s: float = -inf
    """until when the engine has promised to wait for it"""


@dataclass(eq=False, slots=True)
class PlannedSession:
    key: SessionKey
    streams: list[PlannedStream]
    phases: list[list[Piece]]
    """in the order of arrival, when scattered"""
    scattered: list[bool]
    is_shuffled: bool
    """a stream's segments come in any order while it is skewed: what is missing is told by the sequence numbers"""
    order: list[Piece] = field(default_factory=list)
    """what is left to send in this phase while it is scattered"""
    is_scattered: bool = False
    last_landed_s: float = -inf
    was_opened: bool = False
    landed: dict[tuple[str, int], Fused] = field(default_factory=dict)
    """what the engine has accepted and not lost by a crash, in the order of arrival"""
    shown_version: int = 0
    shown_names: set[tuple[str, int]] = field(default_factory=set)
    """the segments in the live state as it was last shown"""
    rewound_upto: FusionKey | None = None
    """the live state is being fused again, up to this key"""
    corrected: bool = False


class _MoodyQuotas(Quotas):
    """Refuses segments for no reason."""

    def __init__(self, tape: Tape, in_256: int) -> None:
        super().__init__(QuotaPolicy())
        self._tape = tape
        self._in_256 = in_256

    def refuses_segment(self, tenant: str, n_bytes: int, now_s: float, share: float = 1.0) -> Refusal | None:
        if not self._tape.chance(self._in_256):
            return None
        return Refusal(("tenant_rate", "tenant_bytes")[self._tape.below(2)], "not now")


class World:
    def __init__(self, data: bytes, mode: Literal["rewind", "hold", "arrival"]) -> None:
        self.tape = tape = Tape(data)
        lateness_s = (0.5, 0.0, 1.0)[tape.below(3)]
        by_modality = {"text": 1.5} if tape.chance(64) else {}
        self.order = OrderPolicy(
            mode=mode,
            lateness_s=lateness_s,
            lateness_by_modality_s=by_modality,
            idle_timeout_s=IDLE_S,
            restart_grace_s=GRACE_S,
        )
        self.policy = EnginePolicy(
            order=self.order,
            batch=BatchPolicy((4, 1, 2, 64)[tape.below(4)], (64, 2, 5)[tape.below(3)]),
            capacity=(64, 5, 9)[tape.below(3)],
            evict_after_s=EVICT_S,
        )
        self.model = ToyModel()
        self.offline = [OfflineModel(self.model) for _ in KEYS]
        self.now_s = 100.0
        self.store: dict[SessionKey, bytes] = {}
        self.history: dict[SessionKey, list[tuple[int, tuple[float, ...], tuple[float, ...]]]] = {}
        self.in_flight: list[SessionRecord] | None = None
        self.incarnation = 0
        self.refusals_in_256 = (0, 0, 0, 50)[tape.below(4)]
        self.engine = self._new_engine()
        self.failed: set[tuple[SessionKey, str, int]] = set()
        self.gaps = 0
        self.crashes = 0
        self.story: list[str] = []
        with_poison = tape.chance(64)
        self.n_phases = 1 + tape.below(2)
        self.sessions = [self._plan(KEYS[i], with_poison) for i in range(1 + tape.below(3))]

    def _new_engine(self) -> Engine:
        moody = _MoodyQuotas(self.tape, self.refusals_in_256) if self.refusals_in_256 else None
        return Engine(self.model, self.policy, moody)

    # ---- the plan ----

    def _plan(self, key: SessionKey, with_poison: bool) -> PlannedSession:
        tape = self.tape
        streams = [PlannedStream(STREAMS[i], tape.below(3)) for i in range(1 + tape.below(4))]
        by_arrival = tape.chance(128)
        base_s, phases = 0.0, []
        for _ in range(self.n_phases):
            rows = []
            for n in range(1 + tape.below(6)):
                stream = streams[tape.below(len(streams))]
                event_time_s = base_s + GRID_S * tape.below(9)
                lateness_s = self.order.lateness_of(MODALITIES[stream.rank]) if self.order.mode != "arrival" else 1.0
                arrival = (event_time_s + GRID_S * tape.below(round(lateness_s / GRID_S) + 1), tape.byte(), n)
                frames = FRAMES[stream.rank][tape.byte() % 32]
                fails = with_poison and tape.chance(50)
                if fails:
                    frames = frames.copy()
                    frames[0, 0] = POISON if tape.chance(128) else -POISON
                rows.append((arrival, Piece(stream, 0, event_time_s, frames, fails)))
            rows.sort(key=lambda row: row[0])
            arrivals = [piece for _, piece in rows]
            numbered = arrivals if by_arrival else sorted(arrivals, key=lambda piece: piece.event_time_s)
            for piece in numbered:
                piece.stream.pieces.append(piece)
                piece.sequence = len(piece.stream.pieces)
            phases.append(arrivals)
            base_s = max(piece.event_time_s for piece in arrivals) + GRID_S
        scattered = [not tape.chance(100) for _ in range(self.n_phases)]
        return PlannedSession(key, streams, phases, scattered, is_shuffled=tape.chance(64))

    # ---- life ----

    def live(self) -> None:
        try:
            self._live()
        except BaseException as error:
            error.add_note("\n".join(self.story))
            raise

    def _live(self) -> None:
        for phase in range(self.n_phases):
            for session in self.sessions:
                self._begin(session, phase)
            while any(self._remaining(session) for session in self.sessions):
                self._act()
                self.check_invariants()
            self._fall_silent()
            self.check_invariants()
        self._finish()

    def _begin(self, session: PlannedSession, phase: int) -> None:
        session.order = list(session.phases[phase])
        session.is_scattered = session.scattered[phase]
        session.last_landed_s = -inf
        for piece in sorted(session.order, key=lambda piece: piece.sequence):
            piece.stream.to_send.append(piece)
            piece.is_due = True
        session.was_opened = False
        self._resident(session)

    def _remaining(self, session: PlannedSession) -> bool:
        return bool(session.order) if session.is_scattered else any(stream.to_send for stream in session.streams)

    def _act(self) -> None:
        tape = self.tape
        action = tape.byte()
        if action < 90:
            self._send()
        elif action < 140:
            self._step()
        elif action < 163:
            self._pass_time((0.1, 0.5, 1.5, 6.0)[tape.below(4)])
        elif action < 190:
            self._checkpoint()
        elif action < 197:
            self._checkpoint_fails()
        elif action < 207:
            self._send_again()
        elif action < 217:
            self._hear_acks()
        elif action < 226:
            self._check_live()
        elif action < 234:
            self.engine.residents.make_room(self.policy.capacity, self.now_s)
        elif action < 242:
            self._end_stream()
        else:
            self._crash()

    def _send(self) -> None:
        waiting = [session for session in self.sessions if self._remaining(session)]
        session = self._choose(waiting)
        if self._resident(session) is None:  # no row is free: another one, or later
            admitted = [other for other in waiting if self._resident(other) is not None]
            if not admitted:
                self._pass_time(1.0)
                return
            session = admitted[0]
        if session.is_scattered:
            piece = session.order.pop(0)
            piece.stream.to_send.remove(piece)
        else:
            stream = self._choose([stream for stream in session.streams if stream.to_send])
            piece = stream.to_send.pop(self.tape.below(len(stream.to_send)) if session.is_shuffled else 0)
        self._deliver(session, piece)

    def _choose(self, options: Sequence[Option]) -> Option:
        return options[self.tape.below(len(options))] if len(options) > 1 else options[0]

    def _deliver(self, planned: PlannedSession, piece: Piece) -> None:
        stream = piece.stream
        session = self._resident(planned)
        if session is None:
            return
        if stream.name not in session.streams or session.streams[stream.name].owner is None:
            self._open(planned, stream)
        self.engine.skip_below(session, stream.name, self._oldest(planned, piece), self.now_s)
        event_time_s = piece.event_time_s
        if self.order.mode == "arrival" and event_time_s <= session.timeline.watermark_s:
            event_time_s = nextafter(session.timeline.watermark_s, inf)
        known = (stream.name, piece.sequence) in planned.landed
        fused = session.timeline.fused
        fused_upto = session.timeline.entries[fused - 1].key if fused else None
        entry = SegmentEntry(piece.sequence, piece.event_time_s, piece.frames)
        (verdict,) = self.engine.take(session, stream.name, [entry], self.now_s, wall_s=1e6)
        self._tell(
            f"{planned.key.tenant}/{planned.key.session} {stream.name} {piece.sequence} @{event_time_s}"
            f" {verdict.code}, watermark {session.timeline.watermark_s}"
        )
        if self.refusals_in_256 and verdict.code == "slow_down":
            self._put_back(planned, piece)
            self._open_streams(planned)
            return
        if not known:
            assert verdict.code == "accepted", (verdict, planned.key, stream.name, piece.sequence)
        elif piece.fails:
            assert verdict.code in ("duplicate", "step_failed")
        else:
            assert verdict.code == "duplicate", (verdict, planned.key, stream.name, piece.sequence)
        if not known:
            key = FusionKey(event_time_s, stream.rank, stream.name, piece.sequence)
            planned.landed[stream.name, piece.sequence] = Fused(key, piece.frames)
            if fused_upto is not None and key < fused_upto:
                planned.rewound_upto = max(fused_upto, planned.rewound_upto or fused_upto)
            stream.waited_until_s = max(stream.waited_until_s, self.now_s + IDLE_S)
            planned.last_landed_s = self.now_s

    def _oldest(self, planned: PlannedSession, piece: Piece) -> int:
        """As publishers say it that keep what is not durable; now and then as one that keeps what has not landed."""
        oldest = piece.stream.durable_seen + 1
        while piece.sequence % 4 == 0 and (piece.stream.name, oldest) in planned.landed:
            oldest += 1
        return oldest

    def _put_back(self, planned: PlannedSession, piece: Piece) -> None:
        """It will be sent again, however late by then: its stream and all others that are open are waited for."""
        piece.stream.to_send.append(piece)
        piece.stream.to_send.sort(key=lambda piece: piece.sequence)
        planned.is_scattered, planned.order = False, []

    def _tell(self, what: str) -> None:
        self.story.append(f"{self.now_s:8.3f} {what}")

    def _open(self, planned: PlannedSession, stream: PlannedStream) -> None:
        session = self.engine.sessions[planned.key]
        self._tell(f"{planned.key.tenant}/{planned.key.session} {stream.name} open from {stream.durable_seen + 1}")
        base = stream.durable_seen + 1
        self.engine.open_stream(session, stream.name, MODALITIES[stream.rank], base, "publisher", 1, self.now_s)
        stream.waited_until_s = max(stream.waited_until_s, self.now_s + IDLE_S)

    def _open_streams(self, planned: PlannedSession) -> None:
        """Publishers come at once, or, where order does not depend on it, with their first segment."""
        session = self.engine.sessions[planned.key]
        lazily = planned.is_scattered and not self.order.lateness_by_modality_s
        for stream in planned.streams:
            if stream.to_send:
                is_waited_for = stream.waited_until_s > self.now_s and stream.name in session.streams
                if not (lazily or is_waited_for) or self.tape.chance(128):
                    self._open(planned, stream)

    def _resident(self, planned: PlannedSession) -> Session | None:
        """The session in memory, loaded if need be; None if the engine has no room for it now."""
        if planned.key not in self.engine.sessions and not self._load(planned):
            return None
        if not planned.was_opened:
            planned.was_opened = True
            self._open_streams(planned)
        return self.engine.sessions[planned.key]

    def _load(self, planned: PlannedSession) -> bool:
        session = self.engine.create(planned.key, self.now_s)
        if not isinstance(session, Session):
            self._tell(f"{planned.key.tenant}/{planned.key.session} refused: {session.reason}")
            return False
        if planned.key in self.store:
            record = decode_record(planned.key, self.store[planned.key])
            restore(self.engine, session, record, str(self.incarnation), self.now_s)
            if record.incarnation != str(self.incarnation):
                for stream in planned.streams:
                    self._wait_for_flowing(stream, record)
        return True

    def _wait_for_flowing(self, stream: PlannedStream, record: SessionRecord) -> None:
        for known in record.streams:
            if known.stream == stream.name and known.newest_s >= record.watermark_s - IDLE_S:
                stream.waited_until_s = self.now_s + GRACE_S

    def _send_again(self) -> None:
        """A retransmission of something that was taken already."""
        sent = [
            (session, piece)
            for session in self.sessions
            for stream in session.streams
            for piece in stream.pieces
            if (stream.name, piece.sequence) in session.landed
        ]
        if sent:
            self._deliver(*self._choose(sent))

    def _end_stream(self) -> None:
        for session in self.sessions:
            resident = self.engine.sessions.get(session.key)
            for stream in session.streams:
                over = not (self._remaining(session) if session.is_scattered else stream.to_send)
                if over and resident and stream.name in resident.streams and self.tape.chance(100):
                    self._tell(f"{session.key.tenant}/{session.key.session} {stream.name} ends")
                    self.engine.end_stream(resident, stream.name, self.now_s)
                    stream.waited_until_s = -inf

    def _step(self) -> None:
        with np.errstate(all="ignore"):
            fused = self.engine.step(self.now_s)
        self._tell(f"step {fused}")
        for planned in self.sessions:
            session = self.engine.sessions.get(planned.key)
            if session is not None and planned.rewound_upto is not None:
                entry = session.timeline.next_entry()
                if entry is None or entry.key > planned.rewound_upto:
                    planned.rewound_upto = None
                    planned.corrected = True

    def _pass_time(self, seconds: float) -> None:
        """As long as nothing is left to send that would not be waited for."""
        until_s = inf
        for session in self.sessions:
            if session.is_scattered and session.order and session.last_landed_s > -inf:
                until_s = min(until_s, session.last_landed_s + IDLE_S)
            if not session.is_scattered and session.was_opened:
                waits = [stream.waited_until_s for stream in session.streams if stream.to_send]
                until_s = min([until_s, *waits])
        self.now_s = max(self.now_s, min(self.now_s + seconds, until_s - EPSILON_S))
        self._tell("tick")
        self.engine.tick(self.now_s)

    def _fall_silent(self) -> None:
        tape = self.tape
        self.now_s += GRACE_S + IDLE_S + EPSILON_S
        self._tell("silence")
        self.engine.tick(self.now_s)
        if tape.chance(128):
            self._drain()
            if tape.chance(128):
                self._check_live()
            if tape.chance(128):
                self._settle_in_flight()
                self._checkpoint()
                self._settle_in_flight()
                self._note_progress(self.engine.take_progress())
                self.now_s += EVICT_S + EPSILON_S
                self.engine.tick(self.now_s)

    def _drain(self) -> None:
        for _ in range(1000):
            if not self.engine.has_work:
                return
            self._step()
            self._note_progress(self.engine.take_progress())

    # ---- checkpoints ----

    def _checkpoint(self) -> None:
        """Begin a write, or end the one under way."""
        if self.in_flight is None:
            self.in_flight = take_records(self.engine, str(self.incarnation), (1000, 1)[self.tape.below(2)])
            self._tell(f"checkpoint begins: {[f'{r.key.tenant}/{r.key.session}' for r in self.in_flight]}")
        else:
            self._settle_in_flight()

    def _settle_in_flight(self) -> None:
        if self.in_flight is not None:
            self._save(self.in_flight)
            committed(self.engine, self.in_flight)
            self._tell("checkpoint committed")
            self.in_flight = None

    def _checkpoint_fails(self) -> None:
        if self.in_flight is not None:
            not_committed(self.engine, self.in_flight)
            self._tell("checkpoint not committed")
            self.in_flight = None

    def _save(self, records: list[SessionRecord]) -> None:
        for record in records:
            self.store[record.key] = encode_record(record)
            rows = self.history.setdefault(record.key, [])
            rows += [(row.version, row.outputs, row.shares) for row in record.history]

    def _hear_acks(self) -> None:
        self._note_progress(self.engine.take_progress(), heard=True)

    def _note_progress(self, progress: Progress, heard: bool = False) -> None:
        for failure in progress.failures:
            self.failed.add((failure.key, failure.stream, failure.sequence))
        for planned in self.sessions:
            assert progress.states.get(planned.key, False) == planned.corrected, "correction told wrongly"
            planned.corrected = False
        if not heard:
            return
        for planned in self.sessions:
            session = self.engine.sessions.get(planned.key)
            for name in progress.streams.get(planned.key, {}):
                assert session is not None, "a session left before its acknowledgements were told"
                stream = next(stream for stream in planned.streams if stream.name == name)
                durable = session.streams[name].durable
                assert durable >= stream.durable_seen
                stream.durable_seen = durable
                if durable:
                    stored = decode_record(planned.key, self.store[planned.key])
                    marks = {row.stream: row.settled_upto for row in stored.streams}
                    assert durable <= marks[name], "durable before it was committed"

    def _crash(self) -> None:
        """The worker is gone. What was being written may have been written, though nobody was told."""
        self._note_progress(self.engine.take_progress())
        self.gaps += self.engine.tally.gaps
        if self.in_flight is not None and self.tape.chance(128):
            self._save(self.in_flight)
        self._tell("crash")
        self.in_flight = None
        self.crashes += 1
        self.incarnation += 1
        self.engine = self._new_engine()
        for planned in self.sessions:
            self._lose_what_is_not_stored(planned)

    def _lose_what_is_not_stored(self, planned: PlannedSession) -> None:
        marks: dict[str, tuple[int, set[int]]] = {}
        planned.shown_version = 0
        planned.rewound_upto = None
        planned.corrected = False
        if planned.key in self.store:
            record = decode_record(planned.key, self.store[planned.key])
            marks = {row.stream: (row.settled_upto, set(row.settled_above)) for row in record.streams}
            planned.shown_version = record.version
        for name, sequence in list(planned.landed):
            upto, above = marks.get(name, (0, set()))
            if sequence > upto and sequence not in above:
                del planned.landed[name, sequence]
        for stream in planned.streams:
            stream.to_send = [p for p in stream.pieces if p.is_due and p.sequence > stream.durable_seen]
            stream.waited_until_s = -inf
        planned.shown_names = set(planned.landed)
        planned.order = []
        planned.is_scattered = False
        planned.was_opened = False

    # ---- what must hold ----

    def check_invariants(self) -> None:
        engine = self.engine
        engine.slab.check_integrity()
        rows = pending = 0
        ahead: Counter[str] = Counter()
        for resident in engine.sessions.values():
            entries, fused = resident.timeline.entries, resident.timeline.fused
            assert [entry.key for entry in entries] == sorted(entry.key for entry in entries)
            assert all((entry.slot >= 0) == (i < fused) for i, entry in enumerate(entries))
            rows += fused + (resident.settled_slot >= 0)
            ahead[resident.key.tenant] += fused
            pending += sum(entry.n_bytes for entry in entries)
            assert resident.timeline.n_bytes == sum(entry.n_bytes for entry in entries)
        assert engine.slab.available == engine.slab.capacity - rows
        for resident in engine.sessions.values():
            assert resident.usage.rows_ahead == ahead[resident.key.tenant]
        assert engine.quotas.pending_bytes == pending
        for planned in self.sessions:
            session = engine.sessions.get(planned.key)
            if session is not None:
                self._check_shown(planned, session)

    def _check_shown(self, planned: PlannedSession, session: Session) -> None:
        """The live state as shown only ever gains segments."""
        version = session.shown.version if session.shown else session.live_version
        assert version >= planned.shown_version, "the live version went backwards"
        planned.shown_version = version
        assert (session.shown is None) == (planned.rewound_upto is None)
        if session.shown is None:
            waiting = {(e.key.stream, e.key.sequence) for e in session.timeline.entries[session.timeline.fused :]}
            names = {name for name in planned.landed if name not in waiting}
            assert names >= planned.shown_names, "the live state lost a segment"
            planned.shown_names = names

    def good(self, planned: PlannedSession) -> list[Fused]:
        """What has landed and does not fail, in fusion order."""
        failing = {(p.stream.name, p.sequence) for s in planned.streams for p in s.pieces if p.fails}
        good = [fused for name, fused in planned.landed.items() if name not in failing]
        return good if self.order.mode == "arrival" else sorted(good, key=lambda fused: fused.key)

    def _check_live(self) -> None:
        """Once all that has landed is fused, the live state is the offline model's."""
        self._drain()
        if self.engine.has_work:
            return  # no row of the slab is free
        for i, planned in enumerate(self.sessions):
            session = self.engine.sessions.get(planned.key)
            if session is None or self.order.mode == "hold":
                continue
            assert session.timeline.next_entry() is None
            assert session.shown is None
            expected = self.offline[i].after(self.good(planned))
            assert session.live_version == expected.version
            if expected.context_KD is not None:
                assert_close(self.engine.slab.contexts[session.live_slot], expected.context_KD, "live context")
                assert_close(self.engine.slab.shares[session.live_slot], expected.shares, "live shares")

    def _finish(self) -> None:
        self._settle_in_flight()
        for _ in range(200):
            self.now_s += GRACE_S + IDLE_S
            self.engine.tick(self.now_s)
            self._drain()
            self._checkpoint()
            self._settle_in_flight()
            self._hear_acks()
            if not self.engine.has_work and not self.engine.dirty:
                break
        else:
            raise AssertionError("the engine did not come to rest")
        for i, planned in enumerate(self.sessions):
            self._check_settled(i, planned)
        self.gaps += self.engine.tally.gaps
        assert self.gaps == 0
        poisoned = {(s.key, t.name, p.sequence) for s in self.sessions for t in s.streams for p in t.pieces if p.fails}
        assert self.failed == poisoned
        assert self.engine.quotas.pending_bytes == 0
        for key in list(self.engine.sessions):
            self.engine.forget(key)
        self.engine.slab.check_integrity()
        assert self.engine.slab.available == self.engine.slab.capacity
        assert not self.engine.dirty

    def _check_settled(self, i: int, planned: PlannedSession) -> None:
        session = self._resident(planned)
        assert session is not None
        assert not session.timeline.entries
        good = self.good(planned)
        states = self.offline[i].states(good)
        expected = self.offline[i].after(good)
        assert session.settled_version == session.live_version == expected.version
        assert session.lineage == expected.lineage
        slot, slab = session.settled_slot, self.engine.slab
        if expected.context_KD is not None:
            assert_close(slab.contexts[slot], expected.context_KD, "context")
            assert_close(slab.outputs[slot], expected.outputs, "outputs")
            assert_close(slab.shares[slot], expected.shares, "shares")
            assert_close(slab.gate[slot], expected.gate, "gate")
        for stream in planned.streams:
            if stream.pieces:
                assert session.streams[stream.name].durable == len(stream.pieces)
        rows = self.history.get(planned.key, [])
        assert [version for version, _, _ in rows] == list(range(1, expected.version + 1))
        for (_, outputs, shares), state in zip(rows, states, strict=True):
            assert_close(outputs, state.outputs, "outputs in the history")
            assert_close(shares, state.shares, "shares in the history")
