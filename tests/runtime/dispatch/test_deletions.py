"""A session of a name whose former one was deleted: what connections had open there is not open here."""

from __future__ import annotations

import pytest

from runtime import messages as m
from runtime.dispatch import deletions
from runtime.keys import SessionKey
from tests.runtime.dispatch.desk import Desk

KEY = SessionKey("default", "s")


def begun_anew_and_evicted() -> Desk:
    """`former` has published to a session that was deleted; `a` has begun another one, which has left memory."""
    desk = Desk(evict_after_s=1.0)
    desk.hello(b"former")
    desk.hello(b"a")
    desk.settle(b"former", "s", 1, 2, 3)
    desk.say(b"a", m.Delete(1, "s"))
    desk.settle(b"a", "s", 1)
    leave_memory(desk)
    desk.told.clear()
    return desk


def leave_memory(desk: Desk) -> None:
    for _ in range(2):
        desk.work(3.0)
    assert KEY not in desk.dispatcher.engine.sessions


def test_a_number_of_the_deleted_session_is_not_taken_behind_a_gap() -> None:
    desk = begun_anew_and_evicted()
    desk.publish(b"former", "s", 4)
    assert desk.codes(b"former") == [("not_open", 4)]
    desk.say(b"former", m.Open("s", "mic", "audio", 1))
    assert [opened.last_sequence for opened in desk.heard(b"former", m.Opened)] == [1]
    desk.publish(b"former", "s", 2)
    assert desk.codes(b"former") == []
    assert desk.dispatcher.engine.sessions[KEY].live_version == 2


def test_an_end_of_the_deleted_session_ends_nothing() -> None:
    desk = begun_anew_and_evicted()
    desk.say(b"a", m.Open("s", "mic", "audio", 2, 1))
    desk.publish(b"a", "s", 2)
    leave_memory(desk)
    desk.say(b"a", m.Open("s", "wrist", "imu", 1))
    desk.say(b"former", m.End("s", "mic", 0))
    assert not desk.dispatcher.engine.sessions[KEY].timeline.clocks["mic"].ended


def test_who_came_after_the_deletion_goes_on_where_a_loaded_session_stands() -> None:
    desk = begun_anew_and_evicted()
    desk.hello(b"new")
    desk.settle(b"new", "s", 2)
    leave_memory(desk)
    desk.publish(b"new", "s", 3)
    assert desk.codes(b"new") == []


def test_of_many_deletions_the_oldest_concern_every_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletions, "MAX_REMEMBERED", 2)
    desk = begun_anew_and_evicted()
    desk.hello(b"new")
    desk.say(b"new", *(m.Delete(number, f"other-{number}") for number in range(3)))
    desk.all_heard(b"new")
    desk.publish(b"former", "s", 4)
    assert desk.codes(b"former") == [("not_open", 4)]
    desk.publish(b"new", "s", 2)
    assert desk.codes(b"new") == [("not_open", 2)], "which costs it one open"
