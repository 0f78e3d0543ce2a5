"""Every reason to refuse: its code reaches the sender, and nobody and nothing else is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf, nan

import msgpack
import numpy as np
import pytest

from runtime import messages as m
from runtime.dispatch import dispatcher
from runtime.dispatch.questions import MAX_AT_STORE, Question
from runtime.keys import SessionKey
from runtime.wire import PROTOCOL_VERSION, encode
from tests.runtime.dispatch.desk import FRAMES, Desk
from tests.runtime.toy_model import POISON


def frames_of(message: m.Message) -> list[bytes]:
    return [bytes(frame) for frame in encode(message)]


def one_segment(frames: object, event_time_s: float = 0.1, sequence: int = 1) -> m.Segments:
    entry = m.SegmentEntry(sequence, event_time_s, np.asarray(frames, np.float32))
    return m.Segments((m.StreamSegments("s", "mic", 1, (entry,)),))


def opened_desk() -> Desk:
    desk = Desk()
    desk.hello(b"a")
    desk.hello(b"neighbour")
    desk.say(b"a", m.Open("s", "mic", "audio", 1))
    desk.all_heard(b"a")
    return desk


NOT_A_MESSAGE = {
    "no frames": ([], "malformed"),
    "an empty frame": ([b""], "malformed"),
    "not msgpack": ([b"\xc1\xff"], "malformed"),
    "a header that is cut off": ([frames_of(m.Ping(7))[0][:-1]], "malformed"),
    "a map instead of an array": ([msgpack.packb({"version": 1})], "malformed"),
    "another version": ([msgpack.packb([PROTOCOL_VERSION + 1, "ping", 1])], "version"),
    "an unknown message": ([msgpack.packb([PROTOCOL_VERSION, "sing"])], "malformed"),
    "a field too few": ([msgpack.packb([PROTOCOL_VERSION, "open", "s", "mic"])], "malformed"),
    "a field of another type": ([msgpack.packb([PROTOCOL_VERSION, "ping", "seven"])], "malformed"),
    "a tensor too many": ([*frames_of(m.Ping(7)), b"1234"], "malformed"),
    "a truncated tensor": ([*frames_of(one_segment(FRAMES))[:1], b"12345"], "malformed"),
    "no tensor": (frames_of(one_segment(FRAMES))[:1], "malformed"),
    "a message of the worker's side": (frames_of(m.Deleted(1, True)), "malformed"),
}


@pytest.mark.parametrize(("frames", "code"), NOT_A_MESSAGE.values(), ids=NOT_A_MESSAGE)
def test_what_is_no_message_is_told_its_sender_who_may_go_on(frames: Sequence[bytes], code: str) -> None:
    desk = opened_desk()
    desk.deliver(b"a", frames)
    desk.work()
    assert desk.codes(b"a") == [(code, 0)]
    assert desk.all_heard(b"neighbour")[1:] == []
    desk.publish(b"a", "s", 1)
    assert desk.heard(b"a", m.Ack)[-1].streams[-1].fused == 1


BAD_SEGMENTS = {
    "too narrow": (one_segment(np.ones((2, 2))), "bad_segment"),
    "too wide": (one_segment(np.ones((2, 4))), "bad_segment"),
    "NaN": (one_segment([[0, nan, 0]]), "bad_segment"),
    "infinite": (one_segment([[0, -inf, 0]]), "bad_segment"),
    "empty": (one_segment(np.ones((0, 3))), "bad_segment"),
    "longer than the model takes": (one_segment(np.ones((9, 3))), "bad_segment"),
    "far in the future": (one_segment(FRAMES, event_time_s=3e6), "far_future"),
    "one that the model raises at": (one_segment(np.full((1, 3), POISON)), "step_failed"),
    "one that gives no number": (one_segment(np.full((1, 3), -POISON)), "step_failed"),
}


@pytest.mark.parametrize(("bad", "code"), BAD_SEGMENTS.values(), ids=BAD_SEGMENTS)
def test_a_bad_segment_is_refused_alone_and_counts_as_done(bad: m.Segments, code: str) -> None:
    desk = opened_desk()
    with np.errstate(all="ignore"):
        desk.say(b"a", bad)
    assert desk.codes(b"a") == [(code, 1)]
    desk.publish(b"a", "s", 2, 3)
    last = desk.heard(b"a", m.Ack)[-1].streams[-1]
    assert (last.fused, last.version) == (3, 2)
    desk.work(3.0)
    assert desk.heard(b"a", m.Ack)[-1].streams[-1].durable == 3


BAD_OPENS = {
    "unknown modality": (m.Open("s", "x", "smell", 1), "unknown_modality"),
    "another modality than before": (m.Open("s", "mic", "imu", 1), "unknown_modality"),
    "empty session": (m.Open("", "x", "audio", 1), "bad_id"),
    "empty stream": (m.Open("s", "", "audio", 1), "bad_id"),
    "too long": (m.Open("s" * 201, "x", "audio", 1), "bad_id"),
    "too long in bytes": (m.Open("é" * 101, "x", "audio", 1), "bad_id"),
    "control character": (m.Open("a\nb", "x", "audio", 1), "bad_id"),
    "number before the first": (m.Open("s", "x", "audio", 0), "malformed"),
}


@pytest.mark.parametrize(("message", "code"), BAD_OPENS.values(), ids=BAD_OPENS)
def test_a_stream_that_cannot_be_opened_says_why(message: m.Open, code: str) -> None:
    desk = opened_desk()
    desk.say(b"a", message)
    (nack,) = desk.heard(b"a", m.Nack)
    assert (nack.code, nack.session, nack.stream) == (code, message.session, message.stream)
    assert nack.text
    assert list(desk.dispatcher.engine.sessions) == [("default", "s")]


@pytest.mark.parametrize("question", [m.Query(1, "a\0b"), m.QueryHistory(1, ""), m.Delete(1, "x" * 201)])
def test_a_question_about_no_possible_session_is_refused_by_its_number(question: m.Query) -> None:
    desk = opened_desk()
    desk.say(b"a", question)
    assert [(nack.code, nack.request) for nack in desk.heard(b"a", m.Nack)] == [("bad_id", 1)]


def test_a_question_about_no_session_is_answered_by_not_found() -> None:
    desk = opened_desk()
    desk.say(b"a", m.Query(1, "nobody"))
    assert [(nack.code, nack.request) for nack in desk.heard(b"a", m.Nack)] == [("not_found", 1)]


@pytest.mark.parametrize(
    "question", [m.QueryHistory(0, "s"), m.ListSessions(0), m.Query(0, "stored"), m.Delete(0, "s")]
)
def test_a_tenant_that_asks_more_than_the_store_answers_is_slowed_and_no_other(question: Question) -> None:
    desk = opened_desk()
    desk.hello(b"r", "rival")
    desk.settle(b"a", "s", 1)
    desk.all_heard(b"a")
    desk.store_is_stuck = True
    desk.say(b"a", *(m.QueryHistory(number, "s") for number in range(1, MAX_AT_STORE + 1)))
    assert desk.all_heard(b"a") == []
    desk.say(b"a", replace(question, request=1000), m.Query(1001, "s"))
    assert [message.request for message in desk.heard(b"a", m.State)] == [1001], "what is in memory is answered"
    desk.say(b"a", replace(question, request=1000))
    (nack,) = desk.heard(b"a", m.Nack)
    assert (nack.code, nack.request, nack.retry_after_ms > 0) == ("slow_down", 1000, True)
    desk.say(b"r", m.ListSessions(1))
    assert desk.heard(b"r", m.Nack) == []

    desk.say(b"a", *(m.QueryHistory(number, "s") for number in range(MAX_AT_STORE)))
    first, *_, last = desk.heard(b"a", m.Nack)
    assert last.retry_after_ms == 2 * first.retry_after_ms, "they do not all come again at once"

    desk.disk.away = "gone"  # what fails is done as well
    desk.store_is_stuck = False
    desk.work()
    desk.disk.away = ""
    desk.all_heard(b"a")
    desk.say(b"a", replace(question, request=1000))
    assert not [nack for nack in desk.heard(b"a", m.Nack) if nack.code == "slow_down"]


def test_deletions_that_wait_for_a_load_do_not_all_go_to_the_store_after_it() -> None:
    desk = opened_desk()
    desk.settle(b"a", "s", 1)
    desk.dispatcher.engine.forget(SessionKey("default", "s"))
    desk.store_is_stuck = True
    desk.all_heard(b"a")
    desk.say(b"a", m.Open("s", "mic", "audio", 2), *(m.Delete(number, "s") for number in range(1, 2 * MAX_AT_STORE)))
    desk.run_jobs()
    desk.work()
    assert len(desk.jobs) == MAX_AT_STORE
    assert [nack.code for nack in desk.heard(b"a", m.Nack) if nack.request] == ["slow_down"] * (MAX_AT_STORE - 1)


def test_queries_whose_time_is_over_together_do_not_all_go_to_the_store_at_once() -> None:
    desk = opened_desk()
    questions = [m.Query(number, f"nobody-{number}", 1, wait_ms=5000) for number in range(1, 3 * MAX_AT_STORE + 1)]
    for start in range(0, len(questions), MAX_AT_STORE):
        desk.say(b"a", *questions[start : start + MAX_AT_STORE])
    desk.all_heard(b"a")
    desk.store_is_stuck = True
    desk.work(5.5)
    assert len(desk.jobs) == MAX_AT_STORE
    for _ in range(6):
        desk.run_jobs()
        desk.work(0.1)
        assert len(desk.jobs) <= MAX_AT_STORE
    answers = desk.heard(b"a", m.Nack)
    assert [nack.code for nack in answers] == ["not_found"] * len(questions)
    assert sorted(nack.request for nack in answers) == [question.request for question in questions]


@pytest.mark.parametrize(
    ("hello", "code"), [(m.Hello(""), "bad_id"), (m.Hello("c", "a/b"), "bad_id"), (m.Hello("c\x7f"), "bad_id")]
)
def test_a_client_or_a_tenant_needs_a_possible_name(hello: m.Hello, code: str) -> None:
    desk = Desk()
    desk.say(b"a", hello)
    assert desk.codes(b"a") == [(code, 0)]
    desk.say(b"a", m.Ping(1))
    assert desk.codes(b"a") == [("hello_first", 0)]


def test_one_connection_too_many_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "MAX_PEERS", 2)
    desk = Desk()
    for who in (b"1", b"2", b"3"):
        desk.hello(who)
    (nack,) = desk.heard(b"3", m.Nack)
    assert (nack.code, nack.retry_after_ms > 0) == ("slow_down", True)
    desk.say(b"1", m.Goodbye())
    desk.hello(b"3")
    assert len(desk.heard(b"3", m.Welcome)) == 1


def test_a_connection_silent_for_long_is_forgotten_and_must_say_hello_again() -> None:
    desk = opened_desk()
    desk.work(dispatcher.PEER_TIMEOUT_S + 1)
    desk.say(b"a", m.Ping(1))
    assert desk.codes(b"a") == [("hello_first", 0)]


def test_what_the_worker_was_told_by_a_client_of_no_group_of_its_is_sent_away() -> None:
    desk = opened_desk()
    desk.dispatcher.own({})
    desk.all_heard(b"a")
    desk.say(b"a", m.Open("s", "mic", "audio", 1), m.End("s", "mic"), m.Delete(1, "s"), replace(m.Query(2, "s")))
    assert [nack.code for nack in desk.heard(b"a", m.Nack)] == ["not_owner"] * 4
