"""Bad input over the real socket: its sender is told the reason, nobody else notices, and the service goes on.

Every test has the same frame (`Scene`): a well-behaved publisher and an offender have each fused and stored a segment;
the offender sends something bad; it gets the right `nack`, no state has changed, and both go on to the states that the
offline model gives for their good segments.
"""

from __future__ import annotations

import random
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from math import inf, nan
from pathlib import Path
from typing import Any, Self

import msgpack
import numpy as np
import pytest

from runtime import unsent, wire, worker_loop
from runtime.client import Publisher, StateClient
from runtime.engine.order import FusionKey
from runtime.engine.policies import EnginePolicy, OrderPolicy
from runtime.keys import InvalidId
from runtime.store.sqlite import SqliteStore
from tests.runtime.engine.offline import Fused, OfflineModel, assert_close
from tests.runtime.toy_model import POISON, ToyModel
from tests.runtime.worker_harness import LIMIT_S, RunningWorker
from tests.wire_client import WORKER_MESSAGES, Connection, Message, Rows, Silence, pack, segments, tensor

ENGINE = EnginePolicy(OrderPolicy(idle_timeout_s=0.02))
"""what has landed settles soon, so that whatever changes later is the fault of the bad input"""
TENANT_BY_TOKEN = {"secret": "acme"}
LONG_ID = "x" * 201
MIB = 1 << 20


class Client:
    """Publishes one stream of one session, and knows what its state should be."""

    def __init__(self, endpoint: str, session: str) -> None:
        self.session = session
        self.connection = Connection(endpoint)
        assert self.connection.hello(f"client of {session}", "acme", "secret").tag == "welcome"
        assert self.connection.open(session, "mic", "audio").tag == "opened"
        self.next = 1
        self._fused: list[Fused] = []

    def publish(self) -> None:
        """One good segment, fused and durable."""
        number = self.next
        self.connection.send_frames(*self.segment(good_rows(number)))
        self.connection.acknowledged(self.session, "mic", durable=number)
        self._count(number)

    def segment(self, rows: Rows, event_time_s: float | None = None, *, sequence: int | None = None) -> list[bytes]:
        """The frames of the next segment, good or bad."""
        number = self.next if sequence is None else sequence
        return segments(self.session, "mic", 1, [(number, number / 2 if event_time_s is None else event_time_s, rows)])

    def _count(self, number: int) -> None:
        frames = np.array(good_rows(number), np.float32)
        self._fused.append(Fused(FusionKey(number / 2, 0, "mic", number), frames))
        self.next = number + 1

    def skip(self) -> None:
        """The next number was refused for good."""
        self.connection.acknowledged(self.session, "mic", durable=self.next)
        self.next += 1

    def state(self) -> dict[str, Any]:
        answer = self.connection.ask("query", self.session, 0, 0, True)
        assert answer.tag == "state", answer
        state: dict[str, Any] = answer["state"]
        return state

    def check(self) -> None:
        """The state is what the model gives for the good segments, all of it settled and stored."""
        expected, state = OfflineModel(ToyModel()).after(self._fused), self.state()
        assert state["version"] == state["settled"]["version"] == state["durable_version"] == expected.version
        assert state["pending"] == 0
        assert state["lineage"] == expected.lineage.hex()
        assert state["reset_reason"] == ""
        for fused in (state["live"], state["settled"]):
            assert_close(fused["context"], expected.context_KD, "context")
            assert_close(list(fused["shares"].values()), expected.shares, "shares")
            assert_close(list(fused["outputs"]["mood"]["probabilities"].values()), expected.outputs[:2], "mood")
            assert_close(fused["outputs"]["speed"]["value"], expected.outputs[2], "speed")


def good_rows(number: int) -> Rows:
    return [[(number * 5 + row * 3 + column) % 7 / 4 - 0.75 for column in range(3)] for row in range(1 + number % 4)]


class Scene:
    def __init__(self, worker: RunningWorker) -> None:
        self.worker = worker
        self.good = Client(worker.endpoint, "good")
        self.bad = Client(worker.endpoint, "bad")
        for client in (self.good, self.bad):
            client.publish()
        self._before = self._everything()
        worker.take_refusals()

    def _everything(self) -> dict[str, Any]:
        """All that anyone can see."""
        sessions = self.good.connection.ask("list")["sessions"]
        return {"sessions": sessions, "states": [client.state() for client in (self.good, self.bad)]}

    def nack(self, *frames: bytes, connection: Connection | None = None) -> Message:
        """Send one bad message and return its refusal, which is the only one."""
        connection = connection or self.bad.connection
        connection.send_frames(*frames)
        nack = connection.receive_until(lambda message: message.tag == "nack")
        assert self.worker.take_refusals() == {nack["code"]: 1}
        return nack

    def nothing_has_changed(self, *but: str) -> None:
        """But perhaps, in the offender's session, these."""
        now, before = self._everything(), self._before
        for key in but:
            now["states"][1].pop(key)
            before["states"][1].pop(key)
        assert now == before

    def service_goes_on(self) -> None:
        for client in (self.good, self.bad):
            told = len(client.connection.seen)
            client.publish()
            client.check()
            assert {message.tag for message in client.connection.seen[told:]} == {"ack", "state"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the worker as it was found."""
        for client in (self.good, self.bad):
            client.connection.close()
        with Connection(self.worker.endpoint) as tidy, suppress(Silence):
            tidy.hello("tidy", "acme", "secret")
            for session in tidy.ask("list")["sessions"]:
                tidy.ask("delete", session)


@pytest.fixture(scope="module")
def start_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], RunningWorker]]:
    """One worker for most tests, for starting it takes longer than a test; another one after a test that broke it."""
    with ExitStack() as stack:
        running: list[RunningWorker] = []

        def start() -> RunningWorker:
            if not running or complaint_of(running[-1]):
                worker = RunningWorker(tmp_path_factory.mktemp("worker"), engine=ENGINE, tokens=TENANT_BY_TOKEN)
                running.append(stack.enter_context(worker))
            return running[-1]

        yield start


@pytest.fixture
def worker(start_worker: Callable[[], RunningWorker]) -> Iterator[RunningWorker]:
    running = start_worker()
    yield running
    complaint = complaint_of(running)
    assert not complaint, f"this has broken the worker: {complaint}"


def complaint_of(worker: RunningWorker) -> str:
    """Empty if its loop and its store answer, and nothing was left in it."""
    with Connection(worker.endpoint) as connection:
        connection.send("hello", "doctor", "acme", "secret")
        connection.send("list", 1)
        try:
            sessions = connection.receive_tag("sessions")["sessions"]
        except Silence:
            return "silent; its log may say why"
        return f"it still has the sessions {sessions}" if sessions else ""


@pytest.fixture
def scene(worker: RunningWorker) -> Iterator[Scene]:
    with Scene(worker) as scene:
        yield scene


@pytest.fixture
def stranger(worker: RunningWorker) -> Iterator[Connection]:
    """A connection that has not said hello."""
    with Connection(worker.endpoint) as connection:
        yield connection


def check_refusal(nack: Message, code: str, reason: str) -> None:
    assert nack["code"] == code, nack
    assert re.search(reason, nack["text"]), nack["text"]
    assert len(nack["text"]) < 1000


# ---- one segment is bad: it alone is refused, its number counts as done -------------------------------------------


def with_dtype(client: Client, dtype: str, rows: Rows) -> list[bytes]:
    entries = [[client.next, client.next / 2, len(rows)]]
    return [pack("segments", [[client.session, "mic", 1, dtype, entries]]), tensor(rows, dtype)]


def cut_by_a_column(client: Client) -> list[bytes]:
    header, frames = client.segment([[1, 2, 3]] * 4)
    return [header, frames[:-16]]


SEGMENTS: dict[str, tuple[Callable[[Client], list[bytes]], str, str]] = {
    "too narrow": (lambda c: c.segment([[1, 2]] * 3), "bad_segment", "^frames have width 2, audio has 3$"),
    "too wide": (lambda c: c.segment([[1, 2, 3, 4]]), "bad_segment", "^frames have width 4, audio has 3$"),
    "NaN": (lambda c: c.segment([[1, 2, 3], [1, nan, 3]]), "bad_segment", "NaN or infinite"),
    "Inf": (lambda c: c.segment([[1, 2, inf]]), "bad_segment", "NaN or infinite"),
    "-Inf": (lambda c: c.segment([[-inf, 2, 3]]), "bad_segment", "NaN or infinite"),
    "f16 Inf": (lambda c: with_dtype(c, "f16", [[1, inf, 3]]), "bad_segment", "NaN or infinite"),
    "bf16 NaN": (lambda c: with_dtype(c, "bf16", [[1, nan, 3]]), "bad_segment", "NaN or infinite"),
    "empty": (lambda c: c.segment([]), "bad_segment", "^segment has 0 frames, audio takes 1 to 8$"),
    "over-long": (lambda c: c.segment([[1, 2, 3]] * 9), "bad_segment", "^segment has 9 frames, audio takes 1 to 8$"),
    "tensor cut by a column": (cut_by_a_column, "bad_segment", "^frames have width 2, audio has 3$"),
    "far future": (
        lambda c: c.segment([[1, 2, 3]], time.time() + 600),
        "far_future",
        r"^event time is (599|600)\.\d+ s ahead of this worker's clock, more than order\.max_future_s, 60$",
    ),
    "late": (lambda c: c.segment([[1, 2, 3]], 0.5), "late", r"^0\.0+ s behind the watermark$"),
    "model raises": (lambda c: c.segment([[1, POISON, 3]]), "step_failed", "^RuntimeError: poisoned segment$"),
    "model gives NaN": (lambda c: c.segment([[1, -POISON, 3]]), "step_failed", "not finite"),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_bad_segment_is_refused_alone(scene: Scene, name: str) -> None:
    build, code, reason = SEGMENTS[name]
    nack = scene.nack(*build(scene.bad))
    check_refusal(nack, code, reason)
    assert (nack["session"], nack["stream"], nack["sequence"], nack["request"]) == ("bad", "mic", 2, 0)
    scene.bad.skip()
    # A segment on which the model fails had been accepted: its event time counts.
    scene.nothing_has_changed(*(["watermark_s"] if code == "step_failed" else []))
    scene.service_goes_on()


def test_a_jump_far_ahead_of_the_session_is_refused(scene: Scene) -> None:
    """In one message with the segment before it: a session that has fallen idle may jump."""
    bad = scene.bad
    entries = [[2, 1.0, len(good_rows(2))], [3, 5000.0, 1]]
    bad.connection.send_frames(
        pack("segments", [["bad", "mic", 1, "f32", entries]]), tensor(good_rows(2)) + tensor([[1, 2, 3]])
    )
    nack = bad.connection.receive_tag("nack")
    told = r"^event time is 4999\.000 s ahead of its session's newest, more than order\.max_jump_s, 3600$"
    check_refusal(nack, "far_future", told)
    assert nack["sequence"] == 3
    bad.connection.acknowledged("bad", "mic", durable=3)
    bad._count(2)
    bad.next = 4
    assert scene.worker.take_refusals() == {"far_future": 1}
    scene.service_goes_on()


def test_good_segments_beside_a_bad_one_are_fused(scene: Scene) -> None:
    bad = scene.bad
    rows = [good_rows(2), [[nan, 0, 0]], good_rows(4)]
    entries = [(number, number / 2, one) for number, one in enumerate(rows, start=2)]
    bad.connection.send_frames(*segments("bad", "mic", 1, entries))
    nack = bad.connection.receive_tag("nack")
    assert (nack["code"], nack["sequence"]) == ("bad_segment", 3)
    bad.connection.acknowledged("bad", "mic", durable=4)
    bad._count(2)
    bad._count(4)
    bad.check()
    scene.worker.take_refusals()
    scene.service_goes_on()


# ---- the whole message is bad: nothing of it is taken -------------------------------------------------------------


def raw(*header: Any) -> bytes:
    return bytes(msgpack.packb(header))


def segments_of(session: Any = "bad", stream: Any = "mic", oldest: Any = 1, dtype: Any = "f32", *entry: Any) -> bytes:
    """A header with one group of one segment of one frame."""
    return pack("segments", [[session, stream, oldest, dtype, [list(entry) or [2, 1.0, 1]]]])


def entry_of(*entry: Any) -> bytes:
    return segments_of("bad", "mic", 1, "f32", *entry)


ROW = tensor([[1, 2, 3]])
NESTED = b"\x91" * 1022 + b"\x01"
"""an array in an array in an array ..., as deep as msgpack allows"""
NOT_UTF8 = b"\xa3\xff\xfe\xfd"

MESSAGES: dict[str, tuple[list[bytes], str, str]] = {
    # the header is none
    "no msgpack": ([b"\xc1"], "malformed", "^header is not msgpack: "),
    "text": ([b"GET / HTTP/1.1"], "malformed", "^header is not msgpack: "),
    "cut header": ([pack("hello", "somebody")[:-3]], "malformed", "^header is not msgpack: "),
    "empty header": ([b""], "malformed", "^header is not msgpack: "),
    "delimiter of a REQ socket": ([b"", pack("ping", 1)], "malformed", "^header is not msgpack: "),
    "trailing bytes": ([pack("ping", 1) + b"\x00"], "malformed", "^header is not msgpack: "),
    "too deep": ([b"\x91" * 5000 + b"\x01"], "malformed", "^header is not msgpack: .+"),
    "id not UTF-8": ([b"\x96\x01\xa4open" + NOT_UTF8 + b"\xa1s\xa5audio\x01"], "malformed", "not msgpack: .*utf-8"),
    "array of a billion": ([b"\xdd\x3b\x9a\xca\x00"], "malformed", "^header is not msgpack: "),
    "map": ([bytes(msgpack.packb({"tag": "ping"}))], "malformed", "not an array of version, tag and fields"),
    "number": ([b"\x05"], "malformed", "not an array of version, tag and fields"),
    "no tag": ([raw(1)], "malformed", "not an array of version, tag and fields"),
    "tag a number": ([raw(1, 7)], "malformed", "^tag is not text$"),
    "tag an array": ([b"\x92\x01" + NESTED], "malformed", "^tag is not text$"),
    "unknown tag": ([raw(1, "fuse")], "malformed", "^unknown message 'fuse'$"),
    "unknown long tag": ([raw(1, "fuse" * 10_000)], "malformed", "^unknown message 'fusefuse"),
    # the version
    "version 2": ([raw(2, "ping", 1)], "version", "^protocol version 2, this side speaks 1$"),
    "version 0": ([raw(0, "ping", 1)], "version", "^protocol version 0, this side speaks 1$"),
    "version true": ([raw(True, "ping", 1)], "version", "this side speaks 1$"),
    "version text": ([raw("1", "ping", 1)], "version", "^protocol version '1', this side speaks 1$"),
    "version nil": ([raw(None, "ping", 1)], "version", "this side speaks 1$"),
    "version nested": ([b"\x92" + NESTED + b"\xa4ping"], "version", "^protocol version of type list, this side"),
    # the fields
    "field missing": ([raw(1, "ping")], "malformed", "^ping: 0 fields, at least 1 expected$"),
    "field of another type": ([raw(1, "ping", "1")], "malformed", "^ping: nonce is not an integer$"),
    "integer too large": ([raw(1, "ping", 2**63)], "malformed", "^ping: nonce is not an integer$"),
    "bool for a number": ([raw(1, "credit", True)], "malformed", "^credit: updates is not an integer$"),
    "bin for text": ([raw(1, "hello", b"somebody")], "malformed", "^hello: client is not text$"),
    "time is NaN": ([raw(1, "history", 1, "bad", nan)], "malformed", "^history: from_s is not a number$"),
    "tensor where none belongs": ([pack("ping", 1), ROW], "malformed", "^ping: 1 tensor frames, expected none$"),
    # segments
    "no groups": ([raw(1, "segments")], "malformed", "groups is not an array"),
    "groups a map": ([raw(1, "segments", {})], "malformed", "groups is not an array"),
    "group short": ([pack("segments", [["bad", "mic", 1]]), ROW], "malformed", "a group is not"),
    "group a text": ([pack("segments", ["bad"]), ROW], "malformed", "a group is not"),
    "group without entries": ([pack("segments", [["bad", "mic", 1, "f32", []]]), b""], "malformed", "a group is not"),
    "session a number": ([segments_of(7), ROW], "malformed", "a group is not"),
    "oldest 0": ([segments_of("bad", "mic", 0), ROW], "malformed", "a group is not"),
    "oldest negative": ([segments_of("bad", "mic", -1), ROW], "malformed", "a group is not"),
    "oldest huge": ([segments_of("bad", "mic", 2**62 + 1), ROW], "malformed", "a group is not"),
    "dtype unknown": ([segments_of("bad", "mic", 1, "f64"), ROW], "malformed", "dtype 'f64', expected one of f32, f16"),
    "entry short": ([entry_of(2, 1.0), ROW], "malformed", "an entry is not"),
    "entry of texts": ([entry_of("2", "1.0", "1"), ROW], "malformed", "an entry is not"),
    "T negative": ([entry_of(2, 1.0, -1), ROW], "malformed", "an entry is not"),
    "T huge": ([entry_of(2, 1.0, 2**60), ROW], "malformed", f"12 bytes are no {2**60} frames of f32"),
    "sequence 0": ([entry_of(0, 1.0, 1), ROW], "malformed", r"sequence 0 is outside 1 \.\. 2\*\*62"),
    "sequence negative": ([entry_of(-3, 1.0, 1), ROW], "malformed", r"sequence -3 is outside 1 \.\. 2\*\*62"),
    "sequence above 2^62": ([entry_of(2**62 + 1, 1.0, 1), ROW], "malformed", f"sequence {2**62 + 1} is outside"),
    "sequence above 2^63": ([entry_of(2**64 - 1, 1.0, 1), ROW], "malformed", f"sequence {2**64 - 1} is outside"),
    "event time NaN": ([entry_of(2, nan, 1), ROW], "malformed", "event time nan is not a finite number"),
    "event time inf": ([entry_of(2, inf, 1), ROW], "malformed", "event time inf is not a finite number"),
    "event time -inf": ([entry_of(2, -inf, 1), ROW], "malformed", "event time -inf is not a finite number"),
    "event time absurd": ([entry_of(2, 1e300, 1), ROW], "malformed", r"event time 1e\+300 is not a finite number"),
    "event time an integer": ([entry_of(2, 2**64 - 1, 1), ROW], "malformed", f"event time {2**64 - 1} is not"),
    "tensor truncated": ([entry_of(2, 1.0, 1), ROW[:-1]], "malformed", "^segments: 11 bytes are no 1 frames of f32$"),
    "tensor too long": ([entry_of(2, 1.0, 1), ROW + b"\0"], "malformed", "^segments: 13 bytes are no 1 frames of f32$"),
    "tensor empty": ([entry_of(2, 1.0, 1), b""], "malformed", "^segments: 0 bytes are no 1 frames of f32$"),
    "tensor for no frames": ([entry_of(2, 1.0, 0), ROW], "malformed", "^segments: 12 bytes for no frames at all$"),
    "tensor missing": ([entry_of(2, 1.0, 1)], "malformed", "^segments: 1 groups but 0 tensor frames$"),
    "frames without end": ([entry_of(2, 1.0, 1), *[b""] * 20_000], "malformed", "^segments: 1 groups but 4097 tensor"),
    "tensor twice": ([entry_of(2, 1.0, 1), ROW, ROW], "malformed", "^segments: 1 groups but 2 tensor frames$"),
    # size
    "header too large": (
        [pack("hello", "x" * MIB)],
        "too_large",
        rf"^header of {len(pack('hello', 'x' * MIB))} bytes, more than {MIB}$",
    ),
    "too many groups": (
        [pack("segments", [["bad", "mic", 1, "f32", [[2, 1.0, 1]]]] * 4097), *[ROW] * 4097],
        "too_large",
        "^segments: 4097 groups, more than 4096$",
    ),
    "too many segments": (
        [pack("segments", [["bad", "mic", 1, "f32", [[n, 1.0, 0] for n in range(1, 4098)]]]), b""],
        "too_large",
        "^segments: 4097 segments or more, 4096 at most$",
    ),
    "frames too large": (
        [entry_of(2, 1.0, 1_500_000), bytes(18_000_000)],
        "too_large",
        "^segments: 18000000 bytes of frames, more than 16777216$",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_bad_message_is_refused_whole(scene: Scene, name: str) -> None:
    frames, code, reason = MESSAGES[name]
    nack = scene.nack(*frames)
    check_refusal(nack, code, reason)
    assert (nack["session"], nack["stream"], nack["sequence"], nack["request"]) == ("", "", 0, 0)
    scene.nothing_has_changed()
    scene.service_goes_on()


def test_bytes_of_any_kind_leave_the_worker_running(scene: Scene) -> None:
    chance = random.Random(7)
    good = scene.bad.segment([[1, 2, 3]])
    for _ in range(300):
        frames = [chance.randbytes(chance.choice((0, 1, 5, 40))) for _ in range(chance.randrange(1, 4))]
        if chance.random() < 0.7:  # almost a message
            header = bytearray(good[0])
            header[chance.randrange(2)] = chance.randrange(256)
            frames = [bytes(header), *frames[1:]]
        scene.bad.connection.send_frames(*frames)
    scene.bad.connection.sync()
    refusals = [message for message in scene.bad.connection.seen if message.tag == "nack"]
    assert {nack["code"] for nack in refusals} <= {"malformed", "version"}
    assert len(refusals) == 300 == sum(scene.worker.take_refusals().values())
    scene.nothing_has_changed()
    scene.service_goes_on()


SAMPLES: dict[str, list[Any]] = {
    "welcome": ["w1", "x", "acme", {}, 1, 1, 1],
    "opened": ["good", "mic", 100, 100, 100],
    "ack": [[["good", "mic", 100, 100, 100, 100]]],
    "nack": ["hello_first", "go away", "good"],
    "state": [1, {}],
    "sessions": [1, [], False],
    "past": [1, []],
    "deleted": [1, True],
    "update": [{}],
    "updates": [[["good", False, 0, 9, 1.0, 9, 1.0, 9, 1.0, 0, [1.0], b"", ""]]],
    "tapped": ["good", "mic", "audio", 9, 1.0, 1.0, 0, 1],
    "pong": [1, "x"],
    "moved": [1, "tcp://127.0.0.1:1", 99],
}


@pytest.mark.parametrize("tag", WORKER_MESSAGES)
def test_a_client_cannot_speak_for_the_worker(scene: Scene, tag: str) -> None:
    nack = scene.nack(
        pack(tag, *SAMPLES[tag]), *([ROW] if tag == "tapped" else [ROW + ROW] if tag == "updates" else [])
    )
    check_refusal(nack, "malformed", f"^{tag} is a message of the worker's side$")
    scene.nothing_has_changed()
    scene.service_goes_on()


# ---- names and numbers --------------------------------------------------------------------------------------------

BAD_IDS = {
    "": "is empty$",
    LONG_ID: "has 201 bytes, more than 200$",
    "é" * 101: "has 202 bytes, more than 200$",
    "a\nb": r"has a control character: 'a\\nb'$",
    "nul\0": r"has a control character: 'nul\\x00'$",
    "\x7f": "has a control character",
    "\x85": "has a control character",
}


@pytest.mark.parametrize("bad_id", BAD_IDS, ids=range(len(BAD_IDS)))
def test_a_bad_session_id_is_refused_wherever_it_is_named(scene: Scene, bad_id: str) -> None:
    reason = f"^session {BAD_IDS[bad_id]}"
    nack = scene.nack(pack("open", bad_id, "mic", "audio", 1))
    check_refusal(nack, "bad_id", reason)
    assert (nack["session"], nack["stream"], nack["sequence"]) == (bad_id, "mic", 1)
    for tag in ("query", "history", "delete"):
        nack = scene.nack(pack(tag, 77, bad_id))
        check_refusal(nack, "bad_id", reason)
        assert nack["request"] == 77
    if bad_id:  # empty means all sessions
        nack = scene.nack(pack("subscribe", bad_id))
        check_refusal(nack, "bad_id", reason)
        assert (nack["session"], nack["stream"]) == (bad_id, "")
    scene.nothing_has_changed()
    scene.service_goes_on()


@pytest.mark.parametrize("bad_id", BAD_IDS, ids=range(len(BAD_IDS)))
def test_a_bad_stream_id_is_refused(scene: Scene, bad_id: str) -> None:
    nack = scene.nack(pack("open", "bad", bad_id, "audio", 1))
    check_refusal(nack, "bad_id", f"^stream {BAD_IDS[bad_id]}")
    scene.nothing_has_changed()
    scene.service_goes_on()


def test_an_id_is_text_and_never_a_number(scene: Scene) -> None:
    """`7`, `07` and the full-width `７` are three sessions."""
    for session in ("7", "07", "７", "x" * 200):
        assert scene.bad.connection.open(session, "mic", "audio").tag == "opened"
    assert scene.bad.connection.ask("list")["sessions"] == ["07", "7", "bad", "good", "x" * 200, "７"]


@pytest.mark.parametrize(
    ("modality", "reason"),
    [
        ("video", "^unknown modality 'video'; the model has audio, imu, text$"),
        ("", "^unknown modality ''; "),
        ("v" * 100_000, "^unknown modality 'vvv"),
        ("imu", "^stream 'mic' is of modality audio$"),
    ],
)
def test_an_unknown_modality_is_refused(scene: Scene, modality: str, reason: str) -> None:
    nack = scene.nack(pack("open", "bad", "mic", modality, 1))
    check_refusal(nack, "unknown_modality", reason)
    assert (nack["session"], nack["stream"], nack["sequence"]) == ("bad", "mic", 1)
    scene.nothing_has_changed()
    scene.service_goes_on()


@pytest.mark.parametrize("base", [0, -1, 2**62 + 1, 2**63 - 1, -(2**63)])
def test_a_base_out_of_range_is_refused(scene: Scene, base: int) -> None:
    nack = scene.nack(pack("open", "bad", "second mic", "audio", base))
    check_refusal(nack, "malformed", rf"^open: base {base} is outside 1 \.\. 2\*\*62$")
    assert (nack["session"], nack["stream"]) == ("bad", "second mic")
    scene.nothing_has_changed()
    scene.service_goes_on()


@pytest.mark.parametrize("sequence", [1 + 65536 + 1, 2**62])
def test_a_number_far_ahead_has_to_wait(scene: Scene, sequence: int) -> None:
    nack = scene.nack(*scene.bad.segment([[1, 2, 3]], 9.0, sequence=sequence))
    check_refusal(nack, "slow_down", f"^sequence {sequence} is more than 65536 ahead of 1$")
    assert (nack["session"], nack["stream"], nack["sequence"]) == ("bad", "mic", sequence)
    assert nack["retry_after_ms"] > 0
    scene.nothing_has_changed()
    scene.service_goes_on()


def test_times_beyond_all_numbers_are_no_danger_to_the_store(scene: Scene) -> None:
    for from_s, to_s in ((2**64 - 1, inf), (-(2**63), 2**64 - 1), (-inf, -1e308)):
        rows = scene.bad.connection.ask("history", "bad", from_s, to_s)["rows"]
        assert len(rows) == (from_s < 1 < to_s)
    for limit in (0, -5, 2**63 - 1):
        assert len(scene.bad.connection.ask("history", "bad", -inf, inf, limit)["rows"]) == 1
        assert scene.bad.connection.ask("list", "", limit)["sessions"]
    assert scene.bad.connection.ask("query", "bad", 2**63 - 1, -5)["timed_out"]
    scene.nothing_has_changed()
    scene.service_goes_on()


# ---- who is not welcome -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Introduction:
    client: str
    tenant: str
    token: str
    code: str
    reason: str


INTRODUCTIONS = {
    "bad token": Introduction("c", "acme", "guess", "unauthorised", "^the token is missing or unknown$"),
    "no token": Introduction("c", "acme", "", "unauthorised", "^the token is missing or unknown$"),
    "long token": Introduction("c", "acme", "x" * 100_000, "unauthorised", "^the token is missing or unknown$"),
    "token not ASCII": Introduction("c", "acme", "sécret", "unauthorised", "^the token is missing or unknown$"),
    "another tenant": Introduction("c", "rival", "secret", "unauthorised", "does not speak for tenant 'rival'$"),
    "client empty": Introduction("", "acme", "secret", "bad_id", "^client is empty$"),
    "client long": Introduction(LONG_ID, "acme", "secret", "bad_id", "^client has 201 bytes, more than 200$"),
    "client with NUL": Introduction("c\0", "acme", "secret", "bad_id", r"^client has a control character: 'c\\x00'$"),
}


@pytest.mark.parametrize("name", INTRODUCTIONS)
def test_a_bad_hello_is_refused(scene: Scene, stranger: Connection, name: str) -> None:
    said = INTRODUCTIONS[name]
    nack = scene.nack(pack("hello", said.client, said.tenant, said.token), connection=stranger)
    check_refusal(nack, said.code, said.reason)
    scene.nack(pack("query", 1, "good"), connection=stranger)
    assert stranger.seen[-1]["code"] == "hello_first"
    scene.nothing_has_changed()
    scene.service_goes_on()


def test_a_client_that_chooses_its_routing_id_is_refused(scene: Scene) -> None:
    """Another could choose the same, and be taken for it without a token."""
    with Connection(scene.worker.endpoint, routing_id=b"me") as chosen:
        check_refusal(chosen.hello("me", "acme", "secret"), "unauthorised", "must not set a routing id$")
    assert scene.worker.take_refusals() == {"unauthorised": 1}
    scene.nothing_has_changed()
    scene.service_goes_on()


TENANTS = {
    "a/b": "^tenant has a slash: 'a/b'$",
    "/": "^tenant has a slash: '/'$",
    "": "^tenant is empty$",
    LONG_ID: "^tenant has 201 bytes, more than 200$",
    "a\tb": r"^tenant has a control character: 'a\\tb'$",
}


@pytest.mark.parametrize("tenant", TENANTS, ids=range(len(TENANTS)))
def test_a_bad_tenant_is_refused(tmp_path: Path, tenant: str) -> None:
    """Without tokens every client names its tenant."""
    with RunningWorker(tmp_path, engine=ENGINE) as worker, Connection(worker.endpoint) as connection:
        check_refusal(connection.hello("client", tenant), "bad_id", TENANTS[tenant])
        assert worker.take_refusals() == {"bad_id": 1}
        assert connection.hello("client", "a").tag == "welcome"


def test_tenants_do_not_see_each_other(tmp_path: Path) -> None:
    """Not even where `tenant/session` would read the same if a tenant could hold a slash."""
    with (
        RunningWorker(tmp_path, engine=ENGINE) as worker,
        Connection(worker.endpoint) as one,
        Connection(worker.endpoint) as other,
    ):
        one.hello("client", "a")
        other.hello("client", "b")
        other.send("subscribe")
        other.send("tap")
        other.sync()
        one.open("b/s", "mic", "audio")
        one.send_frames(*segments("b/s", "mic", 1, [(1, 1.0, [[1, 2, 3]])]))
        one.acknowledged("b/s", "mic", durable=1)
        assert one.ask("list")["sessions"] == ["b/s"]
        assert other.ask("list")["sessions"] == []
        assert [other.ask("query", name)["code"] for name in ("b/s", "s", "a/b/s")] == ["not_found"] * 3
        assert other.ask("delete", "b/s")["existed"] is False
        assert other.ask("history", "b/s")["rows"] == []
        other.send_frames(*segments("b/s", "mic", 1, [(2, 2.0, [[1, 2, 3]])]))
        assert other.receive_tag("nack")["code"] == "not_open"
        assert {message.tag for message in other.seen} <= {"welcome", "pong", "sessions", "nack", "deleted", "past"}
        assert one.ask("query", "b/s")["state"]["version"] == 1


@pytest.mark.parametrize(
    "frames",
    [
        [pack("ping", 1)],
        [pack("open", "bad", "mic", "audio", 1)],
        segments("bad", "mic", 1, [(2, 1.0, [[1, 2, 3]])]),
        [pack("end", "bad", "mic")],
        [pack("query", 1, "bad")],
        [pack("delete", 1, "bad")],
        [pack("subscribe")],
        [pack("tap")],
        [pack("pong", 1, "x")],
    ],
    ids=["ping", "open", "segments", "end", "query", "delete", "subscribe", "tap", "pong"],
)
def test_nothing_is_taken_before_hello(scene: Scene, stranger: Connection, frames: list[bytes]) -> None:
    nack = scene.nack(*frames, connection=stranger)
    check_refusal(nack, "hello_first", "does not know the connection: say hello$")
    scene.nothing_has_changed()
    scene.service_goes_on()


def test_segments_of_a_stream_that_is_not_open_are_refused(scene: Scene) -> None:
    for session, stream in (("bad", "second mic"), ("third", "mic"), (LONG_ID, "mic"), ("", "")):
        nack = scene.nack(*segments(session, stream, 1, [(5, 1.0, [[1, 2, 3]])]))
        check_refusal(nack, "not_open", "^open the stream first$")
        assert (nack["session"], nack["stream"], nack["sequence"]) == (session, stream, 5)
    scene.bad.connection.send("end", "third", "mic")
    scene.nothing_has_changed()
    scene.service_goes_on()


def test_another_clients_stream_cannot_be_written(scene: Scene) -> None:
    nack = scene.nack(*segments("good", "mic", 1, [(2, 1.0, [[1, 2, 3]])]))
    check_refusal(nack, "stream_taken", "^another client has opened this stream$")
    scene.nothing_has_changed()
    scene.service_goes_on()


# ---- who does not keep up, or speaks something else ---------------------------------------------------------------


def test_a_subscriber_that_grants_no_credit_costs_nothing(scene: Scene, stranger: Connection) -> None:
    stranger.hello("lazy", "acme", "secret")
    stranger.send("subscribe", "", 0)
    stranger.send("subscribe", "", -5)
    stranger.send("credit", -(2**63))
    stranger.sync()
    for _ in range(20):
        scene.good.publish()
    stranger.sync()
    assert not [message for message in stranger.seen if message.tag == "update"]
    stranger.send("credit", 2**63 - 1)
    update = stranger.receive_tag("update")
    assert update["state"]["version"] == 21
    assert update["missed"] >= 19
    scene.service_goes_on()


def test_a_subscriber_that_never_reads_is_dropped_and_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_loop, "SEND_QUEUE_MESSAGES", 20)
    monkeypatch.setattr(unsent, "CONNECTION_BYTES", 100_000)
    with (
        RunningWorker(tmp_path, engine=ENGINE, tokens=TENANT_BY_TOKEN) as worker,
        Connection(worker.endpoint, receive_queue=1, receive_buffer=4096) as lazy,
        Scene(worker) as scene,
    ):
        lazy.hello("lazy", "acme", "secret")
        lazy.send("subscribe", "", 100_000)
        lazy.sync()
        assert connections_of(worker) == 3
        for _ in range(40):
            scene.good.publish()
        asked, deadline_s = 0, time.monotonic() + LIMIT_S
        while connections_of(worker) == 3:  # until what it does not read fills the queue
            assert time.monotonic() < deadline_s, f"still there after {asked} answers it does not read"
            lazy.send("history", 1, "good")
            asked += 1
        scene.service_goes_on()


def connections_of(worker: RunningWorker) -> int:
    return worker.call(lambda: len(worker.dispatcher.peers))


def test_subscriptions_of_one_connection_are_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.dispatch.dispatcher.MAX_SUBSCRIPTIONS", 3)
    for number in range(3):
        scene.bad.connection.send("subscribe", f"s{number}", 0)
    nack = scene.nack(pack("subscribe", "one more"))
    check_refusal(nack, "too_large", "^the connection has 3 subscriptions$")
    scene.bad.connection.send("subscribe", "s1", 0)
    scene.nothing_has_changed()
    scene.service_goes_on()


def test_streams_of_one_session_are_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.dispatch.publishing.MAX_STREAMS", 1)
    nack = scene.nack(pack("open", "bad", "one more", "audio", 1))
    check_refusal(nack, "too_large", "^the session has 1 streams$")
    assert (nack["session"], nack["stream"]) == ("bad", "one more")
    assert scene.bad.connection.open("bad", "mic", "audio").tag == "opened"
    scene.nothing_has_changed()
    scene.service_goes_on()


GARBAGE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "zeros": bytes(100_000),
    "ones": b"\xff" * 100_000,
    "random": random.Random(7).randbytes(100_000),
    "half a greeting": b"\xff\0\0\0\0\0\0\0\1\x7f\3",
    "greeting, then garbage": b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + bytes(48) + b"\xff" * 5000,
    "a frame of 2^63 bytes": b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + bytes(48) + b"\x02" + struct.pack(">Q", 2**63),
    "nothing": b"",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_raw_bytes_on_the_port_harm_nobody(scene: Scene, name: str) -> None:
    with socket.create_connection(("127.0.0.1", scene.worker.port), timeout=LIMIT_S) as plain:
        with suppress(ConnectionError):  # it may hang up on us
            plain.sendall(GARBAGE[name])
        scene.nothing_has_changed()
    scene.service_goes_on()


def test_a_frame_beyond_all_limits_costs_its_sender_the_connection(scene: Scene, stranger: Connection) -> None:
    stranger.hello("big", "acme", "secret")
    stranger.send_frames(entry_of(2, 1.0, 1), bytes(4 * wire.MAX_MESSAGE_BYTES + 1))
    stranger.send("ping", 1)
    assert stranger.receive_tag("nack")["code"] == "hello_first", "ZeroMQ has connected again, as a stranger"
    scene.worker.take_refusals()
    scene.nothing_has_changed()
    scene.service_goes_on()


# ---- our own client, the store ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session", "rows", "event_time_s", "sequence", "reason"),
    [
        ("", [[1, 2, 3]], 1.0, None, "^session is empty$"),
        ("\ud800", [[1, 2, 3]], 1.0, None, "^session is not valid Unicode text$"),
        ("s", [[1, 2, 3]], nan, None, "^event time nan is not a finite number of seconds"),
        ("s", [[1, 2, 3]], -inf, None, "^event time -inf is not a finite number of seconds"),
        ("s", [[], []], 1.0, None, "^frames have width 0$"),
        ("s", np.zeros((1, 4_194_305), np.float32), 1.0, None, "^segment has 16777220 bytes, more than 16777216$"),
        ("s", [[1, 2, 3]], 1.0, 0, "^sequence 0 of stream 'mic': "),
        ("s", [[1, 2, 3]], 1.0, 2**62 + 1, rf"^sequence {2**62 + 1} is more than 2\*\*62$"),
    ],
    ids=["empty", "surrogate", "nan", "inf", "no width", "too large", "sequence 0", "sequence huge"],
)
def test_the_publisher_refuses_what_no_worker_could_read(
    worker: RunningWorker, session: str, rows: Any, event_time_s: float, sequence: int | None, reason: str
) -> None:
    """The worker's answer would name no segment, and the publisher would wait for ever."""
    with Publisher(worker.endpoint, tenant="acme", token="secret") as publisher:
        with pytest.raises(ValueError, match=reason):
            publisher.publish(session, "mic", "audio", rows, event_time_s, sequence=sequence)
        publisher.publish("good", "mic", "audio", [[1, 2, 3]], 1.0)
        publisher.flush(LIMIT_S)
    with StateClient(worker.endpoint, tenant="acme", token="secret") as reader:
        assert reader.state("good")["version"] == 1
        assert reader.delete("good")


def test_the_reader_refuses_what_no_worker_could_read(worker: RunningWorker) -> None:
    with StateClient(worker.endpoint, tenant="acme", token="secret") as reader:
        with pytest.raises(InvalidId, match=r"^session is not valid Unicode text$"):
            reader.state("\ud800")
        with pytest.raises(ValueError, match=r"^query: after_version is not an integer$"):
            reader.state("s", after_version=2**63)
        with pytest.raises(ValueError, match=r"^history: from_s is not a number$"):
            reader.history("s", from_s=nan)
        with pytest.raises(InvalidId, match=r"^session has 201 bytes"):
            next(reader.subscribe(LONG_ID))
        with pytest.raises(InvalidId, match=r"^session is empty$"):
            reader.state("")
        assert reader.sessions() == ([], False)


class WordyModel(ToyModel):
    """A model whose every state takes 24 KB on the wire."""

    def __init__(self) -> None:
        super().__init__()
        mood, speed = self.signature.heads
        wordy = replace(mood, labels=("calm" * 2000, "loud" * 2000))
        self.signature = replace(self.signature, heads=(wordy, speed))


def test_a_page_of_history_may_be_larger_than_what_a_worker_takes(tmp_path: Path) -> None:
    """What a client may ask for it must be able to read."""
    with (
        RunningWorker(tmp_path, engine=ENGINE, model=WordyModel) as worker,
        Publisher(worker.endpoint) as publisher,
        StateClient(worker.endpoint) as reader,
    ):
        for number in range(60):
            publisher.publish("s", "mic", "audio", [[1, 2, 3]], number / 100)
        publisher.flush(LIMIT_S)
        rows = reader.history("s")
    assert [row["version"] for row in rows] == list(range(1, 61))
    assert len(msgpack.packb(rows)) > wire.MAX_HEADER_BYTES


def test_a_fault_in_the_store_is_told_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one that no store should ever raise."""
    broken = True
    scan = SqliteStore.scan

    def scan_or_fail(store: SqliteStore, tenant: str, after: str, limit: int) -> list[str]:
        if broken:
            raise OverflowError("a fault of ours")
        return scan(store, tenant, after, limit)

    monkeypatch.setattr(SqliteStore, "scan", scan_or_fail)
    with RunningWorker(tmp_path, engine=ENGINE) as worker, Connection(worker.endpoint) as connection:
        connection.hello("client")
        nack = connection.ask("list")
        check_refusal(nack, "unavailable", "^OverflowError: a fault of ours$")
        assert nack["retry_after_ms"] > 0
        broken = False
        assert connection.ask("list")["sessions"] == []
