"""What a publisher keeps, numbers, sends again and gives up. The worker is played by the test."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import messages as m
from runtime.client import publisher_core
from runtime.client.errors import StreamRefused
from runtime.client.link import Identity
from runtime.client.published import ENTRY_OVERHEAD_BYTES, Receipt
from runtime.client.publisher_account import PublisherEvent, PublisherPolicy
from runtime.client.publisher_core import PublisherCore
from runtime.keys import InvalidId

FRAMES = np.ones((4, 3), np.float32)
ENTRY_BYTES = FRAMES.nbytes + ENTRY_OVERHEAD_BYTES
WINDOW = 8


class Scene:
    """A publisher, and a worker that says what the test wants it to say."""

    def __init__(self, policy: PublisherPolicy | None = None) -> None:
        self.events: list[PublisherEvent] = []
        self.core = PublisherCore(Identity("robot"), policy or PublisherPolicy(), self.events.append)
        self.now_s = 100.0
        self.sent: list[m.Message] = []

    def connect(self, durable: int = 0, last: int = 0) -> None:
        self.core.connected(self.now_s)
        self.exchange()
        self.say(m.Welcome("w", "i", "default", {}, WINDOW, 1 << 20, 1 << 20))
        for opened in [message for message in self.exchange() if isinstance(message, m.Open)]:
            self.say(m.Opened(opened.session, opened.stream, durable, last, 0))

    def say(self, message: m.Message) -> None:
        self.core.receive(message, self.now_s)

    def exchange(self) -> list[m.Message]:
        """Everything that the publisher wants to send now."""
        sent = []
        while (message := self.core.outgoing(self.now_s)) is not None:
            sent.append(message)
        self.sent += sent
        return sent

    def numbers(self) -> list[int]:
        """Sequence numbers of the segments that the publisher wants to send now."""
        groups = [group for message in self.exchange() if isinstance(message, m.Segments) for group in message.groups]
        return [entry.sequence for group in groups for entry in group.entries]

    def publish(self, count: int = 1, sequence: int | None = None) -> list[Receipt]:
        numbers = [None] * count if sequence is None else list(range(sequence, sequence + count))
        return [
            self.core.publish("s", "mic", "audio", FRAMES, n, self.now_s, number) for n, number in enumerate(numbers)
        ]

    def ack(self, fused: int, durable: int, version: int = 0) -> None:
        self.say(m.Ack((m.StreamAck("s", "mic", fused, durable, version, fused),)))

    def nack(self, code: str, sequence: int, retry_after_ms: int = 0) -> None:
        self.say(m.Nack(code, "because", "s", "mic", sequence, 0, retry_after_ms))


def begun() -> Scene:
    """Its stream is open, of a session born as 7, and nothing was published."""
    scene = Scene()
    scene.core.begin("s", "mic", "audio")
    scene.connect()
    scene.say(m.Opened("s", "mic", 0, 0, 0, born=7, numbering=1))
    return scene


def test_a_new_publisher_numbers_on_from_where_the_stream_stands() -> None:
    scene = Scene()
    receipts = scene.publish(2)
    scene.connect(durable=5, last=7)
    assert scene.numbers() == [8, 9]
    assert [receipt.sequence for receipt in receipts] == [8, 9]


def opens(scene: Scene) -> list[tuple[str, int]]:
    return [(message.stream, message.base) for message in scene.sent if isinstance(message, m.Open)]


def test_a_stream_may_begin_before_its_first_segment() -> None:
    scene = Scene()
    scene.core.begin("s", "mic", "audio")
    scene.connect(durable=5, last=7)
    assert opens(scene) == [("mic", 1)]
    assert (scene.numbers(), scene.core.unfinished) == ([], 0)
    scene.publish(2)
    assert scene.numbers() == [8, 9]
    scene.core.begin("s", "mic", "audio")
    assert scene.exchange() == [], "it is open, and what is held tells if it is not"
    with pytest.raises(ValueError, match="was published as 'audio'"):
        scene.core.begin("s", "mic", "imu")
    with pytest.raises(InvalidId):
        scene.core.begin("", "mic", "audio")


def test_a_stream_that_its_publisher_numbers_begins_at_its_number() -> None:
    scene = Scene()
    scene.core.begin("s", "mic", "audio", sequence=6)
    scene.connect(durable=5, last=7)
    assert opens(scene) == [("mic", 6)]
    receipts = scene.publish(3, sequence=6)
    assert scene.numbers() == [6, 7, 8]
    scene.ack(8, 8)
    assert all(receipt.is_durable for receipt in receipts)


def test_a_stream_begins_again_after_its_end_and_stays_if_it_was_to_be_forgotten() -> None:
    scene = Scene()
    scene.publish()
    scene.connect()
    scene.numbers()
    scene.core.forget("s", "mic")
    assert [type(message) for message in scene.exchange()] == [m.End]
    scene.core.begin("s", "mic", "audio")
    scene.ack(1, 1)
    scene.core.tick(scene.now_s)
    assert [type(message) for message in scene.exchange()] == [m.Open]


def test_a_numbered_stream_that_is_to_be_forgotten_begins_with_its_first_segment() -> None:
    scene = Scene()
    scene.publish(2, sequence=1)
    scene.connect()
    scene.numbers()
    scene.core.forget("s", "mic")
    scene.core.begin("s", "mic", "audio", sequence=9)
    assert scene.core.is_leaving("s", "mic")
    scene.exchange()
    scene.ack(2, 2)
    scene.core.tick(scene.now_s)
    scene.publish(1, sequence=9)
    assert [message.base for message in scene.exchange() if isinstance(message, m.Open)] == [9]


def test_who_holds_nothing_makes_no_deleted_session_anew() -> None:
    scene = Scene()
    scene.publish()
    scene.connect()
    scene.say(m.Opened("s", "mic", 0, 0, 0, born=7, numbering=1))
    scene.numbers()
    scene.ack(1, 1)
    scene.core.connected(scene.now_s)
    scene.exchange()
    scene.say(m.Welcome("w", "i", "default", {}, WINDOW, 1 << 20, 1 << 20))
    [asked] = scene.exchange()
    assert isinstance(asked, m.Open)
    assert (asked.known_durable, asked.known_born) == (1, 7)
    scene.nack("not_found", asked.base)
    assert (scene.exchange(), scene.events) == ([], [])
    [receipt] = scene.publish()
    [asked] = scene.exchange()
    assert isinstance(asked, m.Open)
    assert (asked.known_durable, asked.known_born) == (1, 0), "what goes on begins it anew"
    assert not receipt.is_final


@pytest.mark.parametrize("was_ended", [False, True])
def test_who_begins_again_makes_a_deleted_session_anew(was_ended: bool) -> None:
    scene = begun()
    if was_ended:
        scene.core.end("s", "mic")
        scene.exchange()
    scene.core.begin("s", "mic", "audio")
    [asked] = scene.exchange()
    assert isinstance(asked, m.Open)
    assert asked.known_born == 0


def test_who_begins_again_while_a_deleted_session_is_asked_for_makes_it_anew() -> None:
    scene = begun()
    scene.nack("not_open", 0)
    [asked] = scene.exchange()
    scene.core.begin("s", "mic", "audio")
    [again] = scene.exchange()
    assert isinstance(asked, m.Open)
    assert isinstance(again, m.Open)
    assert (asked.known_born, again.known_born) == (7, 0)
    scene.nack("not_found", asked.base)
    scene.say(m.Opened("s", "mic", 0, 0, 0, born=8, numbering=2))
    scene.publish()
    assert scene.numbers() == [1]


def test_a_session_that_is_not_found_twice_costs_no_segment() -> None:
    scene = begun()
    for _ in range(2):
        scene.nack("not_open", 0)
        assert len(scene.exchange()) == 1
    scene.nack("not_found", 1)
    [receipt] = scene.publish()
    scene.nack("not_found", 1)
    assert not receipt.is_refused
    scene.exchange()
    scene.say(m.Opened("s", "mic", 0, 0, 0, born=8, numbering=2))
    assert scene.numbers() == [1]


def test_what_is_published_while_a_deleted_session_is_asked_for_makes_another() -> None:
    scene = begun()
    scene.nack("not_open", 0)
    [asked] = scene.exchange()
    assert isinstance(asked, m.Open)
    [receipt] = scene.publish()
    scene.nack("not_found", asked.base)
    [asked] = scene.exchange()
    assert isinstance(asked, m.Open)
    assert asked.known_born == 0
    assert not receipt.is_refused


def test_a_source_that_numbers_its_segments_sends_only_what_is_not_durable() -> None:
    scene = Scene()
    receipts = scene.publish(5, sequence=1)
    scene.connect(durable=3, last=4)
    assert scene.numbers() == [4, 5]
    assert [receipt.is_durable for receipt in receipts] == [True] * 3 + [False] * 2


def test_numbers_may_be_left_out_but_not_repeated_or_mixed() -> None:
    scene = Scene()
    scene.publish(2, sequence=3)
    scene.publish(1, sequence=7)
    for wrong in (7, 4, 0, 1_000_000):
        with pytest.raises(ValueError, match="sequence"):
            scene.publish(1, sequence=wrong)
    with pytest.raises(ValueError, match="numbered by its publisher"):
        scene.publish(1)
    scene.connect()
    assert scene.numbers() == [3, 4, 5, 6, 7]
    assert scene.core.unfinished == 3


def test_a_segment_that_is_not_taken_begins_no_stream() -> None:
    scene = Scene()
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"^sequence {wrong} .* the next one is 1$"):
            scene.publish(1, sequence=wrong)
    scene.connect()
    assert not any(isinstance(message, m.Open) for message in scene.sent)
    scene.publish(2)
    scene.connect()
    assert scene.numbers() == [1, 2]


def test_no_more_is_on_its_way_than_the_window_allows() -> None:
    scene = Scene()
    scene.publish(20)
    scene.connect()
    assert scene.numbers() == list(range(1, WINDOW + 1))
    scene.ack(fused=3, durable=0)
    assert scene.numbers() == [9, 10, 11]


def test_what_is_not_durable_is_sent_again_on_a_new_connection_and_nothing_else() -> None:
    scene = Scene()
    scene.publish(6)
    scene.connect()
    assert scene.numbers() == [1, 2, 3, 4, 5, 6]
    scene.ack(fused=5, durable=2)
    scene.connect(durable=4, last=6)
    assert scene.numbers() == [5, 6]
    scene.ack(fused=6, durable=6)
    assert (scene.core.unfinished, scene.core.stats.durable, scene.core.stats.fused) == (0, 6, 6)


def test_slow_down_pauses_the_stream_and_goes_back_to_the_number_named_one_first_then_ever_more() -> None:
    scene = Scene()
    scene.publish(5)
    scene.connect()
    assert scene.numbers() == [1, 2, 3, 4, 5]
    scene.nack("slow_down", 3, retry_after_ms=200)
    assert scene.numbers() == []
    scene.now_s += 0.25
    scene.core.tick(scene.now_s)
    assert scene.numbers() == [], "the two before it are still on their way"
    scene.nack("slow_down", 3, retry_after_ms=1)
    scene.ack(fused=2, durable=0)
    scene.now_s += 0.25
    scene.core.tick(scene.now_s)
    sent = []
    for fused in (2, 3, 4, 5):
        sent.append(scene.numbers())
        scene.ack(fused=fused, durable=0)
    assert sorted(number for batch in sent for number in batch) == [3, 4, 5]


def test_a_refused_segment_is_told_once_and_its_number_goes_on() -> None:
    scene = Scene()
    receipts = scene.publish(3)
    scene.connect()
    assert scene.numbers() == [1, 2, 3]
    scene.nack("late", 2)
    scene.nack("late", 2)
    scene.ack(fused=3, durable=3)
    assert (receipts[1].code, receipts[1].is_durable, receipts[2].is_durable) == ("late", False, True)
    stats = scene.core.stats
    assert (stats.refused, stats.late, stats.durable, scene.core.unfinished) == (1, 1, 2, 0)


def test_a_full_buffer_says_so_and_takes_one_segment_however_large() -> None:
    scene = Scene(PublisherPolicy(max_buffer_bytes=3 * ENTRY_BYTES))
    assert scene.core.has_room(100 * ENTRY_BYTES)
    scene.publish(3)
    assert not scene.core.has_room(ENTRY_BYTES)
    scene.connect()
    scene.numbers()
    scene.ack(fused=3, durable=1)
    assert scene.core.has_room(ENTRY_BYTES)


def test_drop_oldest_gives_up_the_oldest_counts_it_and_tells_the_worker() -> None:
    scene = Scene(PublisherPolicy(max_buffer_bytes=3 * ENTRY_BYTES, when_full="drop_oldest"))
    receipts = scene.publish(5)
    assert [receipt.is_dropped for receipt in receipts] == [True, True, False, False, False]
    assert scene.core.stats.dropped == 2
    scene.connect()
    scene.numbers()
    scene.publish(1)
    scene.exchange()
    groups = [group for message in scene.sent if isinstance(message, m.Segments) for group in message.groups]
    assert groups[-1].oldest == groups[0].oldest + 1
    assert scene.core.stats.dropped == 3


def test_a_stream_refused_at_its_opening_takes_nothing_more() -> None:
    scene = Scene()
    receipts = scene.publish(2)
    scene.core.connected(scene.now_s)
    scene.exchange()
    scene.say(m.Welcome("w", "i", "default", {}, WINDOW, 1 << 20, 1 << 20))
    scene.exchange()
    scene.nack("unknown_modality", 1)
    assert [receipt.code for receipt in receipts] == ["unknown_modality"] * 2
    with pytest.raises(StreamRefused, match="because"):
        scene.publish(1)
    assert scene.core.has_room(1 << 40)


def test_a_stream_not_open_is_opened_again_and_sent_from_its_durable_mark() -> None:
    scene = Scene()
    scene.publish(3)
    scene.connect()
    scene.numbers()
    scene.ack(fused=3, durable=1)
    scene.nack("not_open", 2)
    opened = [message for message in scene.exchange() if isinstance(message, m.Open)]
    assert [(message.base, message.known_durable) for message in opened] == [(2, 1)]
    scene.say(m.Opened("s", "mic", 1, 3, 1))
    assert scene.numbers() == [2, 3]


def test_a_reset_and_a_taken_stream_are_told_to_the_user() -> None:
    scene = Scene()
    scene.publish(1)
    scene.connect()
    scene.nack("session_reset", 1)
    scene.nack("stream_taken", 1)
    assert [(event.code, event.segments) for event in scene.events] == [("session_reset", 0), ("stream_taken", 1)]
    with pytest.raises(StreamRefused):
        scene.publish(1)


def test_the_end_of_a_stream_follows_its_last_segment_and_a_new_one_opens_it_again() -> None:
    scene = Scene()
    scene.publish(2)
    scene.core.end("s", "mic")
    scene.connect()
    kinds = [type(message).__name__ for message in scene.exchange()]
    assert kinds == ["Segments", "End"]
    scene.ack(fused=2, durable=2)
    scene.publish(1)
    assert [type(message).__name__ for message in scene.exchange()] == ["Open"]


def test_of_the_streams_that_have_ended_the_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher may run for a year, and have a session a minute."""
    monkeypatch.setattr(publisher_core, "MAX_ENDED", 2)
    scene = Scene()
    scene.connect()

    def play(session: str, durable: int, *, ends: bool = True) -> None:
        scene.core.publish(session, "mic", "audio", FRAMES, 0.0, scene.now_s)
        scene.exchange()
        scene.say(m.Opened(session, "mic", 0, 0, 0))
        if ends:
            scene.core.end(session, "mic")
        scene.exchange()
        scene.say(m.Ack((m.StreamAck(session, "mic", 1, durable, 1, 1),)))
        scene.core.tick(scene.now_s)

    play("not durable", 0)
    play("goes on", 1, ends=False)
    for session in ("a", "b", "c", "d"):
        play(session, 1)
    assert scene.core.sessions == {"not durable", "goes on", "c", "d"}
    play("a", 1)
    assert scene.core.sessions == {"not durable", "goes on", "a"}, "one that returns is opened again"
    assert scene.core.stats.durable == 6
    scene.core.begin("a", "mic", "audio")
    for session in ("e", "f", "g"):
        play(session, 1)
    assert scene.core.sessions == {"not durable", "goes on", "a", "g"}, "one that has begun again does not count"


def test_silence_after_a_ping_and_another_incarnation_both_end_a_connection() -> None:
    silent = Scene()
    silent.connect()
    for _ in range(12):
        silent.now_s += 0.5
        silent.core.tick(silent.now_s)
        silent.exchange()
    assert silent.core.link.is_lost
    restarted = Scene()
    restarted.connect()
    restarted.say(m.Pong(1, "another"))
    assert restarted.core.link.is_lost
