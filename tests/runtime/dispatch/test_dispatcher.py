"""The worker's decisions, message by message: who is told what. Time and the store are the test's."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime import messages as m
from runtime.engine.engine import SILENT_PER_TICK
from runtime.engine.policies import OrderPolicy
from runtime.keys import SessionKey, key_group
from runtime.records import HistoryRow
from runtime.security import Tokens
from runtime.state_maps import StateMaps
from runtime.wire import encode
from tests.runtime.dispatch.desk import FRAMES, Desk


def test_segments_before_a_hello_and_before_an_open_are_told_what_is_missing() -> None:
    desk = Desk()
    desk.publish(b"a", "s", 1)
    assert [nack.code for nack in desk.heard(b"a", m.Nack)] == ["hello_first"]
    desk.hello(b"a")
    desk.publish(b"a", "s", 1)
    assert [(nack.code, nack.sequence) for nack in desk.heard(b"a", m.Nack)] == [("not_open", 1)]


def test_fused_and_durable_are_acknowledged_with_the_version() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.settle(b"a", "s", 1, 2, 3)
    last = desk.heard(b"a", m.Ack)[-1].streams[-1]
    assert (last.fused, last.durable, last.version) == (3, 3, 3)
    assert desk.store.load([SessionKey("default", "s")])[SessionKey("default", "s")].version == 3


def test_nothing_is_acknowledged_as_durable_while_the_store_is_away_and_everything_afterwards() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", m.Open("s", "mic", "audio", 1))
    desk.disk.away = "disk full"
    desk.publish(b"a", "s", 1, 2)
    desk.say(b"a", m.End("s", "mic"))
    desk.work(3.0)
    assert all(stream.durable == 0 for ack in desk.heard(b"a", m.Ack) for stream in ack.streams)
    desk.disk.away = ""
    desk.work(2.0)
    desk.work(2.0)
    assert desk.heard(b"a", m.Ack)[-1].streams[-1].durable == 2


def test_with_tokens_a_client_is_the_tenant_of_its_token_and_no_other() -> None:
    desk = Desk(tokens={"s3cret": "acme"})
    for token, tenant in (("", "acme"), ("guess", "acme"), ("s3cret", "rival")):
        desk.hello(b"a", tenant, token)
        assert [nack.code for nack in desk.heard(b"a", m.Nack)] == ["unauthorised"]
    desk.hello(b"a", "acme", "s3cret")
    assert [welcome.tenant for welcome in desk.heard(b"a", m.Welcome)] == ["acme"]


def test_a_token_that_is_taken_back_or_moved_ends_its_connections_and_no_others() -> None:
    """Others would miss updates, and a recorder segments, in silence."""
    desk = Desk(tokens={"old": "acme", "moved": "default", "kept": "rival"})
    tokens = {b"a": "old", b"m": "moved", b"r": "kept"}
    for who, token in tokens.items():
        desk.hello(who, "", token)
        desk.say(who, m.Subscribe("", 100), m.Tap(100))
    desk.dispatcher.trust(Tokens({"new": "acme", "moved": "rival", "kept": "rival"}))
    desk.told.clear()
    desk.hello(b"n", "acme", "new")
    desk.settle(b"n", "s", 1)
    desk.settle(b"r", "s", 1)
    told = {who: {type(message) for message in desk.all_heard(who)} for who in tokens}
    assert told == {b"a": set(), b"m": set(), b"r": told[b"r"] | {m.Update, m.Tapped}}
    desk.say(b"r", m.Ping(1))
    assert not desk.heard(b"r", m.Nack)
    for who in (b"a", b"m"):
        desk.say(who, m.Ping(1))
        assert desk.codes(who) == [("hello_first", 0)]
        desk.hello(who, "", tokens[who])
    assert desk.codes(b"a") == [("unauthorised", 0)]
    assert [welcome.tenant for welcome in desk.heard(b"m", m.Welcome)] == ["rival"]


def test_a_tenant_neither_sees_nor_hears_of_another() -> None:
    desk = Desk()
    desk.hello(b"a", "acme")
    desk.hello(b"r", "rival")
    desk.say(b"r", m.Subscribe("", 100), m.Subscribe("s", 100))
    desk.settle(b"a", "s", 1)
    desk.say(b"r", m.Query(1, "s"), m.ListSessions(2), m.QueryHistory(3, "s"), m.Delete(4, "s"))
    told = [message for identity, message in desk.told if identity == b"r"]
    assert not any(isinstance(message, m.Update | m.State) for message in told)
    assert [message.sessions for message in told if isinstance(message, m.Sessions)] == [[]]
    assert [message.rows for message in told if isinstance(message, m.History)] == [[]]
    assert [message.existed for message in told if isinstance(message, m.Deleted)] == [False]
    desk.say(b"a", m.Query(5, "s"))
    assert desk.heard(b"a", m.State)[-1].state["version"] == 1


def test_two_encodings_of_an_id_never_meet() -> None:
    desk = Desk()
    desk.hello(b"a")
    composed, decomposed = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    ids = [composed, decomposed, "7", "07", "７", "A", "a"]
    for count, session in enumerate(ids, start=1):
        desk.settle(b"a", session, *range(1, count + 1))
    for count, session in enumerate(ids, start=1):
        desk.say(b"a", m.Query(count, session))
        assert desk.heard(b"a", m.State)[-1].state["version"] == count


def test_a_query_waits_for_the_version_it_asks_for_or_says_that_its_time_was_over() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", m.Open("s", "mic", "audio", 1))
    desk.say(b"a", m.Query(1, "s", after_version=2, wait_ms=5000))
    desk.publish(b"a", "s", 1)
    assert desk.heard(b"a", m.State) == []
    desk.publish(b"a", "s", 2)
    assert [(state.request, state.state["version"], state.timed_out) for state in desk.heard(b"a", m.State)] == [
        (1, 2, False)
    ]
    desk.say(b"a", m.Query(2, "s", after_version=9, wait_ms=500))
    desk.work(1.0)
    assert [(state.state["version"], state.timed_out) for state in desk.heard(b"a", m.State)] == [(2, True)]


def test_a_session_in_the_store_is_answered_without_taking_memory() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.settle(b"a", "s", 1, 2)
    later = Desk(desk.disk)
    later.hello(b"a")
    later.say(b"a", m.Query(1, "s"), m.ListSessions(2), m.QueryHistory(3, "s"))
    assert later.dispatcher.engine.sessions == {}
    told = [message for _, message in later.told]
    assert [message.state["version"] for message in told if isinstance(message, m.State)] == [2]
    assert [message.sessions for message in told if isinstance(message, m.Sessions)] == [["s"]]
    assert [[row["version"] for row in message.rows] for message in told if isinstance(message, m.History)] == [[1, 2]]


def test_sessions_are_listed_in_pages_whether_in_memory_or_in_the_store() -> None:
    desk = Desk()
    desk.hello(b"a")
    for session in ("b", "d"):
        desk.settle(b"a", session, 1)
    later = Desk(desk.disk)
    later.hello(b"a")
    for session in ("a", "c", "e"):
        later.say(b"a", m.Open(session, "mic", "audio", 1))
    later.say(b"a", m.ListSessions(1, "", 2), m.ListSessions(2, "b", 2), m.ListSessions(3, "d", 2))
    pages = [(page.sessions, page.more) for page in later.heard(b"a", m.Sessions)]
    assert pages == [(["a", "b"], True), (["c", "d"], True), (["e"], False)]
    later.say(b"a", *(m.ListSessions(4 + number, after, 1) for number, after in enumerate(("", "a", "b", "c", "d"))))
    assert [page.sessions for page in later.heard(b"a", m.Sessions)] == [["a"], ["b"], ["c"], ["d"], ["e"]]


def test_a_deleted_session_begins_anew_and_its_publisher_is_told() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.settle(b"a", "s", 1, 2)
    desk.say(b"a", m.Delete(1, "s"))
    assert [deleted.existed for deleted in desk.heard(b"a", m.Deleted)] == [True]
    desk.say(b"a", m.Open("s", "mic", "audio", 3, known_durable=2))
    assert [nack.code for nack in desk.heard(b"a", m.Nack)] == ["session_reset"]
    desk.say(b"a", m.Query(2, "s"))
    assert desk.heard(b"a", m.State)[-1].state["version"] == 0


def test_those_who_follow_a_session_are_told_that_it_was_deleted() -> None:
    desk = Desk()
    for who in (b"a", b"in rows", b"in maps"):
        desk.hello(who)
    desk.settle(b"a", "s", 1)
    desk.say(b"in rows", m.Subscribe("", 10, in_rows=True))
    desk.say(b"in maps", m.Subscribe("s", 10))
    desk.say(b"a", m.Delete(1, "s"), m.Delete(2, "s"), m.Delete(3, "never there"))
    assert [deleted.existed for deleted in desk.heard(b"a", m.Deleted)] == [True, False, False]
    ((row,),) = [updates.rows for updates in desk.heard(b"in rows", m.Updates)]
    (update,) = desk.heard(b"in maps", m.Update)
    assert (row.session, row.version, row.settled_version) == ("s", 0, 0)
    assert (update.state["session"], update.state["version"], update.state["live"]) == ("s", 0, None)
    assert update.state["settled"] is None
    desk.say(b"a", m.Open("s", "mic", "audio", 2))
    desk.publish(b"a", "s", 2)
    assert desk.heard(b"in maps", m.Update)[-1].state["version"] == 1, "it has begun anew"


def test_a_replaced_model_starts_a_new_context_keeps_the_marks_and_says_so() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.settle(b"a", "s", 1, 2)
    later = Desk(desk.disk, digest="toy-2")
    later.hello(b"a")
    later.say(b"a", m.Query(1, "s"))
    at_rest = later.heard(b"a", m.State)[-1].state
    later.say(b"a", m.Open("s", "mic", "audio", 3, known_durable=2))
    assert [(nack.code, nack.text) for nack in later.heard(b"a", m.Nack)] == [
        ("session_reset", "the model was replaced")
    ]
    later.publish(b"a", "s", 1, 2)
    later.say(b"a", m.Query(1, "s"))
    state = later.heard(b"a", m.State)[-1].state
    assert (state["live"], state["reset_reason"]) == (None, "the model was replaced")
    assert at_rest == state, "before anybody has published to it, too"


def test_history_leaves_out_what_a_model_with_other_modalities_or_heads_has_settled() -> None:
    desk, key = Desk(), SessionKey("default", "s")
    desk.hello(b"a")
    desk.settle(b"a", "s", 1, 2, 3)
    (record,) = desk.store.load([key]).values()
    narrow = HistoryRow(1, 0.1, "audio", (0.5,), (1.0,), 1.0)
    wide = HistoryRow(2, 0.2, "audio", (0.5, 0.5, 0.1), (0.25, 0.25, 0.25, 0.25), 0.5)
    unknown = HistoryRow(3, 0.3, "smell", (0.5, 0.5, 0.1), (0.5, 0.25, 0.25), 0.5)
    desk.store.restore([replace(record, model_digest="older", history=(narrow, wide, unknown))])
    later = Desk(desk.disk)
    later.hello(b"a")
    later.settle(b"a", "s", 4, 5)
    later.say(b"a", m.QueryHistory(1, "s"), m.QueryHistory(2, "s", limit=4))
    for past in later.heard(b"a", m.History):
        assert [row["version"] for row in past.rows] == [4, 5]


def test_a_damaged_record_costs_its_own_session_and_no_other() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.settle(b"a", "good", 1)
    desk.settle(b"a", "bad", 1)
    key = SessionKey("default", "bad")
    damaged = replace(desk.store.load([key])[key], context_KD=np.ones((3, 9), np.float32))
    desk.store.save({key_group(key): desk.dispatcher.owned.epochs[key_group(key)]}, [damaged])
    later = Desk(desk.disk)
    later.hello(b"a")
    later.say(b"a", m.Open("bad", "mic", "audio", 2), m.Open("good", "mic", "audio", 2))
    later.work(0.1)
    assert [(nack.code, nack.session) for nack in later.heard(b"a", m.Nack)] == [("unavailable", "bad")]


def test_the_last_to_open_a_stream_owns_it_and_the_other_is_told() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.hello(b"b")
    desk.say(b"a", m.Open("s", "mic", "audio", 1))
    desk.say(b"b", m.Open("s", "mic", "audio", 1))
    assert [nack.code for nack in desk.heard(b"a", m.Nack)] == ["stream_taken"]
    desk.publish(b"a", "s", 1)
    assert [nack.code for nack in desk.heard(b"a", m.Nack)] == ["stream_taken"]


def test_a_subscriber_without_credit_gets_the_newest_and_is_told_what_it_missed() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.hello(b"slow")
    desk.say(b"slow", m.Subscribe("s", 1))
    desk.say(b"a", m.Open("s", "mic", "audio", 1))
    for number in range(1, 11):
        desk.publish(b"a", "s", number)
    assert [update.state["version"] for update in desk.heard(b"slow", m.Update)] == [1]
    desk.say(b"slow", m.Credit(5))
    updates = desk.heard(b"slow", m.Update)
    assert [update.state["version"] for update in updates] == [10]
    assert updates[0].missed >= 8


def test_updates_in_rows_say_the_same_as_updates_one_by_one() -> None:
    desk = Desk()
    desk.hello(b"a")
    for reader, in_rows in ((b"maps", False), (b"rows", True)):
        desk.hello(reader)
        [welcome] = desk.heard(reader, m.Welcome)
        desk.say(reader, m.Subscribe("", 3, in_rows))
    maps = StateMaps(welcome.signature)
    desk.say(b"a", m.Open("s", "mic", "audio", 1), m.Open("t", "mic", "audio", 1))
    for number in (2, 1, 3, 4, 5):
        for session in ("s", "t"):
            desk.publish(b"a", session, number)
    for reader in (b"maps", b"rows"):
        desk.say(reader, m.Credit(100))
    one_by_one = desk.heard(b"maps", m.Update)
    rows = [row for updates in desk.heard(b"rows", m.Updates) for row in updates.rows]
    assert [m.Update(maps.of_row("default", row), row.correction, row.missed) for row in rows] == one_by_one
    assert any(update.correction for update in one_by_one)
    assert any(update.missed for update in one_by_one)


def test_the_updates_of_one_turn_are_one_message() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", m.Subscribe("", 100, in_rows=True))
    names = [f"s{number}" for number in range(5)]
    desk.say(b"a", *(m.Open(name, "mic", "audio", 1) for name in names))
    groups = tuple(m.StreamSegments(name, "mic", 1, (m.SegmentEntry(1, 0.1, FRAMES),)) for name in names)
    desk.say(b"a", m.Segments(groups))
    [updates] = desk.heard(b"a", m.Updates)
    assert [row.session for row in updates.rows] == names


@pytest.mark.parametrize(("others", "told"), [((), [4, 6]), ((b"b",), [1, 2, 3, 4, 5, 6])])
def test_what_waits_of_a_session_is_told_together_unless_another_tenant_waits(
    others: tuple[bytes, ...], told: list[int]
) -> None:
    desk = Desk()
    desk.hello(b"a")
    for other in others:
        desk.hello(other, tenant="other")
    desk.say(b"a", m.Subscribe("s", 100), m.Open("s", "mic", "audio", 1))
    desk.publish(b"a", "s", *range(1, 7))
    assert [update.state["version"] for update in desk.heard(b"a", m.Update)] == told


def test_a_correction_is_marked_as_one() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", m.Subscribe("s", 100), m.Open("s", "mic", "audio", 1))
    desk.publish(b"a", "s", 2)
    desk.say(b"a", m.Segments((m.StreamSegments("s", "mic", 1, (m.SegmentEntry(1, 0.1, FRAMES),)),)))
    updates = desk.heard(b"a", m.Update)
    assert [(update.state["version"], update.correction) for update in updates] == [(1, False), (2, True)]


@pytest.mark.parametrize(("late", "told"), [("drop", "late"), ("fuse", "late_fused")])
def test_a_late_segment_is_told_to_its_sender(late: Any, told: str) -> None:
    desk = Desk(order=OrderPolicy(late=late))
    desk.hello(b"a")
    desk.settle(b"a", "s", 2)
    desk.publish(b"a", "s", 1)
    assert [(nack.code, nack.sequence) for nack in desk.heard(b"a", m.Nack)] == [(told, 1)]


def test_a_lost_key_group_is_left_at_once_and_its_clients_are_sent_away() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.settle(b"a", "s", 1)
    desk.dispatcher.own({})
    assert desk.dispatcher.engine.sessions == {}
    desk.publish(b"a", "s", 2)
    desk.say(b"a", m.Query(1, "s"))
    assert [nack.code for nack in desk.heard(b"a", m.Nack)] == ["not_owner", "not_owner"]


def test_a_large_message_of_one_tenant_does_not_keep_another_waiting() -> None:
    desk = Desk()
    for who, tenant in ((b"loud", "loud"), (b"quiet", "quiet")):
        desk.hello(who, tenant)
        desk.say(who, m.Open("s", "mic", "audio", 1))
        desk.heard(who, m.Opened)
    entries = tuple(m.SegmentEntry(number, number / 10, FRAMES) for number in range(1, 1001))
    desk.deliver(b"loud", [bytes(f) for f in encode(m.Segments((m.StreamSegments("s", "mic", 1, entries),)))])
    desk.deliver(b"quiet", [bytes(f) for f in encode(m.Segments((m.StreamSegments("s", "mic", 1, entries[:1]),)))])
    desk.dispatcher.work(desk.now_s)
    received = {
        key.tenant: session.streams["mic"].received.upto for key, session in desk.dispatcher.engine.sessions.items()
    }
    assert received["quiet"] == 1
    assert received["loud"] <= desk.dispatcher.pace.segments
    desk.work()
    assert desk.dispatcher.engine.sessions[SessionKey("loud", "s")].streams["mic"].received.upto == 1000


def test_a_session_deleted_while_its_record_is_made_stays_deleted() -> None:
    desk = Desk()
    desk.hello(b"a")
    for number in range(40):
        desk.say(b"a", m.Open(f"s{number}", "mic", "audio", 1))
    desk.work(1.0)
    dispatcher = desk.dispatcher
    for number in range(40):
        desk.deliver_message(b"a", m.End(f"s{number}", "mic"))
        dispatcher.engine.dirty[SessionKey("default", f"s{number}")] = None
    dispatcher.saver.save(desk.now_s + 10, 5)  # some records are made, the write has not begun
    assert not dispatcher.store.take()
    gone = next(key for key in dispatcher.engine.sessions if key not in dispatcher.engine.dirty)
    desk.say(b"a", m.Delete(1, gone.session))
    desk.work(1.0)
    assert gone not in desk.store.load([gone])
    assert len(desk.store.load([SessionKey("default", f"s{number}") for number in range(40)])) == 39


def test_a_turn_that_fuses_many_settles_as_many_silent_sessions() -> None:
    """Else more is fused than ever settles, and each segment that waits for that holds a row of the slab."""
    desk = Desk()
    desk.hello(b"a")
    silent, sending = ([f"{kind}{number}" for number in range(400)] for kind in ("silent", "sending"))
    for session in [*silent, *sending]:
        desk.deliver_message(b"a", m.Open(session, "mic", "audio", 1))
    desk.work()

    def segments(sessions: list[str]) -> m.Segments:
        entry = (m.SegmentEntry(1, 0.1, FRAMES),)
        return m.Segments(tuple(m.StreamSegments(session, "mic", 1, entry) for session in sessions))

    desk.say(b"a", segments(silent))
    desk.now_s += 3.0
    desk.deliver_message(b"a", segments(sending))
    desk.dispatcher.work(desk.now_s)
    sessions = desk.dispatcher.engine.sessions
    fused = sum(sessions[SessionKey("default", session)].live_version for session in sending)
    settled = sum(sessions[SessionKey("default", session)].settled_version for session in silent)
    assert fused > 0
    assert settled == SILENT_PER_TICK + fused
