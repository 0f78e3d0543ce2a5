"""Streams open, end and come back: what their publishers are told, and when, so that no crash costs them anything."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest

from runtime import messages as m
from runtime.engine.policies import OrderPolicy
from runtime.keys import SessionKey
from tests.runtime.dispatch.desk import FRAMES, Desk

OPEN = m.Open("s", "mic", "audio", 1)
WRIST = m.Open("s", "wrist", "imu", 1)


def segments(stream: str, *rows: tuple[int, float], oldest: int = 1, width: int = 3) -> m.Segments:
    entries = tuple(m.SegmentEntry(number, time_s, np.ones((1, width), np.float32)) for number, time_s in rows)
    return m.Segments((m.StreamSegments("s", stream, oldest, entries),))


def test_a_stream_is_called_open_once_the_store_knows_it_and_not_before() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.store_is_stuck = True
    desk.say(b"a", OPEN)
    desk.run_jobs()
    desk.work()
    assert desk.dispatcher.engine.sessions, "the session is in memory"
    assert desk.heard(b"a", m.Opened) == []
    desk.store_is_stuck = False
    desk.work(0.1)
    assert [(opened.durable, opened.last_sequence) for opened in desk.heard(b"a", m.Opened)] == [(0, 0)]


def test_a_stream_that_the_store_knows_is_called_open_at_once() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", OPEN)
    desk.all_heard(b"a")
    desk.store_is_stuck = True
    desk.say(b"a again", m.Hello("a"), OPEN)
    assert len(desk.heard(b"a again", m.Opened)) == 1


def test_after_a_crash_an_open_stream_is_waited_for_even_if_nothing_of_it_was_stored() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.hello(b"b")
    desk.say(b"a", OPEN, segments("mic", *((n, n / 2) for n in range(1, 9))))
    desk.work(2.5)  # the session is no longer new
    desk.say(b"a", segments("mic", (9, 4.5), (10, 5.0)))
    desk.say(b"b", WRIST)
    after = desk.crash()
    after.hello(b"a")
    after.hello(b"b")
    after.say(b"a", m.Open("s", "mic", "audio", 1, 1), segments("mic", *((n, n / 2) for n in range(1, 30))))
    after.work(5.0)
    after.say(b"b", WRIST, segments("wrist", (1, 4.9), width=2))
    assert after.codes(b"b") == []


@pytest.mark.parametrize("epoch_grows", [True, False])
def test_a_worker_that_lost_a_group_and_got_it_back_waits_for_the_streams_that_were_cut_off(epoch_grows: bool) -> None:
    """It was stopped for longer than its lease; another may have had the group meanwhile, or nobody."""
    desk = Desk()
    desk.hello(b"a")
    desk.hello(b"b")
    desk.say(b"a", OPEN)
    desk.say(b"b", WRIST)
    desk.say(b"a", segments("mic", *((n, n / 2) for n in range(1, 12))))
    desk.say(b"b", segments("wrist", *((n, n / 2) for n in range(1, 12)), width=2))
    desk.work(0.1)
    epochs = desk.dispatcher.owned.epochs
    desk.dispatcher.own({})
    desk.dispatcher.own(desk.store.claim("w", epochs) if epoch_grows else epochs)
    desk.say(b"a", OPEN, segments("mic", *((n, n / 2) for n in range(1, 40))))
    desk.work(5.0)
    desk.all_heard(b"b")
    desk.say(b"b", WRIST, segments("wrist", *((n, n / 2) for n in range(1, 40)), width=2))
    assert desk.codes(b"b") == []


def test_in_a_new_session_nothing_settles_before_its_other_publishers_can_have_come() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.hello(b"b")
    desk.say(b"a", OPEN, segments("mic", *((n, n / 2) for n in range(1, 21))), m.End("s", "mic", 20))
    desk.work(1.0)
    desk.say(b"b", WRIST, segments("wrist", (1, 0.1), width=2))
    assert desk.codes(b"b") == []
    desk.work(6.0)
    desk.say(b"b", m.Query(1, "s"))
    assert desk.heard(b"b", m.State)[-1].state["durable_version"] == 21


def test_a_new_session_waits_no_longer_than_a_silent_stream() -> None:
    desk = Desk(order=OrderPolicy(idle_timeout_s=1.0))
    desk.hello(b"a")
    desk.say(b"a", OPEN, segments("mic", (1, 1.0), (2, 5.0)), m.End("s", "mic", 2))
    desk.work(1.1)
    assert desk.heard(b"a", m.Ack)[-1].streams[-1].durable == 2


def test_an_end_before_all_that_was_sent_has_come_ends_nothing() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.hello(b"b")
    desk.say(b"a", OPEN, segments("mic", (1, 1.0)))
    desk.say(b"b", WRIST, segments("wrist", (1, 1.0), width=2))
    desk.work(2.5)  # the session is no longer new
    desk.say(b"a", segments("mic", (2, 5.0)))
    desk.say(b"b", segments("wrist", (2, 5.0), (3, 9.0), width=2), m.End("s", "wrist", 3))
    desk.say(b"a", m.End("s", "mic", 3))  # its number 3 was told to slow down, and is sent again
    desk.work(0.5)
    desk.say(b"a", segments("mic", (3, 5.5)), m.End("s", "mic", 3))
    assert desk.codes(b"a") == []
    desk.work(0.1)
    desk.say(b"a", m.Query(1, "s"))
    assert desk.heard(b"a", m.State)[-1].state["settled"]["version"] == 6


def test_what_a_client_sent_on_an_old_connection_does_not_take_the_stream_from_its_new_one() -> None:
    desk = Desk()
    desk.say(b"old", m.Hello("robot"), OPEN)
    desk.say(b"new", m.Hello("robot"), OPEN)
    desk.all_heard(b"new")
    desk.say(b"old", OPEN, m.End("s", "mic", 0))
    desk.say(b"new", segments("mic", (1, 1.0)))
    assert desk.codes(b"new") == []
    assert desk.heard(b"old", m.Nack)[-1].code == "stream_taken"
    assert desk.dispatcher.engine.sessions[SessionKey("default", "s")].timeline.waits_for("mic", desk.now_s)


def test_what_becomes_durable_while_a_stream_is_opened_is_told_behind_what_was_refused() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", OPEN)
    desk.store_is_stuck = True
    bad = m.SegmentEntry(1, 0.1, np.full((1, 3), nan, np.float32))
    desk.say(b"a", m.Segments((m.StreamSegments("s", "mic", 1, (bad,)),)))
    desk.work(3.0)
    desk.hello(b"b")
    desk.say(b"b", OPEN)
    desk.all_heard(b"b")
    desk.store_is_stuck = False
    desk.work(0.1)
    nack, *others = desk.all_heard(b"b")
    assert isinstance(nack, m.Nack)
    assert (nack.code, nack.sequence) == ("bad_segment", 1)
    assert any(isinstance(message, m.Opened) for message in others)


def test_a_refusal_is_told_again_until_its_number_is_let_go_of_even_after_a_crash() -> None:
    desk = Desk()
    desk.hello(b"a")
    bad = m.SegmentEntry(2, 0.2, np.full((1, 3), nan, np.float32))
    good = [m.SegmentEntry(number, number / 10, FRAMES) for number in (1, 3)]
    desk.say(b"a", OPEN)
    desk.say(b"a", m.Segments((m.StreamSegments("s", "mic", 1, (good[0], bad, good[1])),)))
    assert desk.codes(b"a") == [("bad_segment", 2)]
    desk.say(b"a", m.Segments((m.StreamSegments("s", "mic", 1, (bad,)),)))
    assert desk.codes(b"a") == [("bad_segment", 2)], "a duplicate of a refused one is no duplicate of a fused one"
    desk.say(b"a", m.End("s", "mic", 3))
    desk.work(3.0)

    after = desk.crash()
    after.hello(b"a")
    after.say(b"a", m.Open("s", "mic", "audio", 1))
    nack, opened = after.all_heard(b"a")[-2:]
    assert isinstance(nack, m.Nack), "what was refused comes first"
    assert isinstance(opened, m.Opened)
    assert (nack.code, nack.sequence, opened.durable) == ("bad_segment", 2, 3)

    after.say(b"a", m.Open("s", "mic", "audio", 4, 3))
    assert after.codes(b"a") == [], "base says that the publisher knows"


def test_a_publisher_that_never_lets_go_of_refused_numbers_is_slowed_and_stalls_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.engine.intake.MAX_REFUSALS_KEPT", 3)
    desk = Desk()
    desk.hello(b"a")
    desk.hello(b"b")
    desk.say(b"b", WRIST, segments("wrist", (1, 1.0), width=2))
    desk.say(b"a", OPEN)
    for number in range(1, 5):
        desk.say(b"a", segments("mic", (number, 1.0), width=1))
    assert desk.codes(b"a") == [("bad_segment", 1), ("bad_segment", 2), ("bad_segment", 3), ("slow_down", 4)]
    for _ in range(4):
        desk.work(0.6)
        desk.say(b"a", segments("mic", (4, 1.0), width=1))
    desk.work(0.1)
    assert desk.heard(b"b", m.Ack)[-1].streams[-1].durable == 1
    desk.say(b"a", segments("mic", (4, 1.0), oldest=4, width=1))
    assert desk.codes(b"a")[-1] == ("bad_segment", 4)


def test_publishers_of_a_deleted_session_send_again_what_was_not_durable() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", OPEN, segments("mic", (1, 1.0)))
    desk.all_heard(b"a")
    desk.say(b"a", m.Delete(1, "s"))
    assert desk.codes(b"a") == [("not_open", 1)]
    desk.settle(b"a", "s", 1, 2)
    desk.all_heard(b"a")
    desk.say(b"a", m.Delete(2, "s"))
    assert desk.codes(b"a") == [], "all of it is durable and gone: there is nothing to send again"


def test_a_stream_opened_while_its_session_is_deleted_is_opened_again() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.store_is_stuck = True
    desk.say(b"a", OPEN)
    desk.run_jobs()
    desk.work()
    desk.say(b"a", m.Delete(1, "s"))
    desk.store_is_stuck = False
    desk.work(0.1)
    told = desk.all_heard(b"a")
    assert "not_open" in [message.code for message in told if isinstance(message, m.Nack)]
    assert not any(isinstance(message, m.Opened) for message in told)
    desk.say(b"a", OPEN)
    assert len(desk.heard(b"a", m.Opened)) == 1


def test_a_new_publisher_numbers_on_after_the_highest_number_ever_seen() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.settle(b"a", "s", 1, 2)
    desk.say(b"a", m.Open("s", "mic", "audio", 3, 2), segments("mic", (7, 9.0), oldest=3))
    desk.hello(b"b")
    desk.say(b"b", m.Open("s", "mic", "audio", 1))
    assert [(opened.durable, opened.last_sequence) for opened in desk.heard(b"b", m.Opened)] == [(2, 7)]
