"""Several workers, one client: who gets what, and what happens when that changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import pytest

from runtime import messages as m
from runtime.client.fleet import HOME, Fleet, LaneT
from runtime.client.link import HELLO_AGAIN_S, Identity
from runtime.client.publisher_account import PublisherPolicy
from runtime.client.publisher_core import PublisherCore
from runtime.client.publisher_fleet import PublisherFleet
from runtime.client.state_core import StateCore
from runtime.client.state_fleet import StateFleet
from runtime.keys import KEY_GROUPS, SessionKey, key_group

FRAMES = np.ones((1, 3), np.float32)
MessageT = TypeVar("MessageT")
A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"


def in_group(want: Iterable[int]) -> str:
    """A session whose key group is one of these."""
    wanted = set(want)
    return next(f"s{n}" for n in range(100_000) if key_group(SessionKey("default", f"s{n}")) in wanted)


LOW, HIGH = range(512), range(512, KEY_GROUPS)
LEFT, RIGHT = in_group(LOW), in_group(HIGH)


def table(version: int, **groups_of: Iterable[int]) -> m.Routes:
    endpoints = {"a": A, "b": B, "c": C}
    return m.Routes(version, [{"endpoint": endpoints[name], "groups": list(of)} for name, of in groups_of.items()])


def welcome() -> m.Welcome:
    return m.Welcome("w", "i", "default", {}, 64, 1 << 20, 1 << 20)


def connect(fleet: Fleet[LaneT], now_s: float = 0.0) -> None:
    """Everyone that should be connected is, and welcomed."""
    for lane in fleet.lanes.values():
        if lane.link.welcome is None:
            lane.connected(now_s)
            fleet.receive(lane, welcome(), now_s)
            while lane.outgoing(now_s):
                pass


def publisher(*routes: m.Routes) -> PublisherFleet:
    fleet = PublisherFleet(Identity("me"), PublisherPolicy())
    fleet.home.connected(0.0)
    fleet.located(A)
    fleet.receive(fleet.home, welcome(), 0.0)
    for one in routes:
        fleet.receive(fleet.home, one, 0.0)
    connect(fleet)
    return fleet


def said(lane: PublisherCore | StateCore, kind: type[MessageT]) -> list[MessageT]:
    messages: list[object] = []
    while (message := lane.outgoing(1.0)) is not None:
        messages.append(message)
    return [message for message in messages if isinstance(message, kind)]


def publish(fleet: PublisherFleet, session: str) -> None:
    fleet.publish(session, "left", "imu", FRAMES, 1.0, 1.0)


def test_without_a_table_everything_goes_home() -> None:
    fleet = publisher()
    publish(fleet, LEFT)
    publish(fleet, RIGHT)
    assert list(fleet.lanes) == [HOME]
    assert fleet.home.sessions == {LEFT, RIGHT}


def test_each_session_goes_to_its_worker_and_home_is_one_of_them() -> None:
    fleet = publisher(table(5, a=LOW, b=HIGH))
    publish(fleet, LEFT)
    publish(fleet, RIGHT)
    assert (fleet.home.sessions, fleet.lanes[B].sessions) == ({LEFT}, {RIGHT})


def test_a_client_of_one_worker_holds_a_second_lane_for_news_preferably_to_one_that_stands_by() -> None:
    assert set(publisher(table(5, a=LOW, b=HIGH, c=())).lanes) == {HOME, C}
    assert set(publisher(table(5, a=range(KEY_GROUPS))).lanes) == {HOME}


def test_a_stream_moves_with_its_session_and_is_opened_and_sent_again() -> None:
    fleet = publisher(table(5, a=range(KEY_GROUPS), b=()))
    publish(fleet, LEFT)
    said(fleet.home, m.Open)
    fleet.receive(fleet.home, m.Opened(LEFT, "left", 0, 0, 0), 1.0)
    assert said(fleet.home, m.Segments)
    fleet.receive(fleet.lanes[B], table(6, b=range(KEY_GROUPS)), 1.0)
    assert fleet.home.sessions == set()
    assert [message.session for message in said(fleet.lanes[B], m.Open)] == [LEFT]
    fleet.receive(fleet.lanes[B], m.Opened(LEFT, "left", 0, 0, 0), 1.0)
    assert said(fleet.lanes[B], m.Segments)
    fleet.receive(fleet.lanes[B], m.Ack((m.StreamAck(LEFT, "left", 1, 1, 1, 1),)), 1.0)
    assert (fleet.unfinished, fleet.stats.durable, fleet.stats.resent) == (0, 1, 1)


def test_an_old_table_changes_nothing() -> None:
    fleet = publisher(table(5, a=LOW, b=HIGH))
    publish(fleet, RIGHT)
    fleet.receive(fleet.home, table(4, a=range(KEY_GROUPS)), 1.0)
    assert fleet.lanes[B].sessions == {RIGHT}


def test_home_is_given_up_when_its_worker_has_left_and_found_again_by_the_table() -> None:
    fleet = publisher(table(5, a=LOW, b=HIGH))
    publish(fleet, LEFT)
    fleet.receive(fleet.lanes[B], table(6, b=range(KEY_GROUPS)), 1.0)
    assert fleet.home.link.is_lost
    assert fleet.next_home() == B
    fleet.located(B)
    assert set(fleet.lanes) == {HOME}, "one connection to a worker is enough"
    assert fleet.home.sessions == {LEFT}


def test_a_worker_that_does_not_know_yet_that_a_group_is_its_own_is_asked_again() -> None:
    fleet = publisher(table(5, a=LOW, b=HIGH))
    publish(fleet, RIGHT)
    lane = fleet.lanes[B]
    assert said(lane, m.Open)
    fleet.receive(lane, m.Nack("not_owner", "", RIGHT, "left", 1, 0, 50), 1.0)
    assert not lane.link.is_lost
    assert not said(lane, m.Open)
    fleet.tick(1.1)
    assert said(lane, m.Open)


def test_a_worker_that_says_what_it_serves_now_is_asked_again_at_once() -> None:
    fleet = publisher(table(5, a=LOW, b=HIGH))
    publish(fleet, RIGHT)
    lane = fleet.lanes[B]
    assert said(lane, m.Open)
    fleet.receive(lane, m.Nack("not_owner", "", RIGHT, "left", 1, 0, 50), 1.0)
    assert not said(lane, m.Open)
    fleet.receive(lane, table(5, a=LOW, b=HIGH), 1.0)
    assert said(lane, m.Open)
    fleet.tick(2.5)
    assert not fleet.home.link.is_lost, "nothing is strange any more"


def test_a_table_that_leads_astray_is_asked_for_again() -> None:
    fleet = publisher(table(5, a=LOW, b=HIGH))
    publish(fleet, RIGHT)
    for now_s in (1.0, 1.5, 2.1):
        fleet.receive(fleet.lanes[B], m.Nack("not_owner", "", RIGHT, "left", 1, 0, 50), now_s)
        fleet.tick(now_s)
    assert fleet.home.link.is_lost


def test_a_table_of_a_store_that_begins_anew_is_followed_once_the_old_one_leads_astray() -> None:
    fleet = publisher(table(5, a=LOW, b=HIGH))
    publish(fleet, RIGHT)
    fleet.receive(fleet.home, table(2, a=LOW, b=(), c=HIGH), 1.0)
    assert fleet.lanes[B].sessions == {RIGHT}, "it may be late"
    for now_s in (1.0, 1.5, 2.1):
        fleet.receive(fleet.lanes[B], m.Nack("not_owner", "", RIGHT, "left", 1, 0, 50), now_s)
        fleet.tick(now_s)
    assert fleet.lanes[C].sessions == {RIGHT}
    fleet.receive(fleet.home, table(3, a=LOW, b=HIGH, c=()), 3.0)
    assert fleet.lanes[B].sessions == {RIGHT}


def test_it_is_followed_as_well_once_a_worker_of_the_old_one_does_not_answer() -> None:
    fleet = publisher(table(5, a=LOW, b=HIGH))
    publish(fleet, RIGHT)
    fleet.receive(fleet.home, table(2, a=range(KEY_GROUPS)), 1.0)
    fleet.lanes[B].link.lose()
    fleet.tick(10.0)
    fleet.tick(11.1)
    assert fleet.home.sessions == {RIGHT}
    assert not fleet.home.link.is_lost


def test_a_table_that_was_late_is_forgotten_with_the_next() -> None:
    fleet = publisher(table(5, a=LOW, b=HIGH))
    publish(fleet, RIGHT)
    fleet.receive(fleet.home, table(4, a=range(KEY_GROUPS)), 1.0)
    fleet.receive(fleet.home, table(6, a=LOW, b=HIGH), 1.0)
    for now_s in (1.0, 1.5, 2.1):
        fleet.receive(fleet.lanes[B], m.Nack("not_owner", "", RIGHT, "left", 1, 0, 50), now_s)
        fleet.tick(now_s)
    assert fleet.lanes[B].sessions == {RIGHT}
    assert fleet.home.link.is_lost


def test_a_home_that_breaks_is_given_up_at_once() -> None:
    fleet = publisher()
    fleet.broken(10.0)
    fleet.tick(10.0)
    assert fleet.home.link.is_lost


def refuse_again_and_again(fleet: PublisherFleet, start_s: float, kept_s: Iterable[float]) -> None:
    """Each connection is refused at once, and kept for so long."""
    for patience_s in kept_s:
        fleet.connected(HOME, fleet.home, A, start_s)
        fleet.broken(start_s)
        assert fleet.wake_at_s <= start_s + patience_s
        fleet.tick(start_s + patience_s - 0.01)
        assert not fleet.home.link.is_lost
        start_s += patience_s + 0.01
        fleet.tick(start_s)
        assert fleet.home.link.is_lost


def test_a_home_that_is_refused_is_tried_ever_less_often_until_it_is_welcomed() -> None:
    fleet = PublisherFleet(Identity("me"), PublisherPolicy())
    refuse_again_and_again(fleet, 100.0, [0.2, 0.4, 0.8, 1.0, 1.0])
    fleet.connected(HOME, fleet.home, A, 200.0)
    fleet.receive(fleet.home, welcome(), 200.1)
    refuse_again_and_again(fleet, 300.0, [0.2, 0.4])


def test_a_home_that_is_refused_at_first_and_welcomed_then_is_kept() -> None:
    fleet = PublisherFleet(Identity("me"), PublisherPolicy())
    fleet.connected(HOME, fleet.home, A, 10.0)
    fleet.broken(10.0)
    fleet.receive(fleet.home, welcome(), 10.1)
    fleet.tick(10.3)
    assert not fleet.home.link.is_lost


def reader(*routes: m.Routes) -> StateFleet:
    fleet = StateFleet(Identity("me"))
    fleet.home.connected(0.0)
    fleet.located(A)
    fleet.receive(fleet.home, welcome(), 0.0)
    for one in routes:
        fleet.receive(fleet.home, one, 0.0)
    connect(fleet)
    return fleet


def test_a_question_moves_with_its_session_and_is_answered_once() -> None:
    fleet = reader(table(5, a=range(KEY_GROUPS), b=()))
    pending = fleet.ask(lambda request: m.Query(request, LEFT))
    fleet.receive(fleet.home, table(6, a=HIGH, b=LOW), 1.0)
    connect(fleet)
    (lane,) = (lane for name, lane in fleet.lanes.items() if name == B)
    assert pending in lane.pending
    fleet.receive(lane, m.State(pending.question.request, {"version": 3}), 1.0)
    assert pending.answer is not None


def test_who_follows_all_sessions_follows_them_at_every_worker_that_serves() -> None:
    fleet = reader(table(5, a=LOW, b=HIGH, c=()))
    subscription = fleet.subscribe("")
    connect(fleet)
    assert {name for name, lane in fleet.lanes.items() if fleet.is_used(lane)} == {HOME, B}
    for lane in (fleet.home, fleet.lanes[B]):
        fleet.receive(lane, m.Update({"session": "x", "version": 1}), 1.0)
    assert len(subscription.updates) == 2
    fleet.receive(fleet.home, table(6, a=LOW, c=HIGH), 1.0)
    assert set(fleet.lanes) == {HOME, C}
    fleet.unsubscribe(subscription)
    assert not fleet.is_used(fleet.home)


def test_the_log_tells_once_that_no_runtime_answers_and_once_that_it_does_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fleet = PublisherFleet(Identity("me"), PublisherPolicy())
    fleet.not_located("http://h:1 names no worker: refused")
    for now_s in (100.0, 104.9):
        fleet.tick(now_s)
    assert caplog.messages == []
    for now_s in (105.0, 200.0):
        fleet.tick(now_s)
    connect(fleet, 220.0)
    fleet.located(A)
    for now_s in (220.0, 221.0):
        fleet.tick(now_s)
    fleet.home.link.lose()
    fleet.tick(222.0)
    assert caplog.messages == [
        "no runtime answers for 5 s; it is tried on: http://h:1 names no worker: refused",
        "the runtime answers again, after 120 s",
    ]


def test_the_log_tells_that_a_publisher_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    fleet = PublisherFleet(Identity("me"), PublisherPolicy())
    fleet.home.connected(0.0)
    fleet.receive(fleet.home, m.Nack("unauthorised", "the token is unknown"), 0.0)
    fleet.tick(60.0)
    assert caplog.messages == [
        "the runtime refuses this publisher, nothing is sent: unauthorised: the token is unknown"
    ]


def test_a_worker_that_knows_a_new_token_later_than_the_others_gets_its_streams_then() -> None:
    fleet = publisher()
    fleet.receive(fleet.home, table(1, a=LOW, b=HIGH), 0.0)
    publish(fleet, RIGHT)
    lane = fleet.lane_of(RIGHT)
    lane.connected(1.0)
    said(lane, m.Hello)
    fleet.receive(lane, m.Nack("unauthorised", "the token is missing or unknown"), 1.0)
    fleet.tick(1.0 + HELLO_AGAIN_S)
    assert len(said(lane, m.Hello)) == 1
    fleet.receive(lane, welcome(), 1.0 + HELLO_AGAIN_S)
    assert [opened.session for opened in said(lane, m.Open)] == [RIGHT]


def test_a_publisher_that_is_refused_again_and_again_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    fleet = PublisherFleet(Identity("me"), PublisherPolicy())
    fleet.home.connected(0.0)
    for _ in range(3):
        fleet.receive(fleet.home, m.Nack("unauthorised", "the token is missing or unknown"), 0.0)
    assert caplog.text.count("refuses this publisher") == 1
