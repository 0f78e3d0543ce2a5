"""What a publisher keeps and sends: numbering, windows, resending, back-pressure. No socket, thread or clock.

Every segment stays in the buffer until it is durable. After a lost connection or a restarted worker the streams
are opened again and sent again from the durable mark; the worker's sequence numbers make that free.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Literal, NamedTuple

from runtime import messages as m
from runtime.client.errors import Refused, StreamRefused
from runtime.client.link import Identity, Link
from runtime.client.stream_buffer import Entry, Receipt, StreamBuffer, stream_segments, take_oldest
from runtime.keys import check_id
from runtime.messages import Float32Array
from runtime.wire import MAX_EVENT_TIME_S, MAX_MESSAGE_BYTES, MAX_SEQUENCE

MESSAGE_SEGMENTS = 256
MESSAGE_BYTES = 1 << 20
TURN_SEGMENTS = 16
"""of a session, before the next session has its turn: as many as a worker looks at in one go"""
STREAM_CODES = frozenset({"bad_id", "malformed", "too_large", "unknown_modality"})
"""why a stream cannot be opened; other final codes are about one segment"""


@dataclass(frozen=True, slots=True)
class PublisherPolicy:
    max_buffer_bytes: int = 64 << 20
    """of segments that are not durable yet"""
    when_full: Literal["block", "drop_oldest"] = "block"
    """block: `publish` waits. drop_oldest: the oldest segment is given up, and counted"""
    linger_ms: float = 0.0
    """how long a segment may wait for others to share its message with; a full message goes at once. Without it, what
    is published while the last message is being sent shares the next one"""

    def __post_init__(self) -> None:
        if self.when_full not in ("block", "drop_oldest"):
            raise ValueError(f"when_full must be block or drop_oldest: {self.when_full!r}")
        if self.max_buffer_bytes < 1:
            raise ValueError("max_buffer_bytes must be positive")
        if not 0 <= self.linger_ms < inf:
            raise ValueError(f"linger_ms must be finite and not negative: {self.linger_ms}")


class PublisherEvent(NamedTuple):
    """Something the user may want to know: a segment refused or fused late, a session reset, a stream taken."""

    code: str
    text: str
    session: str
    stream: str
    sequence: int


@dataclass(slots=True)
class PublisherStats:
    published: int = 0
    fused: int = 0
    durable: int = 0
    refused: int = 0
    """answered by a final Nack, late ones included"""
    late: int = 0
    dropped: int = 0
    """given up because the buffer was full"""
    resent: int = 0
    reconnects: int = 0
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    """from publish to the acknowledgement `fused`, of the newest segments"""


StreamName = tuple[str, str]


def _check_readable(frames: Float32Array, event_time_s: float, sequence: int | None) -> None:
    if not -MAX_EVENT_TIME_S < event_time_s < MAX_EVENT_TIME_S:
        raise ValueError(f"event time {event_time_s} is not a finite number of seconds")
    if len(frames) and not frames.shape[1]:
        raise ValueError("frames have width 0")
    if frames.nbytes > MAX_MESSAGE_BYTES:
        raise ValueError(f"segment has {frames.nbytes} bytes, more than {MAX_MESSAGE_BYTES}")
    if sequence is not None and sequence > MAX_SEQUENCE:
        raise ValueError(f"sequence {sequence} is more than 2**62")


@dataclass(slots=True)
class Account:
    """What all connections of a publisher share."""

    policy: PublisherPolicy
    on_event: Callable[[PublisherEvent], None] | None = None
    stats: PublisherStats = field(default_factory=PublisherStats)
    n_bytes: int = 0
    """of segments that are not durable yet"""


class PublisherCore:
    """One connection's streams. A publisher of several workers has one for each (`publisher_fleet`)."""

    def __init__(
        self,
        identity: Identity,
        policy: PublisherPolicy,
        on_event: Callable[[PublisherEvent], None] | None = None,
        *,
        account: Account | None = None,
    ) -> None:
        """With an `account` others route the streams: what another worker owns waits here until they are moved."""
        self._account = account or Account(policy, on_event)
        self._is_routed = account is not None
        self.stats = self._account.stats
        self.policy = self._account.policy
        self._link = Link(identity)
        self._streams: dict[StreamName, StreamBuffer] = {}
        self._sendable: OrderedDict[str, dict[StreamName, None]] = OrderedDict()
        """sessions that may have something to send, next turn first, and their streams that may"""
        self._to_open_or_end: dict[StreamName, None] = {}
        """streams for which a control message may be due"""
        self._paused: dict[StreamName, float] = {}
        """streams told to come again later, and when"""
        self._unserved: set[StreamName] = set()
        """of these, the ones that this worker does not own: it may before long, and will say so"""
        self._was_connected = False
        self._unsent = 0
        """segments published since there was nothing to send"""
        self._due_s = inf
        """when there is to be sent what there is: -inf at once, inf never"""
        self._in_flight_segments = 0
        self._in_flight_bytes = 0

    # ---- the user's side ----

    def has_room(self, n_bytes: int) -> bool:
        """One segment always fits, however large."""
        return self._account.n_bytes == 0 or self._account.n_bytes + n_bytes <= self.policy.max_buffer_bytes

    def publish(
        self,
        session: str,
        stream: str,
        modality: str,
        frames: Float32Array,
        event_time_s: float,
        now_s: float,
        sequence: int | None = None,
    ) -> Receipt:
        """Buffer one segment. The caller has made sure of room, or wants the oldest dropped.

        Raises StreamRefused once the stream was refused for good, ValueError for a number out of turn and for what no
        worker could read: it would refuse the whole message, and account for none of its segments.
        """
        _check_readable(frames, event_time_s, sequence)
        name = (session, stream)
        buffer = self._streams.get(name)
        if buffer is None:
            check_id("session", session)
            check_id("stream", stream)
            check_id("modality", modality)
            buffer = self._streams[name] = StreamBuffer(session, stream, modality)
        if buffer.refusal is not None:
            raise StreamRefused(buffer.refusal.code, buffer.refusal.text)
        if buffer.modality != modality:
            raise ValueError(f"stream {stream!r} of session {session!r} was published as {buffer.modality!r}")
        entry = Entry(event_time_s, frames, now_s)
        self._account.n_bytes += sum(kept.n_bytes for kept in buffer.append(entry, sequence))
        self.stats.published += 1
        self._unsent += 1
        self._make_sendable(name, now_s + self.policy.linger_ms / 1000)
        while not self.has_room(0) and self._drop_oldest(buffer):
            pass
        return entry.receipt

    def end(self, session: str, stream: str) -> None:
        """Nothing more comes on this stream for now: its session need not wait for it."""
        buffer = self._streams.get((session, stream))
        if buffer is not None:
            buffer.end()
            self._to_open_or_end[session, stream] = None

    def forget(self, session: str, stream: str) -> None:
        """Let go of a stream that has nothing left to send; publishing to it opens it again."""
        buffer = self._streams.get((session, stream))
        if buffer is not None and buffer.is_empty:
            del self._streams[session, stream]

    def has_reached(self, receipt: Receipt, until: Literal["fused", "durable"]) -> bool:
        """No more is to be waited for: the segment came so far, or never will."""
        return receipt.is_final or (until == "fused" and receipt.is_fused) or self.refusal is not None

    def check(self, receipt: Receipt) -> Receipt:
        """Raise Refused if the segment, or this publisher as a whole, was refused."""
        if receipt.is_refused:
            raise Refused(receipt.code, receipt.text)
        if self.refusal is not None and not receipt.is_final:
            raise Refused(self.refusal.code, self.refusal.text)
        return receipt

    @property
    def unfinished(self) -> int:
        """Segments that are neither durable nor refused."""
        return sum(buffer.unfinished for buffer in self._streams.values())

    def _drop_oldest(self, preferred: StreamBuffer) -> bool:
        """Give up the oldest segment of this stream, or of the fullest one if this has only its newest."""
        buffer = preferred
        if len(buffer) < 2:
            buffer = max(self._streams.values(), key=lambda candidate: candidate.n_bytes)
        dropped = buffer.drop_oldest() if len(buffer) > 1 or buffer is not preferred else None
        if dropped is None:
            return False
        self._account.n_bytes -= dropped.n_bytes
        self._recount_in_flight()
        self.stats.dropped += dropped.receipt.is_dropped
        return True

    # ---- streams that move to another connection ----

    @property
    def sessions(self) -> set[str]:
        return {session for session, _ in self._streams}

    def release(self, sessions: Collection[str]) -> list[StreamBuffer]:
        """Let go of the streams of these sessions."""
        names = [name for name in self._streams if name[0] in sessions]
        released = [self._streams.pop(name) for name in names]
        self._unserved.difference_update(names)
        for name in names:
            self._paused.pop(name, None)
            self._to_open_or_end.pop(name, None)
        self._recount_in_flight()
        return released

    def adopt(self, buffer: StreamBuffer) -> None:
        """Go on with a stream that another connection has let go of."""
        name = (buffer.session, buffer.stream)
        self._streams[name] = buffer
        self.stats.resent += buffer.reconnect()
        self._make_sendable(name)

    def lose(self) -> None:
        """Open another connection."""
        self._link.lose()

    # ---- the driver's side (runtime.client.link.Core) ----

    @property
    def is_lost(self) -> bool:
        return self._link.is_lost

    @property
    def refusal(self) -> m.Nack | None:
        return self._link.refusal

    @property
    def welcome(self) -> m.Welcome | None:
        return self._link.welcome

    def connected(self, now_s: float) -> None:
        self._link.connected(now_s)
        self.stats.reconnects += self._was_connected
        self._was_connected = True
        self._paused.clear()
        self._unserved.clear()
        for name, buffer in self._streams.items():
            self.stats.resent += buffer.reconnect()
            self._make_sendable(name)
        self._recount_in_flight()

    def tick(self, now_s: float) -> None:
        self._link.tick(now_s)
        self._resume([name for name, until_s in self._paused.items() if until_s <= now_s])

    def _resume(self, names: Iterable[StreamName]) -> None:
        for name in names:
            self._unserved.discard(name)
            if self._paused.pop(name, None) is not None:
                self._make_sendable(name)
                self._to_open_or_end[name] = None

    @property
    def wake_at_s(self) -> float:
        due_s = self._due_s if self._due_s > -inf else inf  # due already: it waits for the worker, not for time
        return min(self._link.wake_at_s, due_s, min(self._paused.values(), default=inf))

    def outgoing(self, now_s: float) -> m.Message | None:
        message = self._link.outgoing()
        if message is not None or self._link.welcome is None:
            return message
        return self._open_or_end() or (self._segments() if self._is_due(now_s) else None)

    def _is_due(self, now_s: float) -> bool:
        if self._due_s > now_s and self._unsent < MESSAGE_SEGMENTS:
            return False
        self._due_s = -inf
        return True

    def _open_or_end(self) -> m.Message | None:
        while self._to_open_or_end:
            name, _ = self._to_open_or_end.popitem()
            buffer = self._streams.get(name)
            if buffer is not None and name not in self._paused:
                message = buffer.open_or_end()
                if message is not None:
                    return message
        return None

    def _segments(self) -> m.Message | None:
        """One message of segments within the window: sessions in turns, each in the order of publishing."""
        welcome = self._link.welcome
        assert welcome is not None
        entries: dict[StreamBuffer, list[Entry]] = {}
        n_segments = n_bytes = 0
        while self._sendable and n_segments < MESSAGE_SEGMENTS and n_bytes < MESSAGE_BYTES:
            room = min(welcome.window_segments - self._in_flight_segments, MESSAGE_SEGMENTS - n_segments, TURN_SEGMENTS)
            if room <= 0 or (self._in_flight_bytes >= welcome.window_bytes):
                break
            _, names = self._sendable.popitem(last=False)
            taken = take_oldest(self._ready_of(names), room, MESSAGE_BYTES - n_bytes)
            if not taken:
                continue
            for buffer, entry in taken:
                entries.setdefault(buffer, []).append(entry)
            for name in names:
                self._make_sendable(name)
                self._to_open_or_end[name] = None
            sent_bytes = sum(entry.n_bytes for _, entry in taken)
            n_segments, n_bytes = n_segments + len(taken), n_bytes + sent_bytes
            self._in_flight_segments += len(taken)
            self._in_flight_bytes += sent_bytes
        if not self._sendable:
            self._due_s, self._unsent = inf, 0
        groups: list[m.StreamSegments] = []
        for buffer, sent in entries.items():
            groups += stream_segments(buffer.session, buffer.stream, buffer.oldest, (entry.on_wire() for entry in sent))
        return m.Segments(tuple(groups)) if groups else None

    def _ready_of(self, names: Iterable[StreamName]) -> list[StreamBuffer]:
        return [self._streams[name] for name in names if name in self._streams and name not in self._paused]

    def receive(self, message: m.Message, now_s: float) -> None:
        self._link.receive(message, now_s)
        match message:
            case m.Ack(streams):
                for ack in streams:
                    self._acknowledged(ack, now_s)
            case m.Opened(session, stream):
                buffer = self._streams.get((session, stream))
                if buffer is not None:
                    self._free(buffer.opened(message.durable, message.last_sequence))
                    self._recount_in_flight()
                    self._make_sendable((session, stream))
                    self._to_open_or_end[session, stream] = None
            case m.Nack(session=session, stream=stream) if stream:
                self._refused(message, now_s)
            case m.Routes():  # the worker has other groups than before
                self._resume(list(self._unserved))
            case m.Moved() if not self._is_routed:
                self._link.lose()
            case _:
                pass

    def _acknowledged(self, ack: m.StreamAck, now_s: float) -> None:
        buffer = self._streams.get((ack.session, ack.stream))
        if buffer is None:
            return
        for entry in buffer.taken(max(ack.taken, ack.fused)):
            self._in_flight_segments -= 1
            self._in_flight_bytes -= entry.n_bytes
        for entry in buffer.fused(ack.fused, ack.version):
            if entry.receipt.is_fused and not entry.counted:
                entry.counted = True
                self.stats.fused += 1
                self.stats.latencies_s.append(now_s - entry.published_s)
        if buffer.has_unsent:
            self._make_sendable((ack.session, ack.stream))
        self._free(buffer.durable(ack.durable))

    def _free(self, done: list[Entry]) -> None:
        """These are durable, or were refused and are accounted for."""
        for entry in done:
            self._account.n_bytes -= entry.n_bytes
            if entry.receipt.is_durable:
                self.stats.durable += 1
                self.stats.fused += not entry.counted

    def _refused(self, nack: m.Nack, now_s: float) -> None:
        name = (nack.session, nack.stream)
        buffer = self._streams.get(name)
        if buffer is None:
            return
        if nack.code == "not_open":
            self.stats.resent += buffer.reconnect()
        elif nack.code in m.RETRY_CODES:
            self.stats.resent += buffer.send_again_from(nack.sequence)
            self._paused[name] = now_s + max(nack.retry_after_ms, 1) / 1000
            if nack.code == "not_owner":
                self._unserved.add(name)
                if not self._is_routed:
                    self._link.lose()
        elif nack.code == "stream_taken" or (buffer.is_opening and nack.code in STREAM_CODES):
            self._stream_refused(buffer, nack)
            self._tell(nack)
        elif nack.code in m.NOTICE_CODES or self._segment_refused(buffer, nack):
            self._tell(nack)
        self._recount_in_flight()
        self._make_sendable(name)

    def _segment_refused(self, buffer: StreamBuffer, nack: m.Nack) -> bool:
        """False if that was known: the worker repeats it until the number is let go of."""
        if buffer.refuse(nack.sequence, nack.code, nack.text) is None:
            return False
        self.stats.refused += 1
        self.stats.late += nack.code == "late"
        return True

    def _stream_refused(self, buffer: StreamBuffer, nack: m.Nack) -> None:
        self.stats.refused += buffer.unfinished
        entries = buffer.refuse_all(nack)
        self._account.n_bytes -= sum(entry.n_bytes for entry in entries)

    def _tell(self, nack: m.Nack) -> None:
        if self._account.on_event is not None:
            self._account.on_event(PublisherEvent(nack.code, nack.text, nack.session, nack.stream, nack.sequence))

    def _recount_in_flight(self) -> None:
        counts = [buffer.in_flight() for buffer in self._streams.values()]
        self._in_flight_segments = sum(segments for segments, _ in counts)
        self._in_flight_bytes = sum(n_bytes for _, n_bytes in counts)

    def _make_sendable(self, name: StreamName, due_s: float = -inf) -> None:
        buffer = self._streams.get(name)
        if buffer is None:
            return
        if not buffer.is_open:
            self._to_open_or_end[name] = None
        names = self._sendable.setdefault(buffer.session, {})
        if name not in names:
            names[name] = None
            self._due_s = min(self._due_s, due_s)
