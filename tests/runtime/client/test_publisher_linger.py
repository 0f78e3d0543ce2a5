"""Segments that wait for others to share their message with."""

from __future__ import annotations

from math import inf

import pytest

from runtime.client.publisher_account import PublisherPolicy
from runtime.client.send_queue import MESSAGE_SEGMENTS
from tests.runtime.client.test_publishing import WINDOW, Scene


def lingering() -> Scene:
    """A publisher with an open stream and nothing to send."""
    scene = Scene(PublisherPolicy(linger_ms=2.0))
    scene.publish()
    scene.connect()
    scene.now_s += 0.01
    assert scene.numbers() == [1]
    scene.ack(1, 1)
    assert scene.numbers() == []
    return scene


def test_a_segment_waits_for_the_next_ones_and_not_longer_than_it_may() -> None:
    scene = lingering()
    scene.publish()
    assert scene.numbers() == []
    assert scene.core.wake_at_s == pytest.approx(scene.now_s + 0.002)
    scene.now_s += 0.001
    scene.publish()
    assert scene.numbers() == []
    scene.now_s += 0.0011
    assert scene.numbers() == [2, 3]


def test_an_acknowledgement_in_between_sends_nothing_early() -> None:
    scene = lingering()
    scene.publish()
    scene.ack(1, 1)
    assert scene.numbers() == []


def test_a_full_message_waits_for_nobody() -> None:
    scene = lingering()
    scene.publish(MESSAGE_SEGMENTS)
    assert scene.numbers() == list(range(2, 2 + WINDOW))


def test_what_waits_for_the_window_does_not_make_the_driver_spin() -> None:
    scene = lingering()
    scene.publish(WINDOW + 1)
    scene.now_s += 0.003
    assert len(scene.numbers()) == WINDOW
    assert scene.core.wake_at_s > scene.now_s
    scene.ack(WINDOW + 1, 0)
    assert scene.numbers() == [WINDOW + 2]


def test_what_waits_for_a_connection_does_not_make_the_driver_spin() -> None:
    scene = Scene()
    scene.publish()
    scene.now_s += 1.0
    assert scene.core.wake_at_s == inf, "no worker has been found yet"
    scene.core.connected(scene.now_s)
    assert scene.core.wake_at_s > scene.now_s, "and none has answered"
    scene.connect()
    scene.core.link.lose()
    scene.publish()
    scene.now_s += 10.0
    scene.core.tick(scene.now_s)
    assert scene.core.wake_at_s == inf, "and the next is not found yet"
    scene.connect()
    assert scene.numbers() == [1, 2]


def test_what_is_sent_again_does_not_linger() -> None:
    scene = lingering()
    scene.publish()
    scene.now_s += 0.003
    assert scene.numbers() == [2]
    scene.nack("slow_down", 2, retry_after_ms=10)
    assert scene.numbers() == []
    scene.now_s += 0.011
    scene.core.tick(scene.now_s)
    assert scene.numbers() == [2]


def test_without_a_setting_everything_goes_at_once() -> None:
    scene = Scene()
    scene.publish()
    scene.connect()
    assert scene.numbers() == [1]
    assert scene.core.wake_at_s > scene.now_s


@pytest.mark.parametrize("linger_ms", [-1.0, inf])
def test_a_time_that_cannot_be_waited_is_refused(linger_ms: float) -> None:
    with pytest.raises(ValueError, match="linger_ms"):
        PublisherPolicy(linger_ms=linger_ms)
