"""In which order a publisher sends what waits: sessions in turns, each in the order of publishing."""

from __future__ import annotations

from runtime import messages as m
from runtime.client.send_queue import TURN_SEGMENTS
from tests.runtime.client.test_publishing import FRAMES, WINDOW, Scene

Sent = tuple[str, str, int]


def publish(scene: Scene, session: str, stream: str, count: int = 1) -> None:
    for _ in range(count):
        scene.now_s += 0.01
        scene.core.publish(session, stream, "audio", FRAMES, scene.now_s, scene.now_s)


def messages(scene: Scene) -> list[list[Sent]]:
    """The segments of each message that the publisher wants to send now."""
    return [
        [(group.session, group.stream, entry.sequence) for group in message.groups for entry in group.entries]
        for message in scene.exchange()
        if isinstance(message, m.Segments)
    ]


def test_no_stream_of_a_session_runs_ahead_of_the_others_while_a_backlog_is_sent() -> None:
    scene = Scene()
    for _ in range(30):
        publish(scene, "s", "left")
        publish(scene, "s", "right")
    scene.connect()
    seen = 0
    while batch := [sent for message in messages(scene) for sent in message]:
        seen += len(batch)
        for stream in ("left", "right"):
            assert max(number for _, name, number in batch if name == stream) == seen // 2
        for stream in ("left", "right"):
            scene.say(m.Ack((m.StreamAck("s", stream, seen // 2, 0, seen, seen // 2),)))
    assert seen == 60


def test_what_was_published_at_one_moment_is_sent_in_the_order_of_publishing() -> None:
    """A source that is replayed, or a clock with coarse ticks."""
    scene = Scene()
    for _ in range(WINDOW):
        scene.core.publish("s", "left", "audio", FRAMES, 0.0, scene.now_s)
        scene.core.publish("s", "right", "audio", FRAMES, 0.0, scene.now_s)
    scene.connect()
    (first,) = messages(scene)
    assert first == [("s", name, number) for name in ("left", "right") for number in range(1, WINDOW // 2 + 1)]


def test_a_slow_stream_is_sent_beside_what_the_fast_one_published_at_its_time() -> None:
    scene = Scene()
    for _ in range(10):
        publish(scene, "s", "fast", 9)
        publish(scene, "s", "slow")
    scene.connect()
    sent = [name for message in messages(scene) for _, name, _ in message]
    assert sent == ["fast"] * WINDOW, "the slow stream's first was published tenth"


def test_a_session_with_a_backlog_does_not_keep_another_waiting() -> None:
    scene = Scene()
    publish(scene, "busy", "mic", 100)
    publish(scene, "quiet", "mic")
    scene.core.connected(scene.now_s)
    scene.exchange()
    scene.say(m.Welcome("w", "i", "default", {}, 2 * TURN_SEGMENTS, 1 << 20, 1 << 20))
    for opened in [message for message in scene.exchange() if isinstance(message, m.Open)]:
        scene.say(m.Opened(opened.session, opened.stream, 0, 0, 0))
    (first,) = messages(scene)
    assert ("quiet", "mic", 1) in first
    assert len(first) == 2 * TURN_SEGMENTS
