"""One connection as a state machine: when it is welcomed, refused, lost."""

from __future__ import annotations

from math import inf

import pytest

from runtime import messages as m
from runtime.client.link import HELLO_AGAIN_S, LOST_AFTER_S, PING_EVERY_S, Identity, Link

WELCOME = m.Welcome("w", "first", "acme", {}, 8, 1 << 20, 1 << 20)


def test_a_token_that_is_no_text_is_refused_at_once() -> None:
    """A worker cannot read such a hello: its client would wait for ever."""
    with pytest.raises(TypeError):
        Identity("robot", token=None)  # type: ignore[arg-type]  # as who checks no types may


class Line:
    """A link and the time, told by hand."""

    def __init__(self) -> None:
        self.link = Link(Identity("robot", "acme", "s3cret"))
        self.now_s = 50.0
        self.link.connected(self.now_s)

    def pass_time(self, seconds: float) -> list[m.ClientMessage]:
        """What the link wants to send in that time."""
        until_s, sent = self.now_s + seconds, self.sent()
        while self.link.wake_at_s <= until_s and not self.link.is_lost:
            self.now_s = max(self.now_s, self.link.wake_at_s)
            self.link.tick(self.now_s)
            sent += self.sent()
        self.now_s = until_s
        return sent

    def sent(self) -> list[m.ClientMessage]:
        sent = []
        while (message := self.link.outgoing()) is not None:
            sent.append(message)
        return sent

    def hear(self, message: m.Message) -> None:
        self.link.receive(message, self.now_s)


def test_hello_comes_first_with_name_tenant_and_token() -> None:
    assert Line().sent() == [m.Hello("robot", "acme", "s3cret")]


def test_a_welcomed_connection_is_asked_every_second_whether_it_lives() -> None:
    line = Line()
    line.sent()
    line.hear(WELCOME)
    nonces = []
    for _ in range(5):
        (ping,) = line.pass_time(PING_EVERY_S)
        assert isinstance(ping, m.Ping)
        nonces.append(ping.nonce)
        line.hear(m.Pong(ping.nonce, "first"))
    assert nonces == [1, 2, 3, 4, 5]
    assert not line.link.is_lost


def test_silence_counts_from_the_first_question_that_was_not_answered() -> None:
    line = Line()
    line.hear(WELCOME)
    line.pass_time(PING_EVERY_S + LOST_AFTER_S - 0.01)
    assert not line.link.is_lost
    line.pass_time(0.02)
    assert line.link.is_lost


def test_a_lost_connection_has_nothing_more_to_do() -> None:
    """Where no worker is to be had for the next one, its driver would wake up without end."""
    line = Line()
    line.hear(WELCOME)
    line.pass_time(PING_EVERY_S + LOST_AFTER_S + 0.01)
    line.sent()
    assert line.link.wake_at_s == inf
    line.link.tick(line.now_s + 60.0)
    assert line.sent() == []
    line.link.connected(line.now_s + 60.0)
    assert line.link.wake_at_s == line.now_s + 60.0 + PING_EVERY_S


def test_any_message_is_a_sign_of_life() -> None:
    line = Line()
    line.hear(WELCOME)
    for _ in range(20):
        line.pass_time(PING_EVERY_S)
        line.hear(m.Ack(()))
    assert not line.link.is_lost


def test_a_hello_that_is_never_answered_is_given_up() -> None:
    line = Line()
    line.pass_time(LOST_AFTER_S + 0.01)
    assert line.link.is_lost


def test_a_welcome_that_was_lost_is_found_out_by_the_next_ping() -> None:
    line = Line()
    line.sent()
    (ping,) = line.pass_time(PING_EVERY_S)
    assert isinstance(ping, m.Ping)
    line.hear(m.Nack("hello_first", "who are you"))
    assert line.link.is_lost


@pytest.mark.parametrize("code", ["unauthorised", "bad_id", "version"])
def test_a_refused_hello_says_why_and_is_said_again_after_a_while(code: str) -> None:
    """Tokens change while workers run; until then nothing else is sent."""
    line = Line()
    (hello,) = line.sent()
    for _ in range(3):
        line.hear(m.Nack(code, "no"))
        assert line.link.refusal == m.Nack(code, "no")
        assert line.pass_time(HELLO_AGAIN_S - 0.1) == []
        assert line.pass_time(0.2) == [hello]
    line.hear(WELCOME)
    assert line.link.refusal is None
    assert line.link.is_welcome


def test_who_was_refused_says_one_hello_on_each_connection_until_it_is_answered() -> None:
    line = Line()
    (hello,) = line.sent()
    line.hear(m.Nack("unauthorised", "no"))
    assert line.pass_time(HELLO_AGAIN_S + LOST_AFTER_S - 0.1) == [hello]
    line.pass_time(0.2)
    assert line.link.is_lost
    line.link.connected(line.now_s)
    assert line.pass_time(LOST_AFTER_S - 0.1) == [hello]


def test_a_worker_that_has_refused_and_answers_no_more_is_lost() -> None:
    line = Line()
    line.hear(m.Nack("unauthorised", "no"))
    line.pass_time(HELLO_AGAIN_S + LOST_AFTER_S + 0.1)
    assert line.link.is_lost


def test_a_worker_with_too_many_connections_is_asked_again_on_another_one() -> None:
    line = Line()
    line.sent()
    line.hear(m.Nack("slow_down", "10000 connections are open", retry_after_ms=1000))
    assert line.link.refusal is None
    line.pass_time(PING_EVERY_S)
    line.hear(m.Nack("hello_first", "who are you"))
    assert line.link.is_lost
    line.link.connected(line.now_s)
    line.hear(WELCOME)
    assert line.link.welcome == WELCOME


def test_a_refusal_is_taken_back_by_a_welcome() -> None:
    line = Line()
    line.hear(m.Nack("unauthorised", "the token is unknown"))
    line.link.connected(line.now_s)
    line.hear(WELCOME)
    assert (line.link.refusal, line.link.welcome) == (None, WELCOME)


def test_another_incarnation_behind_the_same_connection_ends_it() -> None:
    line = Line()
    line.hear(WELCOME)
    line.hear(m.Pong(1, "second"))
    assert line.link.is_lost


def test_nothing_of_the_last_connection_holds_on_the_next() -> None:
    line = Line()
    line.hear(WELCOME)
    line.pass_time(PING_EVERY_S)
    line.link.lose()
    line.link.connected(line.now_s)
    assert (line.link.is_lost, line.link.welcome) == (False, None)
    assert line.sent() == [m.Hello("robot", "acme", "s3cret")], "and no ping that was meant for the last one"
