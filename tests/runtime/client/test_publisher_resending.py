"""What is sent again, and what is told again: after a refusal, at an opening, behind an end."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import messages as m
from runtime.client.link import Identity
from runtime.client.published import Receipt
from runtime.client.publisher_account import PublisherEvent, PublisherPolicy
from runtime.client.publisher_core import PublisherCore
from runtime.wire import decode, encode

FRAMES = np.ones((2, 3), np.float32)


class Scene:
    """A publisher of one stream, whose worker is the test. What it sends goes through the wire."""

    def __init__(self, segments: int = 0, window: int = 8) -> None:
        self.events: list[PublisherEvent] = []
        self.core = PublisherCore(Identity("robot"), PublisherPolicy(), self.events.append)
        self.now_s = 10.0
        self.window = window
        self.receipts = [self.publish() for _ in range(segments)]
        self.connect()

    def publish(self) -> Receipt:
        return self.core.publish("s", "mic", "audio", FRAMES, 0.0, self.now_s)

    def connect(self) -> list[m.Message]:
        self.core.connected(self.now_s)
        self.hear(m.Welcome("w", "i", "default", {}, self.window, 1 << 20, 1 << 20))
        return self.sent()

    def open(self, durable: int = 0, last: int = 0) -> list[m.Message]:
        self.hear(m.Opened("s", "mic", durable, last, 0))
        return self.sent()

    def hear(self, message: m.Message) -> None:
        self.core.receive(message, self.now_s)

    def nack(self, code: str, sequence: int, retry_after_ms: int = 0) -> None:
        self.hear(m.Nack(code, "so it is", "s", "mic", sequence, 0, retry_after_ms))

    def ack(self, fused: int, durable: int = 0, taken: int = 0) -> None:
        self.hear(m.Ack((m.StreamAck("s", "mic", fused, durable, fused, max(taken, fused)),)))

    def sent(self) -> list[m.Message]:
        sent = []
        while (message := self.core.outgoing(self.now_s)) is not None:
            sent.append(decode(encode(message)))
        return sent

    def after(self, seconds: float) -> list[m.Message]:
        self.now_s += seconds
        self.core.tick(self.now_s)
        return [message for message in self.sent() if not isinstance(message, m.Ping)]


def numbers(sent: list[m.Message]) -> list[int]:
    groups = [group for message in sent if isinstance(message, m.Segments) for group in message.groups]
    return [entry.sequence for group in groups for entry in group.entries]


def ends(sent: list[m.Message]) -> list[int]:
    return [message.upto for message in sent if isinstance(message, m.End)]


def test_an_end_says_how_far_the_stream_went_and_is_sent_again_behind_what_is_sent_again() -> None:
    scene = Scene(segments=3)
    scene.core.end("s", "mic")
    sent = scene.open()
    assert (numbers(sent), ends(sent)) == ([1, 2, 3], [3])
    scene.ack(fused=1)
    scene.nack("slow_down", 2, retry_after_ms=50)
    sent = scene.after(0.1)
    assert (numbers(sent), ends(sent)) == ([2], [])
    scene.ack(fused=2)
    sent = scene.sent()
    assert (numbers(sent), ends(sent)) == ([3], [3])


def test_an_end_that_met_an_unavailable_store_is_sent_again() -> None:
    scene = Scene(segments=1)
    scene.open()
    scene.ack(fused=1)
    scene.core.end("s", "mic")
    assert ends(scene.sent()) == [1]
    scene.nack("unavailable", 0, retry_after_ms=500)
    assert ends(scene.after(0.6)) == [1]


def test_an_ended_stream_without_anything_to_send_is_not_opened_again() -> None:
    scene = Scene(segments=1)
    scene.open()
    scene.core.end("s", "mic")
    scene.sent()
    scene.ack(fused=1, durable=1)
    assert not any(isinstance(message, m.Open) for message in scene.connect())


def test_what_only_waits_for_the_watermark_makes_room_in_the_window_and_is_not_called_fused() -> None:
    scene = Scene(segments=6, window=2)
    assert numbers(scene.open()) == [1, 2]
    scene.ack(fused=0, taken=2)
    assert numbers(scene.sent()) == [3, 4]
    assert scene.core.stats.fused == 0
    scene.ack(fused=2, taken=3)
    assert numbers(scene.sent()) == [5]
    assert scene.core.stats.fused == 2


@pytest.mark.parametrize("code", ["late", "bad_segment", "step_failed", "far_future"])
def test_a_refusal_told_again_at_an_opening_concerns_its_segment_and_not_the_stream(code: str) -> None:
    scene = Scene(segments=3)
    scene.open()
    assert [type(message) for message in scene.connect()] == [m.Hello, m.Open]
    scene.nack(code, 2)
    assert numbers(scene.open(durable=3, last=3)) == []
    assert [receipt.code for receipt in scene.receipts] == ["", code, ""]
    assert [receipt.is_durable for receipt in scene.receipts] == [True, False, True]
    scene.publish()
    assert numbers(scene.sent()) == [4]


def test_a_refusal_told_twice_is_told_the_user_once() -> None:
    scene = Scene(segments=2)
    scene.open()
    for _ in range(3):
        scene.nack("late", 1)
    assert [event.code for event in scene.events] == ["late"]


def test_a_refused_segment_is_sent_again_without_its_frames_among_others_with_theirs() -> None:
    scene = Scene(segments=3)
    scene.open()
    scene.nack("bad_segment", 2)
    scene.connect()
    sent = scene.open()
    assert numbers(sent) == [1, 2, 3]
    groups = [group for message in sent if isinstance(message, m.Segments) for group in message.groups]
    lengths = [len(entry.frames) for group in groups for entry in group.entries]
    assert lengths == [2, 0, 2]


def test_after_slow_down_one_segment_is_tried_and_then_ever_more() -> None:
    scene = Scene(segments=20, window=16)
    assert len(numbers(scene.open())) == 16
    scene.nack("slow_down", 1, retry_after_ms=50)
    batches = [numbers(scene.after(0.1))]
    while batches[-1]:
        scene.ack(fused=batches[-1][-1])
        batches.append(numbers(scene.sent()))
    assert [len(batch) for batch in batches] == [1, 2, 4, 8, 5, 0]


def test_nothing_of_a_paused_stream_is_sent_and_the_others_go_on() -> None:
    scene = Scene(segments=1)
    scene.open()
    scene.nack("slow_down", 1, retry_after_ms=300)
    scene.core.publish("s", "wrist", "audio", FRAMES, 0.0, scene.now_s)
    assert [message.stream for message in scene.sent() if isinstance(message, m.Open)] == ["wrist"]
    scene.hear(m.Opened("s", "wrist", 0, 0, 0))
    assert numbers(scene.after(0.2)) == [1]
    assert scene.core.wake_at_s == pytest.approx(scene.now_s + 0.1)
    assert numbers(scene.after(0.2)) == [1]


def test_a_forgotten_stream_is_numbered_on_by_the_worker() -> None:
    scene = Scene(segments=2)
    scene.open()
    scene.core.forget("s", "mic")
    assert scene.core.is_leaving("s", "mic")
    scene.ack(fused=2, durable=2)
    assert [type(message) for message in scene.after(0.1)] == [m.End]
    scene.after(0.1)
    assert not scene.core.is_leaving("s", "mic")
    scene.publish()
    (opening,) = scene.sent()
    assert isinstance(opening, m.Open)
    assert (opening.base, opening.known_durable) == (1, 0)
    assert numbers(scene.open(durable=2, last=2)) == [3]


def test_a_forgotten_stream_numbered_by_its_publisher_goes_on_at_any_higher_number() -> None:
    scene = Scene()
    scene.core.publish("s", "mic", "audio", FRAMES, 0.0, scene.now_s, sequence=1)
    scene.sent()
    scene.open()
    scene.ack(fused=1, durable=1)
    scene.core.forget("s", "mic")
    scene.after(0.1)  # sends the end
    scene.after(0.1)
    scene.core.publish("s", "mic", "audio", FRAMES, 0.0, scene.now_s, sequence=1_000_000)
    (opening,) = scene.sent()
    assert isinstance(opening, m.Open)
    assert opening.base == 1_000_000
    assert numbers(scene.open(durable=1, last=1)) == [1_000_000]


def test_a_stream_to_be_forgotten_that_goes_on_at_once_is_kept() -> None:
    scene = Scene(segments=2)
    scene.open()
    scene.core.forget("s", "mic")
    scene.publish()
    assert not scene.core.is_leaving("s", "mic")
    scene.ack(fused=2, durable=2)
    assert numbers(scene.after(0.1)) == [3]


def test_a_stream_to_be_forgotten_is_so_on_the_connection_that_it_moves_to() -> None:
    scene, other = Scene(segments=2), Scene()
    scene.open()
    scene.core.forget("s", "mic")
    for buffer in scene.core.release({"s"}):
        other.core.adopt(buffer)
    assert (scene.core.is_leaving("s", "mic"), other.core.is_leaving("s", "mic")) == (False, True)
    other.sent()
    other.open()
    other.ack(fused=2, durable=2)
    other.after(0.1)
    other.after(0.1)
    assert not other.core.sessions
