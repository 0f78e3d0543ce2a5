"""How much one write to the store holds, and how long the store then rests."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from runtime import messages as m
from runtime.dispatch.saving import AT_ONCE, PUT_OFF_S, REST, ROWS_OF_TURN, SHARE_AT_ONCE, rows_of_turn
from runtime.engine.policies import OrderPolicy
from runtime.keys import SessionKey
from tests.runtime.dispatch.desk import FRAMES, Desk

EVERY_ROW = 1_000_000
TOOK_S = 0.25


@dataclass
class Write:
    sessions: int
    rest_s: float


def desk_with(sessions: int, later_s: float = 60.0) -> Desk:
    """Sessions that all have something to save, at a store that has rested for long and waits for the test."""
    desk = Desk()
    desk.hello(b"a")
    for number in range(sessions):
        desk.deliver_message(b"a", m.Open(f"s{number}", "mic", "audio", 1))
    desk.work(1.0)
    while not desk.dispatcher.saver.is_clean:
        desk.work(1.0)
    desk.store_is_stuck = True
    for number in range(sessions):
        desk.dispatcher.engine.dirty[SessionKey("default", f"s{number}")] = None
    desk.now_s += later_s
    return desk


def write(desk: Desk) -> Write:
    """Begin the next write as soon as it is due, and let it take its time."""
    saver = desk.dispatcher.saver
    desk.now_s = max(desk.now_s, saver.due_s or 0.0)
    before = len(desk.dispatcher.engine.dirty)
    saver.save(desk.now_s, EVERY_ROW)
    (job,) = desk.dispatcher.store.take()
    written = before - len(desk.dispatcher.engine.dirty)
    desk.now_s += TOOK_S
    desk.dispatcher.store.finish(job, job.run(desk.store), desk.now_s)
    return Write(written, saver._next_s - desk.now_s)


def test_what_fits_into_one_write_is_written_at_once_and_the_store_rests() -> None:
    done = write(desk_with(AT_ONCE))
    assert done.sessions == AT_ONCE
    assert done.rest_s == pytest.approx(REST * TOOK_S)


def test_what_does_not_fit_follows_in_small_writes_with_short_rests() -> None:
    desk = desk_with(4 * AT_ONCE)
    writes = [write(desk) for _ in range(4)]
    assert [done.sessions for done in writes] == [AT_ONCE] * 4
    rests = [done.rest_s for done in writes]
    assert rests == sorted(rests)
    assert rests[0] == pytest.approx(REST * TOOK_S / 4)
    assert rests[-1] == pytest.approx(REST * TOOK_S)
    assert desk.dispatcher.saver.is_clean


def test_the_more_sessions_wait_the_larger_are_the_writes() -> None:
    sessions = 4 * AT_ONCE * SHARE_AT_ONCE
    assert write(desk_with(sessions)).sessions == sessions // SHARE_AT_ONCE


def test_all_is_written_together_while_publishers_wait_for_the_next_owner() -> None:
    desk = desk_with(4 * AT_ONCE)
    desk.dispatcher.release([0])
    assert write(desk).sessions == 4 * AT_ONCE


def test_a_worker_that_ends_writes_all_that_is_left_and_does_not_rest() -> None:
    """A write that had taken more than a second was followed by a rest longer than a worker is given to end."""
    desk = desk_with(3 * AT_ONCE)
    assert write(desk).rest_s > 0.0
    desk.dispatcher.saver.is_ending = True
    assert (desk.dispatcher.saver.due_s or 0.0) <= desk.now_s
    assert write(desk).sessions == 2 * AT_ONCE


def test_turns_without_segments_make_the_records_of_a_write_some_at_a_time() -> None:
    desk = desk_with(AT_ONCE, later_s=1.0)
    turns = 0
    while not desk.dispatcher.store.take():
        left = len(desk.dispatcher.engine.dirty)
        desk.dispatcher.work(desk.now_s)
        turns += 1
        assert 0 < left - len(desk.dispatcher.engine.dirty) <= ROWS_OF_TURN
    assert turns > 1


def test_turns_with_segments_leave_records_to_others_and_at_last_make_as_many_as_they_settle() -> None:
    desk = desk_with(AT_ONCE, later_s=1.0)
    dirty, began_s = desk.dispatcher.engine.dirty, desk.now_s
    for turn in range(100):
        entries = (m.SegmentEntry(turn + 1, float(turn), FRAMES),)
        desk.deliver_message(b"a", m.Segments((m.StreamSegments("s0", "mic", 1, entries),)))
        desk.dispatcher.work(desk.now_s)
        assert len(dirty) == AT_ONCE or desk.now_s >= began_s + PUT_OFF_S
        if desk.dispatcher.store.take():
            break
        desk.now_s += PUT_OFF_S / 4
    else:
        pytest.fail("a worker that always has segments to fuse never saves")
    assert desk.now_s - began_s < 3 * PUT_OFF_S


@pytest.mark.parametrize("segments", [1, ROWS_OF_TURN, 40 * ROWS_OF_TURN])
def test_a_worker_at_its_limit_makes_records_as_fast_as_it_settles(segments: int) -> None:
    assert rows_of_turn(segments, PUT_OFF_S) >= 2 * segments, "a record counts one, and its row of history one more"


@pytest.mark.parametrize("fails", [False, True])
def test_a_session_is_once_in_a_write_also_where_another_one_left_meanwhile(fails: bool) -> None:
    desk = Desk(order=OrderPolicy(mode="arrival"))
    desk.hello(b"a")
    desk.say(b"a", *(m.Open(session, "mic", "audio", 1) for session in ("kept", "deleted", "last")))
    desk.store_is_stuck, saver = True, desk.dispatcher.saver
    desk.now_s += 1.0

    def land(session: str, number: int) -> None:
        entries = (m.SegmentEntry(number, float(number), FRAMES),)
        desk.deliver_message(b"a", m.Segments((m.StreamSegments(session, "mic", 1, entries),)))
        desk.dispatcher.work(desk.now_s)

    for session in "kept", "deleted", "last":
        land(session, 1)
    saver.save(desk.now_s, 1)
    desk.deliver_message(b"a", m.Delete(1, "deleted"))
    land("kept", 2)
    saver.save(desk.now_s, EVERY_ROW)
    desk.jobs += desk.dispatcher.store.take()
    desk.disk.away = "full" if fails else ""
    desk.run_jobs()
    desk.disk.away, desk.store_is_stuck = "", False
    desk.work(1.0)
    desk.work(1.0)
    history = desk.store.history(SessionKey("default", "kept"), 0.0, 9.0, 9)
    assert [(row.version, row.event_time_s) for row in history] == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("is_asked_of_the_store", [False, True])
def test_history_holds_what_is_on_its_way_to_the_store(is_asked_of_the_store: bool) -> None:
    """What the store had answered before a write came with only what no record held yet, and a gap between."""
    desk = Desk(order=OrderPolicy(mode="arrival"))
    desk.hello(b"a")
    desk.say(b"a", m.Open("s", "mic", "audio", 1), m.Open("other", "mic", "audio", 1))
    desk.store_is_stuck, saver = True, desk.dispatcher.saver

    def land(session: str, number: int) -> None:
        entries = (m.SegmentEntry(number, float(number), FRAMES),)
        desk.deliver_message(b"a", m.Segments((m.StreamSegments(session, "mic", 1, entries),)))
        desk.dispatcher.work(desk.now_s)

    land("s", 1)
    land("other", 1)
    desk.now_s += 1.0
    desk.deliver_message(b"a", m.QueryHistory(7, "s"))
    desk.dispatcher.work(desk.now_s)
    desk.jobs += desk.dispatcher.store.take()
    saver.save(desk.now_s, 1)
    if is_asked_of_the_store:
        saver.save(desk.now_s, EVERY_ROW)
    land("s", 2)
    desk.run_jobs()
    desk.store_is_stuck = False
    desk.work(1.0)
    desk.work(1.0)
    desk.say(b"a", m.QueryHistory(8, "s"))
    assert [[row["version"] for row in past.rows] for past in desk.heard(b"a", m.History)] == [[1, 2], [1, 2]]
