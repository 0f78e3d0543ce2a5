"""Subscribers and their credit: the newest state reaches them, they know what they missed, and nothing piles up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import messages as m
from runtime.dispatch import peers
from runtime.dispatch.peers import EVERY_SESSION, MAX_WAITING_SESSIONS, Peer, Peers, Waiting
from runtime.keys import SessionKey


def peer(credit: int = 0) -> Peer:
    one = Peers().welcome(b"a", "reader", "t", 0.0)
    one.grant(credit)
    return one


def state(session: str, version: int) -> dict[str, Any]:
    return {"session": session, "version": version}


def granted(one: Peer, credit: int) -> list[m.Update]:
    """What waited for this credit; whole states, for nobody asked for rows."""
    updates = []
    for update in one.grant(credit):
        assert isinstance(update, m.Update)
        updates.append(update)
    return updates


def test_with_credit_every_update_is_sent_at_once() -> None:
    one = peer(credit=3)
    sent = [one.offer("s", state("s", n), False) for n in range(3)]
    assert [update.state["version"] for update in sent if isinstance(update, m.Update)] == [0, 1, 2]
    assert one.offer("s", state("s", 3), False) is None


def test_without_credit_the_newest_state_waits_and_says_how_many_were_skipped() -> None:
    one = peer()
    for n in range(5):
        assert one.offer("s", state("s", n), False) is None
    (update,) = granted(one, 10)
    assert (update.state["version"], update.missed) == (4, 4)
    assert one.offer("s", state("s", 5), False) is not None, "the rest of the credit is there"


@pytest.mark.parametrize("of_all", [False, True])
def test_what_a_subscription_missed_is_not_told_to_the_next_one(of_all: bool) -> None:
    connected = Peers()
    one = connected.welcome(b"a", "reader", "t", 0.0)
    asked = EVERY_SESSION if of_all else "s0"
    connected.subscribe(one, asked)
    for n in range(MAX_WAITING_SESSIONS + 2):
        one.offer(f"s{n * of_all}", state(f"s{n * of_all}", n), False)
    connected.unsubscribe(one, asked)
    connected.subscribe(one, "s0")
    assert granted(one, 10) == []
    update = one.offer("s0", state("s0", 9), False)
    assert isinstance(update, m.Update)
    assert update.missed == 0


class Counted(OrderedDict[str, Waiting]):
    """It knows how often all of it was looked at."""

    looks = 0

    def __iter__(self) -> Iterator[str]:
        self.looks += 1
        return super().__iter__()


def test_a_connection_that_ends_with_thousands_of_subscriptions_holds_nobody_up() -> None:
    connected = Peers()
    one = connected.welcome(b"a", "reader", "t", 0.0)
    one.waiting = waiting = Counted()
    for n in range(100):
        connected.subscribe(one, f"s{n}")
        one.offer(f"s{n}", state(f"s{n}", n), False)
    connected.drop(b"a")
    assert (len(waiting), waiting.looks) == (0, 0)


def test_what_another_subscription_asks_for_waits_on() -> None:
    connected = Peers()
    one = connected.welcome(b"a", "reader", "t", 0.0)
    for session in ("s", "other"):
        connected.subscribe(one, session)
        one.offer(session, state(session, 1), False)
    connected.unsubscribe(one, "other")
    assert [update.state["session"] for update in granted(one, 10)] == ["s"]


def test_a_correction_that_was_skipped_marks_the_update_that_stands_for_it() -> None:
    one = peer()
    one.offer("s", state("s", 1), True)
    one.offer("s", state("s", 2), False)
    assert [update.correction for update in one.grant(1)] == [True]
    one.offer("s", state("s", 3), False)
    assert [update.correction for update in one.grant(1)] == [False]


def test_sessions_that_wait_take_turns_however_often_one_of_them_changes() -> None:
    one = peer()
    one.offer("busy", state("busy", 0), False)
    one.offer("quiet", state("quiet", 0), False)
    for n in range(1, 5):
        one.offer("busy", state("busy", n), False)
    assert [update.state["session"] for update in granted(one, 1)] == ["busy"]
    one.offer("busy", state("busy", 5), False)
    assert [update.state["session"] for update in granted(one, 1)] == ["quiet"]


def test_what_waits_is_bounded_and_what_was_given_up_is_told_with_the_next_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "MAX_WAITING_SESSIONS", 2)
    one = peer()
    one.offer("a", state("a", 0), False)
    for session in "abcd":
        one.offer(session, state(session, 1), False)
    assert list(one.waiting) == ["c", "d"]
    assert [(update.state["session"], update.missed) for update in granted(one, 5)] == [("c", 3), ("d", 0)]


def test_credit_is_bounded_and_never_taken_back() -> None:
    one = peer()
    one.grant(peers.MAX_CREDIT)
    one.grant(peers.MAX_CREDIT)
    one.grant(-7)
    assert one.credit == peers.MAX_CREDIT


@given(st.lists(st.tuples(st.sampled_from(["offer", "grant"]), st.integers(0, 3))))
def test_every_update_is_sent_or_counted_as_missed(steps: list[tuple[str, int]]) -> None:
    one, offered, accounted = peer(), 0, 0
    for step, n in steps:
        if step == "offer":
            offered += 1
            update = one.offer(str(n), state(str(n), offered), False)
            accounted += 1 + update.missed if update else 0
        else:
            accounted += sum(1 + update.missed for update in one.grant(n))
        assert one.credit >= 0
        assert not (one.credit and one.waiting), "nothing waits while there is credit"
    accounted += sum(1 + update.missed for update in one.grant(1000))
    assert accounted == offered


def test_who_follows_a_session_and_all_of_its_tenant_hears_of_it_once() -> None:
    register = Peers()
    both, every, other = (register.welcome(name, name.decode(), "t", 0.0) for name in (b"1", b"2", b"3"))
    stranger = register.welcome(b"4", "4", "another", 0.0)
    register.subscribe(both, "s")
    register.subscribe(both, "")
    register.subscribe(every, "")
    register.subscribe(other, "x")
    register.subscribe(stranger, "")
    assert register.subscribers(SessionKey("t", "s")) == [both, every]
    register.unsubscribe(every, "")
    register.drop(b"1")
    assert register.subscribers(SessionKey("t", "s")) == []
    assert register.subscribers(SessionKey("another", "s")) == [stranger]


def test_the_silent_are_dropped_and_those_who_spoke_are_not() -> None:
    register = Peers()
    for name in (b"1", b"2"):
        register.welcome(name, name.decode(), "t", 0.0)
    register.heard(b"1", 50.0)
    assert [peer.identity for peer in register.drop_silent(30.0)] == [b"2"]
    assert (register.heard(b"2", 60.0), len(register)) == (None, 1)


def test_a_connection_that_says_hello_again_starts_anew() -> None:
    register = Peers()
    first = register.welcome(b"1", "c", "t", 0.0)
    register.subscribe(first, "s")
    second = register.welcome(b"1", "c", "t", 1.0)
    assert register.subscribers(SessionKey("t", "s")) == []
    assert second.joined > first.joined
    assert register.owner(first.owner) is second
