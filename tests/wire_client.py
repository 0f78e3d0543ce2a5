"""A client of the wire protocol written from docs/protocol.md alone: nothing of the runtime is imported here.

It is small, blocking and in one thread. `Connection` says what it is told to say, good or bad; `Publisher` keeps what
is not durable and starts over when its connection is lost.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgpack
import zmq

VERSION = 1
PING_EVERY_S = 1.0
LOST_AFTER_S = 3.0
LIMIT_S = 10.0
"""for an answer that should take milliseconds"""

Rows = Sequence[Sequence[float]]

REQUIRED: Any = object()
WORKER_MESSAGES: dict[str, dict[str, Any]] = {
    "welcome": dict.fromkeys(
        (
            "worker",
            "incarnation",
            "tenant",
            "signature",
            "window_segments",
            "window_bytes",
            "max_message_bytes",
        ),
        REQUIRED,
    ),
    "opened": dict.fromkeys(("session", "stream", "durable", "last_sequence", "version"), REQUIRED),
    "ack": {"streams": REQUIRED},
    "nack": {
        "code": REQUIRED,
        "text": REQUIRED,
        "session": "",
        "stream": "",
        "sequence": 0,
        "request": 0,
        "retry_after_ms": 0,
    },
    "state": {"request": REQUIRED, "state": REQUIRED, "timed_out": False},
    "sessions": dict.fromkeys(("request", "sessions", "more"), REQUIRED),
    "past": dict.fromkeys(("request", "rows"), REQUIRED),
    "deleted": dict.fromkeys(("request", "existed"), REQUIRED),
    "update": {"state": REQUIRED, "correction": False, "missed": 0},
    "updates": {"rows": REQUIRED},
    "tapped": dict.fromkeys(
        ("session", "stream", "modality", "sequence", "event_time_s", "arrival_s", "missed", "frames"), REQUIRED
    ),
    "pong": dict.fromkeys(("nonce", "incarnation"), REQUIRED),
    "moved": {"group": REQUIRED, "endpoint": REQUIRED, "epoch": REQUIRED, "session": ""},
}
"""the fields of each message in order, with their defaults"""
RETRY = {"hello_first", "not_open", "slow_down", "not_owner", "unavailable"}
NOTICE = {"late_fused", "session_reset", "stream_taken"}


class Silence(Exception):
    """Nothing that was waited for has come in time."""


@dataclass(frozen=True)
class Message:
    tag: str
    fields: dict[str, Any]
    tensors: list[bytes]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


class StreamAck(NamedTuple):
    session: str
    stream: str
    fused: int
    durable: int
    version: int
    taken: int


def pack(tag: str, *fields: Any) -> bytes:
    return bytes(msgpack.packb([VERSION, tag, *fields]))


def tensor(rows: Rows, dtype: str = "f32") -> bytes:
    """The rows one after another, little-endian."""
    numbers = [number for row in rows for number in row]
    if dtype == "f16":
        return struct.pack(f"<{len(numbers)}e", *numbers)
    binary32 = struct.pack(f"<{len(numbers)}f", *numbers)
    if dtype == "f32":
        return binary32
    return b"".join(binary32[at + 2 : at + 4] for at in range(0, len(binary32), 4))


def read_tensor(frame: bytes, rows: int) -> list[list[float]]:
    """`f32` rows, as in `tapped`."""
    numbers = struct.unpack(f"<{len(frame) // 4}f", frame)
    width = len(numbers) // rows
    return [list(numbers[at : at + width]) for at in range(0, len(numbers), width)]


def segments(session: str, stream: str, oldest: int, entries: Sequence[tuple[int, float, Rows]]) -> list[bytes]:
    """The frames of one `segments` message with one group."""
    group = [session, stream, oldest, "f32", [[number, at_s, len(rows)] for number, at_s, rows in entries]]
    return [pack("segments", [group]), b"".join(tensor(rows) for _, _, rows in entries)]


def read(frames: list[bytes]) -> Message | None:
    """The message in these frames; None for one to be skipped."""
    version, tag, *values = msgpack.unpackb(frames[0])
    assert version == VERSION, f"the worker speaks version {version}"
    known = WORKER_MESSAGES.get(tag)
    if known is None:
        return None
    fields = dict(known) | dict(zip(known, values, strict=False))
    assert REQUIRED not in fields.values(), f"{tag} lacks a field: {values}"
    if tag == "ack":
        fields["streams"] = [StreamAck(*[*stream, stream[2]][:6]) for stream in fields["streams"]]
    return Message(tag, fields, frames[1:])


class Connection:
    """One DEALER socket. It sends what it is told and remembers what it receives; it does nothing by itself."""

    def __init__(
        self, endpoint: str, *, receive_queue: int = 1000, receive_buffer: int = -1, routing_id: bytes = b""
    ) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, receive_queue)
        self._socket.setsockopt(zmq.RCVBUF, receive_buffer)
        self._socket.setsockopt(zmq.SNDTIMEO, int(LIMIT_S * 1000))
        if routing_id:
            self._socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self._socket.connect(endpoint)
        self.seen: list[Message] = []
        """everything received"""
        self._requests = 0

    def send(self, tag: str, *fields: Any) -> None:
        self.send_frames(pack(tag, *fields))

    def send_frames(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def receive(self, timeout_s: float = LIMIT_S) -> Message:
        """The next message. Raises Silence."""
        until_s = time.monotonic() + timeout_s
        while self._socket.poll(int(1000 * max(until_s - time.monotonic(), 0))):
            message = read(self._socket.recv_multipart())
            if message is not None:
                self.seen.append(message)
                return message
        raise Silence(f"nothing has come for {timeout_s:g} s; before: {[message.tag for message in self.seen[-5:]]}")

    def receive_until(self, is_it: Callable[[Message], bool], timeout_s: float = LIMIT_S) -> Message:
        """The first of the next messages that is it; the others are in `seen`."""
        until_s = time.monotonic() + timeout_s
        while True:
            message = self.receive(max(until_s - time.monotonic(), 0))
            if is_it(message):
                return message

    def receive_tag(self, tag: str, timeout_s: float = LIMIT_S) -> Message:
        return self.receive_until(lambda message: message.tag == tag, timeout_s)

    def hello(self, client: str, tenant: str = "default", token: str = "") -> Message:
        """The `welcome`, or the `nack`."""
        self.send("hello", client, tenant, token)
        return self.receive()

    def open(self, session: str, stream: str, modality: str, base: int = 1, known_durable: int = 0) -> Message:
        """The `opened`, or the first `nack`."""
        self.send("open", session, stream, modality, base, known_durable)
        return self.receive_until(lambda message: message.tag in ("opened", "nack"))

    def acknowledged(self, session: str, stream: str, *, fused: int = 0, durable: int = 0) -> StreamAck:
        """Wait until so much of a stream is acknowledged."""
        while True:
            for ack in self.receive_tag("ack")["streams"]:
                if (ack.session, ack.stream) == (session, stream) and ack.fused >= fused and ack.durable >= durable:
                    return StreamAck(*ack)

    def ask(self, tag: str, *fields: Any) -> Message:
        """The answer to a request, `nack` included."""
        self._requests += 1
        request = self._requests
        self.send(tag, request, *fields)
        return self.receive_until(lambda message: message.fields.get("request") == request)

    def sync(self) -> None:
        """Return once the worker has taken all that was sent before."""
        self._requests += 1
        nonce = self._requests
        self.send("ping", nonce)
        self.receive_until(lambda message: message.tag == "pong" and message["nonce"] == nonce)

    def poll(self, timeout_s: float) -> bool:
        """True once there is something to receive."""
        return bool(self._socket.poll(int(timeout_s * 1000) + 1))

    def close(self) -> None:
        self._context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class Kept:
    """A segment that is not durable yet."""

    event_time_s: float
    rows: Rows


@dataclass
class Stream:
    session: str
    name: str
    modality: str
    kept: dict[int, Kept] = field(default_factory=dict)
    next: int = 1
    sent: int = 0
    taken: int = 0
    fused: int = 0
    durable: int = 0
    version: int = 0
    state: str = "closed"
    refused: dict[int, str] = field(default_factory=dict)
    """codes of segments refused for good"""
    failure: str = ""
    """the code that ended this stream for good"""
    paused_until_s: float = 0.0
    is_ended: bool = False
    end_sent: bool = False

    @property
    def oldest(self) -> int:
        return min(self.kept, default=self.next)

    @property
    def is_durable(self) -> bool:
        return not self.kept


class Publisher:
    """Publishes any number of streams, numbered from 1 by itself. `run_until` does all the work."""

    def __init__(self, endpoint: str, client: str, *, tenant: str = "default", token: str = "") -> None:
        self._endpoint = endpoint
        self._identity = (client, tenant, token)
        self.streams: dict[tuple[str, str], Stream] = {}
        self.notices: list[Message] = []
        self.connections = 0
        self.sent = 0
        """segments, those sent again included"""
        self.refusal: Message | None = None
        """why the worker does not welcome this client, for good"""
        self._connection: Connection | None = None
        self._start_over()

    # ---- the user's side ----

    def publish(self, session: str, stream: str, modality: str, rows: Rows, event_time_s: float) -> int:
        """Keep a segment until it is durable; return its number."""
        one = self.streams.setdefault((session, stream), Stream(session, stream, modality))
        number, one.next = one.next, one.next + 1
        one.kept[number] = Kept(event_time_s, rows)
        if one.end_sent:
            one.state = "closed"
        one.is_ended = one.end_sent = False
        return number

    def end(self, session: str, stream: str) -> None:
        self.streams[session, stream].is_ended = True

    def run_until(self, is_done: Callable[[], bool], timeout_s: float = LIMIT_S) -> None:
        until_s = time.monotonic() + timeout_s
        while not is_done():
            if time.monotonic() > until_s:
                raise Silence(f"not done after {timeout_s:g} s: {list(self.streams.values())}")
            self._turn()

    def flush(self, timeout_s: float = LIMIT_S) -> None:
        """Until everything is durable, or was refused."""
        self.run_until(lambda: all(one.is_durable or one.failure for one in self.streams.values()), timeout_s)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    # ---- the connection ----

    def _start_over(self) -> None:
        self.close()
        now_s = time.monotonic()
        self._connection = Connection(self._endpoint)
        self._connection.send("hello", *self._identity)
        self._welcome: Message | None = None
        self._asked_s: float | None = now_s
        self._ping_at_s = now_s + PING_EVERY_S
        self.connections += 1
        for one in self.streams.values():
            one.state, one.end_sent = "closed", False
            one.sent = one.taken = one.fused = one.oldest - 1

    def _turn(self) -> None:
        now_s = time.monotonic()
        assert self._connection is not None
        if now_s >= self._ping_at_s:
            self._ping_at_s = now_s + PING_EVERY_S
            self._connection.send("ping", 1)
            self._asked_s = self._asked_s or now_s
        if self._welcome is not None:
            for one in self.streams.values():
                self._advance(one, now_s)
        if self._connection.poll(0.02):
            self._asked_s = None
            self._receive(self._connection.receive(), now_s)
        elif self._asked_s is not None and now_s > self._asked_s + LOST_AFTER_S:
            self._start_over()

    # ---- sending ----

    def _advance(self, one: Stream, now_s: float) -> None:
        """Send what is due of one stream."""
        assert self._connection is not None
        if one.failure or now_s < one.paused_until_s:
            return
        if one.state == "closed" and (one.kept or not one.is_ended):
            one.state = "opening"
            self._connection.send("open", one.session, one.name, one.modality, one.oldest, one.durable)
        elif one.state == "open":
            due = [number for number in sorted(one.kept) if number > one.sent][: self._room()]
            for number in due:
                kept = one.kept[number]
                group = [(number, kept.event_time_s, kept.rows)]
                self._connection.send_frames(*segments(one.session, one.name, one.oldest, group))
                one.sent = number
                self.sent += 1
            if one.is_ended and not one.end_sent and one.sent == one.next - 1:
                one.end_sent = True
                self._connection.send("end", one.session, one.name, one.sent)

    def _room(self) -> int:
        """How many segments the window still takes."""
        assert self._welcome is not None
        on_their_way = sum(one.sent - one.taken for one in self.streams.values())
        return max(0, int(self._welcome["window_segments"]) - on_their_way)

    # ---- receiving ----

    def _receive(self, message: Message, now_s: float) -> None:
        match message.tag:
            case "welcome":
                self._welcome = message
            case "pong" if self._welcome and message["incarnation"] != self._welcome["incarnation"]:
                self._start_over()
            case "moved":
                self._start_over()
            case "opened":
                self._opened(self.streams[message["session"], message["stream"]], message)
            case "ack":
                for ack in message["streams"]:
                    one = self.streams[ack.session, ack.stream]
                    one.taken, one.fused = min(ack.taken, one.sent), min(ack.fused, one.sent)
                    one.version = ack.version
                    self._durable(one, ack.durable)
            case "nack":
                self._refused(message, now_s)

    def _opened(self, one: Stream, message: Message) -> None:
        one.state = "open"
        one.durable = 0
        self._durable(one, message["durable"])
        one.sent = one.taken = one.fused = one.oldest - 1

    def _durable(self, one: Stream, upto: int) -> None:
        one.durable = max(one.durable, upto)
        for number in [number for number in one.kept if number <= upto]:
            del one.kept[number]

    def _refused(self, nack: Message, now_s: float) -> None:
        code, number = nack["code"], nack["sequence"]
        one = self.streams.get((nack["session"], nack["stream"]))
        if code in ("hello_first", "not_owner"):
            self._start_over()
        elif one is None:
            self.refusal = nack
        elif code == "not_open":
            one.state = "closed"
        elif code in RETRY:
            one.paused_until_s = now_s + nack["retry_after_ms"] / 1000
            one.sent = max(min(one.sent, number - 1), one.oldest - 1)
            one.taken, one.end_sent = min(one.taken, one.sent), False
            if one.state == "opening":
                one.state = "closed"
        elif code in NOTICE:
            self.notices.append(nack)
            if code == "stream_taken":
                one.failure = code
        elif one.state == "opening" and code in ("malformed", "bad_id", "unknown_modality", "too_large"):
            one.failure = code
        elif number in one.kept:
            one.refused[number] = code
            one.kept[number].rows = []
