"""Whatever a worker says, in whatever order: a publisher counts what it holds, and every segment has one fate."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import messages as m
from runtime.client.errors import StreamRefused
from runtime.client.link import Identity
from runtime.client.published import ENTRY_OVERHEAD_BYTES, Receipt
from runtime.client.publisher_account import PublisherEvent, PublisherPolicy, PublisherStats
from runtime.client.publisher_core import PublisherCore
from runtime.client.stream_buffer import StreamBuffer
from runtime.wire import encode

FRAMES = [np.ones((rows, 3), np.float32) for rows in (1, 2, 4)]
STREAMS = ("mic", "wrist")
WhenFull = Literal["block", "drop_oldest"]
CODES = ("late", "bad_segment", "step_failed", "slow_down", "unavailable", "not_open", "stream_taken", "session_reset")


class Played:
    """A publisher under a worker that says anything at all. Behind the end of the tape it is an honest one."""

    def __init__(self, tape: bytes, numbered: bool, when_full: WhenFull) -> None:
        self._tape = iter(tape)
        room = 5 * (FRAMES[0].nbytes + ENTRY_OVERHEAD_BYTES)
        self.refused_told = 0
        self.core = PublisherCore(Identity("robot"), PublisherPolicy(room, when_full), self.told)
        self.numbered = numbered
        self.now_s = 10.0
        self.receipts: list[Receipt] = []
        self.published = dict.fromkeys(STREAMS, 0)

    def told(self, event: PublisherEvent) -> None:
        self.refused_told += event.segments

    def play(self) -> None:
        steps = (
            self.publish,
            self.publish,
            self.send,
            self.ack,
            self.ack,
            self.open,
            self.nack,
            self.connect,
            self.end,
        )
        for byte in self._tape:
            steps[byte % len(steps)]()
            self.now_s += 0.01
            self.core.tick(self.now_s)
            self.check()

    def byte(self) -> int:
        return next(self._tape, 0)

    def publish(self) -> None:
        stream, frames = STREAMS[self.byte() % 2], FRAMES[self.byte() % 3]
        if self.core.policy.when_full == "block" and not self.core.has_room(frames.nbytes + ENTRY_OVERHEAD_BYTES):
            return
        sequence = self.published[stream] + 1 if self.numbered else None
        try:
            receipt = self.core.publish("s", stream, "audio", frames, 0.0, self.now_s, sequence)
        except StreamRefused:
            return
        self.published[stream] += 1
        self.receipts.append(receipt)

    def send(self) -> list[m.Message]:
        sent = []
        while (message := self.core.outgoing(self.now_s)) is not None:
            encode(message)
            sent.append(message)
        return sent

    def ack(self) -> None:
        fused = self.byte() % 12
        durable, taken = self.byte() % (fused + 1), fused + self.byte() % 3
        self.core.receive(m.Ack((m.StreamAck("s", STREAMS[self.byte() % 2], fused, durable, 1, taken),)), self.now_s)

    def open(self) -> None:
        durable = self.byte() % 8
        last = durable + self.byte() % 4
        self.core.receive(m.Opened("s", STREAMS[self.byte() % 2], durable, last, 1), self.now_s)

    def nack(self) -> None:
        code, stream = CODES[self.byte() % len(CODES)], STREAMS[self.byte() % 2]
        if code == "stream_taken" and self.byte() % 4:
            code = "late"
        self.core.receive(m.Nack(code, "so", "s", stream, self.byte() % 12, 0, self.byte() % 50), self.now_s)

    def connect(self) -> None:
        self.core.connected(self.now_s)
        self.core.receive(m.Welcome("w", "i", "default", {}, 1 + self.byte() % 6, 1 << 20, 1 << 20), self.now_s)

    def end(self) -> None:
        self.core.end("s", STREAMS[self.byte() % 2])

    def check(self) -> None:
        core = self.core
        assert core._account.n_bytes == sum(buffer.n_bytes for buffer in core._streams.values()) >= 0
        flights = [buffer.in_flight() for buffer in core._streams.values()]
        assert core._queue.in_flight_segments == sum(segments for segments, _ in flights) >= 0
        assert core._queue.in_flight_bytes == sum(n_bytes for _, n_bytes in flights) >= 0
        fates = [receipt.is_durable + receipt.is_dropped + receipt.is_refused for receipt in self.receipts]
        assert max(fates, default=0) <= 1
        assert core.unfinished == fates.count(0)
        stats = core.stats
        assert stats.published == len(self.receipts) == core.unfinished + stats.durable + stats.refused + stats.dropped
        assert stats.durable <= stats.fused <= stats.published
        assert self.refused_told == stats.refused

    def finish(self) -> None:
        """An honest worker, which has everything up to the highest number that was ever sent to it."""
        self.now_s += 1.0
        self.connect()
        self.core.tick(self.now_s)
        while sent := self.send():
            for answer in (answer for message in sent for answer in self.honestly(message)):
                self.core.receive(answer, self.now_s)
        self.check()
        assert self.core.unfinished == 0
        assert self.core._account.n_bytes == 0

    def honestly(self, message: m.Message) -> Iterator[m.Message]:
        match message:
            case m.Open():
                yield m.Opened(message.session, message.stream, message.base - 1, message.base - 1, 1)
            case m.Segments(groups):
                for group in groups:
                    last = group.entries[-1].sequence
                    yield m.Ack((m.StreamAck(group.session, group.stream, last, last, 1, last),))


@pytest.mark.parametrize("when_full", ["block", "drop_oldest"])
@pytest.mark.parametrize("numbered", [False, True])
@settings(max_examples=400)
@given(tape=st.binary(max_size=150))
def test_the_accounts_are_right_whatever_the_worker_says(tape: bytes, numbered: bool, when_full: WhenFull) -> None:
    played = Played(tape, numbered, when_full)
    played.play()
    played.finish()


@pytest.mark.parametrize("when_full", ["block", "drop_oldest"])
@pytest.mark.parametrize("numbered", [False, True])
def test_the_accounts_are_right_after_long_conversations(numbered: bool, when_full: WhenFull) -> None:
    for seed in range(150):
        played = Played(Random(seed).randbytes(300), numbered, when_full)
        played.play()
        played.finish()


def test_a_stream_refused_with_segments_already_refused_counts_each_once() -> None:
    played = Played(b"", numbered=False, when_full="block")
    played.connect()
    for _ in range(3):
        played.receipts.append(played.core.publish("s", "mic", "audio", FRAMES[0], 0.0, 10.0))
    played.send()
    played.core.receive(m.Opened("s", "mic", 0, 0, 0), 10.0)
    played.send()
    played.core.receive(m.Nack("late", "so", "s", "mic", 1), 10.0)
    played.core.receive(m.Nack("stream_taken", "so", "s", "mic", 1), 10.0)
    played.check()
    assert (played.core.stats.refused, played.core.stats.late) == (3, 1)


def test_a_segment_dropped_after_it_was_refused_is_refused_and_not_dropped() -> None:
    played = Played(b"", numbered=False, when_full="drop_oldest")
    played.connect()
    for _ in range(4):
        played.receipts.append(played.core.publish("s", "mic", "audio", FRAMES[0], 0.0, 10.0))
    played.send()
    played.core.receive(m.Opened("s", "mic", 0, 0, 0), 10.0)
    played.send()
    played.core.receive(m.Nack("bad_segment", "so", "s", "mic", 1), 10.0)
    for _ in range(3):
        played.receipts.append(played.core.publish("s", "mic", "audio", FRAMES[0], 0.0, 10.0))
    played.check()
    assert (played.core.stats.refused, played.core.stats.dropped) == (1, 1)


def test_the_first_connection_is_no_reconnection() -> None:
    played = Played(b"", numbered=False, when_full="block")
    played.connect()
    assert played.core.stats.reconnects == 0
    played.connect()
    assert played.core.stats.reconnects == 1


def test_counts_can_be_printed_without_their_latencies() -> None:
    stats = PublisherStats(published=7)
    stats.latencies_s.extend([0.001] * 100)
    assert "published=7" in repr(stats)
    assert "0.001" not in repr(stats)


def test_what_is_said_of_one_stream_lets_no_other_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = 0
    in_flight = StreamBuffer.in_flight

    def counting(buffer: StreamBuffer) -> tuple[int, int]:
        nonlocal counted
        counted += 1
        return in_flight(buffer)

    core = PublisherCore(Identity("robot"), PublisherPolicy(), lambda event: None)
    streams = [str(number) for number in range(200)]
    for stream in streams:
        core.publish("s", stream, "audio", FRAMES[0], 0.0, 0.0, 1)
    core.connected(0.0)
    core.receive(m.Welcome("w", "i", "default", {}, 1024, 1 << 20, 1 << 20), 0.0)
    monkeypatch.setattr(StreamBuffer, "in_flight", counting)
    for stream in streams:
        core.receive(m.Opened("s", stream, 0, 0, 1), 0.0)
        core.receive(m.Nack("late", "so", "s", stream, 1), 0.0)
    assert counted <= 4 * len(streams)
    assert core.stats.late == len(streams)
