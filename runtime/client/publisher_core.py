"""What a publisher keeps until it is durable: numbering, resending, back-pressure. No socket, thread or clock.

Every segment stays in the buffer until it is durable. After a lost connection or a restarted worker the streams
are opened again and sent again from the durable mark; the worker's sequence numbers make that free.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from operator import attrgetter
from typing import Literal

from runtime import messages as m
from runtime.client.errors import Refused, StreamRefused
from runtime.client.link import Identity, Link
from runtime.client.published import Entry, Receipt, check_readable
from runtime.client.publisher_account import Account, PublisherEvent, PublisherPolicy
from runtime.client.send_queue import SendQueue, StreamName
from runtime.client.stream_buffer import StreamBuffer
from runtime.keys import check_id
from runtime.messages import Float32Array
from runtime.nack_codes import NOTICE_CODES, OPENING_CODES, RETRY_CODES

MAX_ENDED = 10_000
"""streams that have ended and are remembered: how far they came, and that they were refused"""


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
        self.link = Link(identity)
        self._streams: dict[StreamName, StreamBuffer] = {}
        self._queue = SendQueue(self._streams, self.policy.linger_ms / 1000)
        self._to_open_or_end: dict[StreamName, None] = {}
        """streams for which a control message may be due"""
        self._leaving: dict[StreamName, None] = {}
        """streams to be forgotten"""
        self._ended: OrderedDict[StreamName, None] = OrderedDict()
        """streams of which nothing more comes, longest ago first; in time they are forgotten too"""
        self._unserved: set[StreamName] = set()
        """streams that this worker does not own and that wait for it: it may before long, and will say so"""
        self._was_connected = False

    # ---- the user's side ----

    def has_room(self, n_bytes: int) -> bool:
        """One segment always fits, however large."""
        return self._account.n_bytes == 0 or self._account.n_bytes + n_bytes <= self.policy.max_buffer_bytes

    def begin(self, session: str, stream: str, modality: str, sequence: int | None = None) -> None:
        """Open a stream to which nothing may have been published yet. Raises StreamRefused, ValueError."""
        name = (session, stream)
        buffer = self._streams.get(name)
        if buffer is None:
            buffer = self._streams[name] = _new_buffer(session, stream, modality)
        if buffer.refusal is not None or buffer.modality != modality:
            raise _fault(buffer)
        if buffer.is_leaving and sequence is not None:
            return  # once it is forgotten it begins at that number, with its first segment
        buffer.begin(sequence)
        buffer.is_leaving = False
        self._leaving.pop(name, None)
        self._ended.pop(name, None)
        if not buffer.is_open:
            self._to_open_or_end[name] = None

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
        worker could read: it would refuse the whole message, and account for none of its segments. Then nothing has
        changed, and no stream has begun.
        """
        check_readable(frames, event_time_s, sequence)
        name = (session, stream)
        buffer = self._streams.get(name)
        if buffer is None:
            buffer = _new_buffer(session, stream, modality)
        if buffer.refusal is not None or buffer.modality != modality:
            raise _fault(buffer)
        entry = Entry(event_time_s, frames, now_s, self.stats.published)
        had_ended = buffer.has_ended
        self._account.n_bytes += sum(kept.n_bytes for kept in buffer.append(entry, sequence))
        self._streams[name] = buffer
        if had_ended:
            del self._ended[name]
        if buffer.is_leaving:
            buffer.is_leaving = False
            del self._leaving[name]
        self.stats.published += 1
        if not buffer.is_open:
            self._to_open_or_end[name] = None
        self._queue.published(name, now_s)
        while not self.has_room(0) and self._drop_oldest(buffer):
            pass
        return entry.receipt

    def end(self, session: str, stream: str) -> None:
        """Nothing more comes on this stream for now: its session need not wait for it."""
        buffer = self._streams.get((session, stream))
        if buffer is not None:
            buffer.end()
            self._to_open_or_end[session, stream] = None
            self._ended[session, stream] = None
            self._ended.move_to_end((session, stream))

    def forget(self, session: str, stream: str) -> None:
        """End it, and let go of it once all is durable; publishing to it then opens it again, at any higher number."""
        self.end(session, stream)
        buffer = self._streams.get((session, stream))
        if buffer is not None:
            buffer.is_leaving = True
            self._leaving[session, stream] = None

    def is_leaving(self, session: str, stream: str) -> bool:
        """It is to be forgotten, and something of it is not durable yet."""
        return (session, stream) in self._leaving

    def _let_go(self) -> None:
        for name in [name for name in self._leaving if self._streams[name].can_leave]:
            del self._leaving[name], self._ended[name], self._streams[name]
        while len(self._ended) > MAX_ENDED:
            name = next(iter(self._ended))
            if not self._streams[name].can_leave:  # something of it is not durable: the next one is looked at next time
                self._ended.move_to_end(name)
                break
            del self._ended[name], self._streams[name]
            self._leaving.pop(name, None)

    def has_reached(self, receipt: Receipt, until: Literal["fused", "durable"]) -> bool:
        """No more is to be waited for: the segment came so far, or never will."""
        return receipt.is_final or (until == "fused" and receipt.is_fused) or self.link.refusal is not None

    def check(self, receipt: Receipt) -> Receipt:
        """Raise Refused if the segment, or this publisher as a whole, was refused."""
        if receipt.is_refused:
            raise Refused(receipt.code, receipt.text)
        if self.link.refusal is not None and not receipt.is_final:
            raise Refused(self.link.refusal.code, self.link.refusal.text)
        return receipt

    @property
    def unfinished(self) -> int:
        """Of all connections that share its account."""
        return self._account.unfinished

    def _drop_oldest(self, preferred: StreamBuffer) -> bool:
        """Give up the oldest segment of this stream, or of the fullest one if this has only its newest."""
        buffer = preferred
        if len(buffer) < 2:
            buffer = max(self._streams.values(), key=attrgetter("n_bytes"))
        dropped = buffer.drop_oldest() if len(buffer) > 1 or buffer is not preferred else None
        if dropped is None:
            return False
        self._account.n_bytes -= dropped.n_bytes
        self._queue.recount()
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
            self._queue.go_on(name)
            self._to_open_or_end.pop(name, None)
            self._leaving.pop(name, None)
            self._ended.pop(name, None)
        self._queue.recount()
        return released

    def adopt(self, buffer: StreamBuffer) -> None:
        """Go on with a stream that another connection has let go of."""
        name = (buffer.session, buffer.stream)
        self._streams[name] = buffer
        if buffer.is_leaving:
            self._leaving[name] = None
        if buffer.has_ended:
            self._ended[name] = None
        self.stats.resent += buffer.reconnect()
        self._make_sendable(name)

    # ---- the driver's side (runtime.client.link.Core) ----

    def connected(self, now_s: float) -> None:
        self.link.connected(now_s)
        self.stats.reconnects += self._was_connected
        self._was_connected = True
        self._unserved.clear()
        for name, buffer in self._streams.items():
            self._queue.go_on(name)
            self.stats.resent += buffer.reconnect()
            self._make_sendable(name)
        self._queue.recount()

    def tick(self, now_s: float) -> None:
        self.link.tick(now_s)
        self._let_go()
        self._resume(self._queue.pauses_over(now_s))

    def _resume(self, names: Iterable[StreamName]) -> None:
        for name in names:
            self._unserved.discard(name)
            if self._queue.go_on(name):
                self._to_open_or_end[name] = None

    @property
    def wake_at_s(self) -> float:
        if not self.link.is_welcome:  # what is due waits for a connection, not for time
            return self.link.wake_at_s
        return min(self.link.wake_at_s, self._queue.wake_at_s)

    def outgoing(self, now_s: float) -> m.Message | None:
        message = self.link.outgoing()
        if message is not None or self.link.welcome is None:
            return message
        return self._open_or_end() or self._segments(self.link.welcome, now_s)

    def _open_or_end(self) -> m.Message | None:
        while self._to_open_or_end:
            name, _ = self._to_open_or_end.popitem()
            buffer = self._streams.get(name)
            if buffer is not None and not self._queue.is_paused(name):
                message = buffer.open_or_end()
                if message is not None:
                    return message
        return None

    def _segments(self, welcome: m.Welcome, now_s: float) -> m.Message | None:
        message = self._queue.next_message(welcome, now_s)
        for group in message.groups if message is not None else ():
            self._to_open_or_end[group.session, group.stream] = None  # its last one may have been sent
        return message

    def receive(self, message: m.Message, now_s: float) -> None:
        self.link.receive(message, now_s)
        match message:
            case m.Ack(streams):
                for ack in streams:
                    self._acknowledged(ack, now_s)
            case m.Opened(session, stream):
                buffer = self._streams.get((session, stream))
                if buffer is not None:
                    before = buffer.in_flight()
                    marks = message.last_sequence, message.born, message.numbering
                    self._free(buffer.opened(message.durable, *marks))
                    self._queue.recount_one(before, buffer.in_flight())
                    self._make_sendable((session, stream))
                    self._to_open_or_end[session, stream] = None
            case m.Nack(session=session, stream=stream) if stream:
                self._refused(message, now_s)
            case m.Routes():  # the worker has other groups than before
                self._resume(list(self._unserved))
            case m.Moved() if not self._is_routed:
                self.link.lose()
            case _:
                pass

    def _acknowledged(self, ack: m.StreamAck, now_s: float) -> None:
        buffer = self._streams.get((ack.session, ack.stream))
        if buffer is None:
            return
        self._queue.left_window(buffer.taken(max(ack.taken, ack.fused, ack.durable)))
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
        before = buffer.in_flight()
        if nack.code == "not_open":
            self.stats.resent += buffer.reconnect()
        elif nack.code in RETRY_CODES:
            self.stats.resent += buffer.send_again_from(nack.sequence)
            self._queue.pause(name, now_s + max(nack.retry_after_ms, 1) / 1000)
            if nack.code == "not_owner":
                self._unserved.add(name)
                if not self._is_routed:
                    self.link.lose()
        elif nack.code == "not_found":  # in answer to an Open: it is no fault of the segment with that number
            if buffer.is_opening:
                buffer.deleted()
        elif nack.code == "stream_taken" or (buffer.is_opening and nack.code in OPENING_CODES):
            self._tell(nack, self._stream_refused(buffer, nack))
        elif nack.code in NOTICE_CODES:
            self._tell(nack, 0)
        elif self._segment_refused(buffer, nack):
            self._tell(nack, 1)
        self._queue.recount_one(before, buffer.in_flight())
        self._make_sendable(name)

    def _segment_refused(self, buffer: StreamBuffer, nack: m.Nack) -> bool:
        """False if that was known: the worker repeats it until the number is let go of."""
        if buffer.refuse(nack.sequence, nack.code, nack.text) is None:
            return False
        self.stats.refused += 1
        self.stats.late += nack.code == "late"
        return True

    def _stream_refused(self, buffer: StreamBuffer, nack: m.Nack) -> int:
        """How many segments were refused with it."""
        refused = buffer.unfinished
        self.stats.refused += refused
        entries = buffer.refuse_all(nack)
        self._account.n_bytes -= sum(entry.n_bytes for entry in entries)
        return refused

    def _tell(self, nack: m.Nack, segments: int) -> None:
        event = PublisherEvent(nack.code, nack.text, nack.session, nack.stream, nack.sequence, segments)
        self._account.tell(event)

    def _make_sendable(self, name: StreamName) -> None:
        buffer = self._streams.get(name)
        if buffer is None:
            return
        if not buffer.is_open:
            self._to_open_or_end[name] = None
        self._queue.add(name)


def _new_buffer(session: str, stream: str, modality: str) -> StreamBuffer:
    check_id("session", session)
    check_id("stream", stream)
    check_id("modality", modality)
    return StreamBuffer(session, stream, modality)


def _fault(buffer: StreamBuffer) -> Exception:
    if buffer.refusal is not None:
        return StreamRefused(buffer.refusal.code, buffer.refusal.text)
    return ValueError(f"stream {buffer.stream!r} of session {buffer.session!r} was published as {buffer.modality!r}")
