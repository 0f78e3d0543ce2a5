"""Questions and subscriptions: asked again after a lost connection, answered once, and never buffered without bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from runtime import messages as m
from runtime.client.errors import Refused
from runtime.client.link import Identity
from runtime.client.state_core import CREDIT, TAP_CREDIT, Pending, StateCore
from runtime.wire import DecodeError

WELCOME = m.Welcome("w", "first", "default", {}, 8, 1 << 20, 1 << 20)


class Scene:
    def __init__(self, connected: bool = True) -> None:
        self.core = StateCore(Identity("reader"))
        self.now_s = 100.0
        if connected:
            self.connect()

    def connect(self) -> list[m.Message]:
        """What is sent on a new connection once it is welcome, behind the hello."""
        self.core.connected(self.now_s)
        assert [type(message) for message in self.sent()] == [m.Hello]
        self.hear(WELCOME)
        return self.sent()

    def sent(self) -> list[m.Message]:
        sent = []
        while (message := self.core.outgoing(self.now_s)) is not None:
            sent.append(message)
        return sent

    def hear(self, message: m.Message) -> None:
        self.core.receive(message, self.now_s)

    def update(self, session: str, version: int, missed: int = 0) -> None:
        self.hear(m.Update({"session": session, "version": version}, missed=missed))

    def ask(self, session: str = "s") -> Pending:
        return self.core.ask(lambda request: m.Query(request, session))


def credits(sent: list[m.Message]) -> int:
    """Updates granted by these messages."""
    granted = sum(message.updates for message in sent if isinstance(message, m.Credit))
    return granted + sum(message.credit for message in sent if isinstance(message, m.Subscribe))


# ---- questions ----


def test_a_question_is_sent_once_and_takes_its_own_answer() -> None:
    scene = Scene()
    first, second = scene.ask("a"), scene.ask("b")
    assert scene.sent() == [m.Query(1, "a"), m.Query(2, "b")]
    scene.hear(m.State(2, {"session": "b"}))
    assert (first.is_done, second.answer) == (False, m.State(2, {"session": "b"}))
    scene.hear(m.State(2, {"session": "again"}))
    scene.hear(m.State(99, {"session": "nobody asked"}))
    assert second.answer == m.State(2, {"session": "b"})


def test_a_question_waits_for_the_welcome() -> None:
    scene = Scene(connected=False)
    scene.ask()
    assert scene.sent() == []
    assert scene.connect() == [m.Query(1, "s")]


def test_what_was_not_answered_is_asked_again_on_the_next_connection() -> None:
    scene = Scene()
    answered, open_question = scene.ask("a"), scene.ask("b")
    scene.sent()
    scene.hear(m.State(1, {}))
    assert answered.is_done
    assert scene.connect() == [m.Query(2, "b")]
    scene.hear(m.State(2, {}))
    assert open_question.is_done


def test_a_question_refused_for_now_is_asked_again_after_the_time_named() -> None:
    scene = Scene()
    pending = scene.ask()
    scene.sent()
    scene.hear(m.Nack("unavailable", "the store is away", request=1, retry_after_ms=500))
    assert scene.core.wake_at_s <= scene.now_s + 0.5
    scene.now_s += 0.49
    scene.core.tick(scene.now_s)
    assert scene.sent() == []
    scene.now_s += 0.02
    scene.core.tick(scene.now_s)
    assert scene.sent() == [m.Query(1, "s")]
    assert not pending.is_done


def test_a_question_to_the_wrong_worker_is_taken_to_another() -> None:
    scene = Scene()
    scene.ask()
    scene.sent()
    scene.hear(m.Nack("not_owner", "moved", request=1, retry_after_ms=100))
    assert scene.core.link.is_lost
    assert scene.connect() == [m.Query(1, "s")]


def test_a_question_refused_for_good_raises() -> None:
    scene = Scene()
    pending = scene.ask()
    scene.hear(m.Nack("not_found", "no session 's'", request=1))
    assert isinstance(pending.error, Refused)
    assert pending.error.code == "not_found"


def test_a_client_that_is_not_welcome_fails_what_it_was_asked_and_what_it_will_be() -> None:
    scene = Scene(connected=False)
    before = scene.ask()
    scene.core.connected(scene.now_s)
    scene.hear(m.Nack("unauthorised", "the token is unknown"))
    after = scene.ask()
    for pending in (before, after):
        assert isinstance(pending.error, Refused)
        assert pending.error.code == "unauthorised"


def test_a_question_given_up_is_not_asked_again() -> None:
    scene = Scene()
    pending = scene.ask()
    scene.core.give_up(pending)
    scene.sent()
    assert scene.connect() == []


# ---- subscriptions ----


def test_a_subscription_grants_its_credit_and_each_update_read_grants_another() -> None:
    scene = Scene()
    subscription = scene.core.subscribe("s")
    assert scene.sent() == [m.Subscribe("s", CREDIT)]
    scene.update("s", 1)
    scene.update("s", 2)
    assert credits(scene.sent()) == 0, "nothing was read yet"
    update = scene.core.next_update(subscription)
    assert update is not None
    assert update.state["version"] == 1
    assert credits(scene.sent()) == 1


def test_subscriptions_are_made_again_on_the_next_connection_with_credit_for_what_is_not_waiting() -> None:
    scene = Scene()
    subscription = scene.core.subscribe("s")
    scene.sent()
    for version in range(10):
        scene.update("s", version)
    assert scene.connect() == [m.Subscribe("s", CREDIT - 10)]
    assert len(subscription.updates) == 10


@pytest.mark.parametrize("read", [lambda n: False, lambda n: True, lambda n: n % 3 == 0], ids=["none", "all", "some"])
def test_two_readers_of_one_session_cost_no_more_credit_than_two(read: Callable[[int], bool]) -> None:
    scene = Scene()
    eager, lazy = scene.core.subscribe("s"), scene.core.subscribe("s")
    granted = credits(scene.sent())
    received = 0
    for version in range(1000):
        if granted > received:
            scene.update("s", version)
            received += 1
        scene.core.next_update(eager)
        if read(version):
            scene.core.next_update(lazy)
        granted += credits(scene.sent())
        assert granted - received + len(eager.updates) + len(lazy.updates) <= 2 * CREDIT
    assert received == 1000, "a reader that reads nothing does not starve the other"


def test_an_update_that_a_slow_reader_has_no_room_for_is_skipped_and_counted() -> None:
    scene = Scene()
    scene.core.subscribe("other")
    slow = scene.core.subscribe("s")
    for version in range(CREDIT + 5):
        scene.update("s", version, missed=1)
    assert len(slow.updates) == CREDIT
    first, newest = slow.updates[0], slow.updates[-1]
    assert newest.state["version"] == CREDIT + 4
    assert first.state["version"] == 5
    assert sum(1 + update.missed for update in slow.updates) == 2 * (CREDIT + 5), "each one is seen or counted"


def test_a_subscription_to_all_sessions_and_one_to_a_session_both_get_its_updates() -> None:
    scene = Scene()
    every, one = scene.core.subscribe(""), scene.core.subscribe("s")
    scene.update("s", 1)
    scene.update("t", 1)
    assert (len(every.updates), len(one.updates)) == (2, 1)


def test_only_the_last_to_leave_a_session_unsubscribes_from_it() -> None:
    scene = Scene()
    first, second = scene.core.subscribe("s"), scene.core.subscribe("s")
    scene.sent()
    scene.core.unsubscribe(first)
    assert scene.sent() == []
    scene.core.unsubscribe(second)
    assert scene.sent() == [m.Unsubscribe("s")]


def test_updates_that_come_after_the_unsubscription_are_let_go_and_cost_the_others_nothing() -> None:
    scene = Scene()
    gone, other = scene.core.subscribe("s"), scene.core.subscribe("t")
    scene.core.unsubscribe(gone)
    granted = credits(scene.sent())
    for version in range(3 * CREDIT):
        scene.update("s", version)
        granted += credits(scene.sent()) - 1
        assert granted >= CREDIT, "the other can still be told"
    assert (len(gone.updates), len(other.updates)) == (0, 0)


def test_subscribing_and_leaving_over_and_over_does_not_pile_up_credit() -> None:
    scene = Scene()
    outstanding = 0
    for _ in range(100):
        subscription = scene.core.subscribe("s")
        outstanding += credits(scene.sent())
        scene.core.unsubscribe(subscription)
        scene.sent()
    assert outstanding <= CREDIT


# ---- recording ----


def test_a_tap_grants_credit_and_more_for_what_was_taken_and_again_on_the_next_connection() -> None:
    scene = Scene()
    scene.core.tap()
    assert scene.sent() == [m.Tap(TAP_CREDIT)]
    tapped = m.Tapped("s", "mic", "audio", 1, 0.0, 0.0, 0, np.zeros((1, 3), np.float32))
    for _ in range(3):
        scene.hear(tapped)
    assert scene.core.take_tapped() == [tapped] * 3
    assert scene.sent() == [m.Tap(3)]
    scene.hear(tapped)
    assert scene.connect() == [m.Tap(TAP_CREDIT - 1)]


# ---- updates in rows ----

SIGNATURE = {
    "name": "toy",
    "modalities": [{"name": "audio", "width": 2, "max_frames": 9}, {"name": "video", "width": 3, "max_frames": 9}],
    "heads": [{"name": "mood", "kind": "classification", "start": 0, "stop": 2, "labels": ["calm", "cross"]}],
}
ROW = m.UpdateRow(
    *("s", True, 3, 2, 1.5, 0, -inf, 0, -inf, 2, [1.5, -inf], b"\x0a", ""),
    live=np.array([0.25, 0.75, 1.0, 0.0, 0.5], np.float32),
    settled=np.zeros(5, np.float32),
)


def test_rows_are_asked_for_where_the_model_is_known_and_become_the_same_updates() -> None:
    scene = Scene(connected=False)
    subscription = scene.core.subscribe("s")
    scene.core.connected(scene.now_s)
    scene.sent()
    scene.hear(replace(WELCOME, signature=SIGNATURE))
    assert scene.sent() == [m.Subscribe("s", CREDIT, in_rows=True)]
    scene.hear(m.Updates((ROW, ROW._replace(session="another"))))
    update = scene.core.next_update(subscription)
    assert update is not None
    assert (update.correction, update.missed, update.state["version"], update.state["settled"]) == (True, 3, 2, None)
    assert update.state["live"]["outputs"]["mood"]["label"] == "cross"
    assert update.state["modalities"] == {"audio": {"event_time_s": 1.5, "behind_s": 0.0}}
    assert scene.core.next_update(subscription) is None
    assert credits(scene.sent()) == 2


def test_a_row_of_another_model_is_no_message() -> None:
    scene = Scene(connected=False)
    scene.core.connected(scene.now_s)
    scene.hear(replace(WELCOME, signature=SIGNATURE))
    with pytest.raises(DecodeError, match="no state of toy"):
        scene.hear(m.Updates((ROW._replace(live=np.zeros(4, np.float32)),)))
