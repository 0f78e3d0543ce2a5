"""Sessions that come from the store while messages about them wait, and all that can cross their way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime import messages as m
from runtime.dispatch import loading, questions
from runtime.engine.policies import QuotaPolicy
from runtime.keys import KEY_GROUPS, SessionKey, key_group
from tests.runtime.dispatch.desk import Desk

KEY = SessionKey("default", "s")
OPEN = m.Open("s", "mic", "audio", 1)


def stored_desk(*numbers: int) -> Desk:
    """A worker that was started on a store which holds a session."""
    desk = Desk()
    desk.hello(b"a")
    desk.settle(b"a", "s", *numbers)
    after = desk.crash()
    after.hello(b"a")
    after.hello(b"b")
    after.told.clear()
    return after


def test_messages_wait_for_their_session_in_the_order_in_which_they_came() -> None:
    desk = stored_desk(1, 2)
    desk.store_is_stuck = True
    desk.say(b"a", m.Open("s", "mic", "audio", 3, 2))
    desk.publish(b"a", "s", 3, 4)
    desk.say(b"a", m.End("s", "mic", 4))
    assert desk.all_heard(b"a") == []
    desk.store_is_stuck = False
    desk.work(3.0)
    told = desk.all_heard(b"a")
    assert not any(isinstance(message, m.Nack) for message in told)
    assert [message.streams[-1].durable for message in told if isinstance(message, m.Ack)][-1] == 4


def test_segments_of_a_session_that_is_not_there_ask_for_an_open_and_create_nothing() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.publish(b"a", "s", 5)
    assert desk.codes(b"a") == [("not_open", 5)]
    assert (desk.dispatcher.engine.sessions, desk.disk.records) == ({}, {})


def test_while_the_store_does_not_answer_everyone_is_told_and_may_try_again() -> None:
    desk = stored_desk(1)
    desk.disk.away = "disk full"
    desk.say(b"a", OPEN, m.Query(1, "s"), m.ListSessions(2), m.QueryHistory(3, "s"), m.Delete(4, "s"))
    nacks = desk.heard(b"a", m.Nack)
    assert {nack.code for nack in nacks} == {"unavailable"}
    assert sorted(nack.request for nack in nacks) == [0, 1, 2, 3, 4]
    assert all(nack.retry_after_ms > 0 and "disk full" in nack.text for nack in nacks)
    assert desk.dispatcher.store.health.failing_since_s is not None
    desk.disk.away = ""
    desk.say(b"a", m.Open("s", "mic", "audio", 2, 1))
    assert len(desk.heard(b"a", m.Opened)) == 1
    assert desk.dispatcher.store.health.failing_since_s is None


def test_what_was_read_before_another_worker_had_the_group_is_read_again() -> None:
    desk = stored_desk(1, 2)
    desk.store_is_stuck = True
    desk.say(b"a", m.Open("s", "mic", "audio", 3, 2))
    answers = [(job, job.run(desk.store)) for job in desk.jobs]
    desk.jobs.clear()
    desk.dispatcher.own({})
    other = desk.crash()
    other.hello(b"a")
    other.settle(b"a", "s", 3, 4)
    desk.dispatcher.own(desk.store.claim("w", {group: one.epoch for group, one in desk.store.ownership().items()}))
    for job, answer in answers:  # a network that was cut held it back
        desk.dispatcher.store.finish(job, answer, desk.now_s)
    desk.store_is_stuck = False
    desk.work(3.0)
    assert [opened.durable for opened in desk.heard(b"a", m.Opened)] == [4]
    assert desk.store.load([KEY])[KEY].version == 4


def test_a_delete_that_meets_a_load_deletes_what_was_stored_and_what_was_to_become_of_it() -> None:
    desk = stored_desk(1, 2)
    desk.store_is_stuck = True
    desk.say(b"a", m.Open("s", "mic", "audio", 3, 2))
    desk.say(b"b", m.Delete(1, "s"))
    desk.store_is_stuck = False
    desk.work(0.1)
    assert [deleted.existed for deleted in desk.heard(b"b", m.Deleted)] == [True]
    assert "not_open" in [code for code, _ in desk.codes(b"a")]
    assert (desk.dispatcher.engine.sessions, desk.disk.records, desk.disk.history) == ({}, {}, {})


def test_what_waits_behind_a_delete_that_meets_a_load_comes_after_it() -> None:
    desk = stored_desk(1, 2)
    desk.store_is_stuck = True
    desk.say(b"a", m.Open("s", "mic", "audio", 3, 2))
    desk.say(b"b", m.Delete(1, "s"), m.Open("s", "other", "audio", 1))
    desk.publish(b"b", "s", 1, stream="mic")
    desk.store_is_stuck = False
    desk.work(0.1)
    assert "not_open" in [code for code, _ in desk.codes(b"a")]
    told = desk.all_heard(b"b")
    assert [message.existed for message in told if isinstance(message, m.Deleted)] == [True]
    assert [message.stream for message in told if isinstance(message, m.Opened)] == ["other"]
    assert [(message.code, message.stream) for message in told if isinstance(message, m.Nack)] == [("not_open", "mic")]
    assert list(desk.dispatcher.engine.sessions[KEY].streams) == ["other"]


def test_an_open_behind_a_delete_finds_nothing_and_says_that_the_session_begins_anew() -> None:
    desk = stored_desk(1, 2)
    desk.store_is_stuck = True
    desk.say(b"b", m.Delete(1, "s"))
    desk.say(b"a", m.Open("s", "mic", "audio", 3, known_durable=2))
    desk.store_is_stuck = False
    desk.work(0.1)
    told = desk.all_heard(b"a")
    assert [message.code for message in told if isinstance(message, m.Nack)] == ["session_reset"]
    assert [message.version for message in told if isinstance(message, m.Opened)] == [0]


def test_deleting_what_is_not_there_says_so() -> None:
    desk = stored_desk(1)
    desk.say(b"a", m.Delete(1, "nobody"))
    desk.say(b"a", m.Delete(2, "s"), m.Delete(3, "s"))
    assert [(deleted.request, deleted.existed) for deleted in desk.heard(b"a", m.Deleted)] == [
        (1, False),
        (2, True),
        (3, False),
    ]


def test_a_query_that_meets_a_load_sees_the_session_that_came_meanwhile() -> None:
    desk = stored_desk(1, 2)
    desk.store_is_stuck = True
    desk.say(b"a", m.Open("s", "mic", "audio", 3, 2))
    desk.say(b"b", m.Query(1, "s"))
    desk.store_is_stuck = False
    desk.publish(b"a", "s", 3)
    assert desk.heard(b"b", m.State)[-1].state["version"] == 2
    desk.say(b"b", m.Query(2, "s"))
    assert desk.heard(b"b", m.State)[-1].state["version"] == 3


def test_the_history_has_what_is_stored_and_what_is_not_saved_yet_once_each() -> None:
    desk = stored_desk(1, 2)
    desk.say(b"a", m.Open("s", "mic", "audio", 3, 2))
    desk.store_is_stuck = True
    desk.publish(b"a", "s", 3, 4)
    desk.say(b"a", m.End("s", "mic", 4))
    desk.work(0.1)  # 3 and 4 are on their way to the store
    desk.say(b"a", m.Open("s", "mic", "audio", 5, 2))
    desk.publish(b"a", "s", 5)
    desk.say(b"a", m.End("s", "mic", 5))
    desk.say(b"b", m.QueryHistory(1, "s"), m.QueryHistory(2, "s", 0.15, 0.45), m.QueryHistory(3, "s", limit=2))
    desk.run_jobs()
    desk.work()
    rows = {past.request: [row["version"] for row in past.rows] for past in desk.heard(b"b", m.History)}
    assert rows == {1: [1, 2, 3, 4, 5], 2: [2, 3, 4], 3: [4, 5]}


def test_what_waits_for_loads_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MAX_WAITING_BYTES", 1000)
    desk = Desk()
    desk.hello(b"a")
    desk.store_is_stuck = True
    for n in range(6):
        desk.say(b"a", replace(OPEN, session=f"s{n}"))
    (*_, last) = nacks = desk.heard(b"a", m.Nack)
    assert [(nack.code, nack.session) for nack in nacks] == [
        ("slow_down", "s3"),
        ("slow_down", "s4"),
        ("slow_down", "s5"),
    ]
    assert last.retry_after_ms > 0
    desk.store_is_stuck = False
    desk.work(0.1)
    desk.say(b"a", replace(OPEN, session="s5"))
    assert len(desk.heard(b"a", m.Opened)) == 4


def test_a_session_that_cannot_be_resident_now_is_told_to_come_back() -> None:
    desk = Desk(quota=QuotaPolicy(max_sessions=1))
    desk.hello(b"a")
    desk.say(b"a", OPEN, replace(OPEN, session="other"))
    (nack,) = desk.heard(b"a", m.Nack)
    assert (nack.code, nack.session, nack.retry_after_ms > 0) == ("slow_down", "other", True)


def test_a_session_whose_group_is_lost_while_it_is_loaded_is_left_to_its_new_owner() -> None:
    desk = stored_desk(1)
    desk.store_is_stuck = True
    desk.say(b"a", m.Open("s", "mic", "audio", 2, 1))
    desk.dispatcher.own({})
    desk.store_is_stuck = False
    desk.work(0.1)
    assert desk.codes(b"a") == [("not_owner", 2)]
    assert desk.dispatcher.engine.sessions == {}


def test_what_is_settled_of_a_group_that_is_given_up_is_written_without_delay() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", OPEN)
    desk.work(3.0)  # the session is no longer new
    dispatcher, group = desk.dispatcher, key_group(KEY)
    dispatcher.saver._next_s = desk.now_s + 60.0  # as after a write that took long
    desk.store_is_stuck = True
    desk.publish(b"a", "s", *range(1, 9))
    assert dispatcher.saver.due_s is not None
    assert not desk.jobs
    dispatcher.release([group])
    desk.store_is_stuck = False
    desk.work()
    assert set(dispatcher.owned.released) == {group}
    assert desk.store.load([KEY])[KEY].version > 0


def test_a_query_that_waits_for_the_store_while_its_group_is_given_up_is_sent_to_the_next_owner() -> None:
    desk = stored_desk(1)
    desk.store_is_stuck = True
    desk.say(b"a", m.Query(7, "s", after_version=99, wait_ms=30_000))
    desk.dispatcher.release([key_group(KEY)])
    desk.store_is_stuck = False
    desk.work(0.1)
    (refusal,) = desk.heard(b"a", m.Nack)
    assert (refusal.request, refusal.code) == (7, "not_owner")


def test_an_order_to_give_up_what_is_given_up_already_looks_at_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes with every beat, four times a second: a million sessions take a second to look at."""
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", OPEN)
    desk.store_is_stuck = True
    dispatcher, group = desk.dispatcher, key_group(KEY)
    dispatcher.engine.dirty[KEY] = None
    dispatcher.engine.sessions[KEY].dirty = True
    dispatcher.release([group])
    looked_at: list[SessionKey] = []

    def noted(key: SessionKey) -> int:
        looked_at.append(key)
        return key_group(key)

    monkeypatch.setattr("runtime.dispatch.handover.key_group", noted)
    dispatcher.release([group])
    dispatcher.release([])
    assert not looked_at
    desk.store_is_stuck = False
    desk.work(1.0)
    assert set(dispatcher.owned.released) == {group}
    assert KEY not in dispatcher.engine.sessions


def test_a_write_of_a_worker_that_was_replaced_is_fenced_and_never_acknowledged() -> None:
    old = Desk()
    old.hello(b"a")
    old.say(b"a", OPEN)
    new = old.crash()
    old.publish(b"a", "s", 1, 2)
    old.say(b"a", m.End("s", "mic", 2))
    old.work(3.0)
    assert old.dispatcher.store.health.fenced
    assert all(ack.durable == 0 for message in old.heard(b"a", m.Ack) for ack in message.streams)
    new.hello(b"a")
    new.settle(b"a", "s", 1)
    assert new.store.load([KEY])[KEY].version == 1


def test_a_worker_whose_store_was_emptied_is_fenced_until_its_groups_are_in_it_again() -> None:
    """The controller gives them at the epochs that they had: to the worker nothing has changed."""
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", OPEN)
    desk.disk.groups.clear()
    desk.publish(b"a", "s", 1)
    desk.say(b"a", m.End("s", "mic", 1))
    desk.work(3.0)
    assert desk.dispatcher.store.health.fenced
    desk.store.claim("w", dict.fromkeys(range(KEY_GROUPS), 0))
    desk.work(3.0)
    assert not desk.dispatcher.store.health.fenced
    assert desk.store.load([KEY])[KEY].version == 1


def test_queries_that_wait_are_bounded_and_those_that_were_answered_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(questions, "MAX_WAITING", 2)
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", OPEN)
    for number in range(1, 8):
        desk.say(b"a", m.Query(number, "s", after_version=number, wait_ms=60_000))
        assert desk.heard(b"a", m.State) == [], "it waits"
        desk.publish(b"a", "s", number)
        assert [state.timed_out for state in desk.heard(b"a", m.State)] == [False]
    desk.say(b"a", *(m.Query(n, "s", after_version=99, wait_ms=60_000) for n in (11, 12, 13)))
    assert [(state.request, state.timed_out) for state in desk.heard(b"a", m.State)] == [(13, True)]


def test_a_query_may_wait_for_a_session_that_does_not_exist_yet() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", m.Query(1, "s", after_version=1, wait_ms=5000), m.Query(2, "t", after_version=1, wait_ms=100))
    desk.say(b"a", OPEN)
    desk.publish(b"a", "s", 1)
    assert [state.request for state in desk.heard(b"a", m.State)] == [1]
    desk.work(0.2)
    assert [(nack.code, nack.request) for nack in desk.heard(b"a", m.Nack)] == [("not_found", 2)]


def test_only_the_session_with_the_damaged_record_is_refused_and_it_recovers_with_it() -> None:
    desk = stored_desk(1, 2)
    good = desk.disk.records[KEY]
    desk.disk.records[KEY] = good[:-1] + bytes([good[-1] ^ 1])
    desk.say(b"a", m.Open("s", "mic", "audio", 3, 2), replace(OPEN, session="other"))
    desk.work(0.1)
    told = desk.all_heard(b"a")
    assert [(message.code, message.session) for message in told if isinstance(message, m.Nack)] == [
        ("unavailable", "s")
    ]
    assert [message.session for message in told if isinstance(message, m.Opened)] == ["other"]
    desk.disk.records[KEY] = good
    desk.say(b"a", m.Open("s", "mic", "audio", 3, 2))
    assert [opened.version for opened in desk.heard(b"a", m.Opened)] == [2]
    assert key_group(KEY) in desk.dispatcher.owned.epochs


@pytest.mark.parametrize(
    "misfit", [{"outputs": ()}, {"shares": (0.5,) * 9}, {"context_KD": np.ones((3, 9), np.float32)}], ids=str
)
def test_a_record_that_does_not_fit_the_model_costs_its_own_session_and_nobody_the_worker(misfit: Any) -> None:
    desk = stored_desk(1, 2)
    record = desk.store.load([KEY])[KEY]
    desk.store.save({key_group(KEY): desk.dispatcher.owned.epochs[key_group(KEY)]}, [replace(record, **misfit)])
    desk.say(b"a", m.Query(1, "s"), m.Open("s", "mic", "audio", 3, 2), replace(OPEN, session="t"))
    desk.work(0.1)
    told = desk.all_heard(b"a")
    assert [(nack.code, nack.request) for nack in told if isinstance(nack, m.Nack)] == [
        ("unavailable", 1),
        ("unavailable", 0),
    ]
    assert [message.session for message in told if isinstance(message, m.Opened)] == ["t"]
