from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime import messages as m
from runtime.dispatch.inbox import SLICE_SEGMENTS, Inbox, segments_in
from runtime.dispatch.peers import Peer

FRAMES = np.ones((2, 3), np.float32)


def peer(name: str, tenant: str = "t") -> Peer:
    return Peer(name.encode(), name, tenant, 0.0, 0)


def segments(*counts: int, session: str = "s") -> m.Segments:
    """One group of so many entries for each count, numbered on."""
    groups, first = [], 1
    for position, count in enumerate(counts):
        entries = tuple(m.SegmentEntry(number, number / 10, FRAMES) for number in range(first, first + count))
        groups.append(m.StreamSegments(session, f"stream-{position}", 1, entries))
        first += count
    return m.Segments(tuple(groups))


def inbox(connection_bytes: int = 1 << 30, all_bytes: int = 1 << 30) -> Inbox:
    return Inbox(connection_bytes, all_bytes)


def take_all(box: Inbox) -> list[tuple[str, m.Message]]:
    taken = []
    while box:
        sender, message = box.take()
        taken.append((sender.client, message))
    return taken


def test_a_small_message_comes_out_as_it_went_in() -> None:
    box, message = inbox(), segments(2, 3)
    assert box.put(peer("a"), message, 0.0)
    assert take_all(box) == [("a", message)]


@given(st.lists(st.integers(1, 70), min_size=1, max_size=6))
def test_slices_hold_every_segment_once_in_order_and_none_is_too_large(counts: list[int]) -> None:
    box, message = inbox(), segments(*counts)
    box.put(peer("a"), message, 0.0)
    slices = [taken for _, taken in take_all(box)]
    assert all(0 < segments_in(part) <= SLICE_SEGMENTS for part in slices)
    flat = [
        (g.stream, e.sequence)
        for part in slices
        if isinstance(part, m.Segments)
        for g in part.groups
        for e in g.entries
    ]
    assert flat == [(g.stream, e.sequence) for g in message.groups for e in g.entries]


def test_a_connection_keeps_its_order_across_slices() -> None:
    box, sender = inbox(), peer("a")
    box.put(sender, m.Open("s", "x", "audio", 1), 0.0)
    box.put(sender, segments(2 * SLICE_SEGMENTS + 1), 0.0)
    box.put(sender, m.End("s", "x"), 0.0)
    assert [type(message).__name__ for _, message in take_all(box)] == [
        "Open",
        "Segments",
        "Segments",
        "Segments",
        "End",
    ]


def test_a_flooding_tenant_with_many_connections_gets_every_other_turn() -> None:
    box = inbox()
    for number in range(10):
        box.put(peer(f"loud-{number}", "loud"), segments(5 * SLICE_SEGMENTS), 0.0)
    for _ in range(5):
        box.put(peer("quiet", "quiet"), m.Ping(1), 0.0)
    first = Counter(box.take()[0].tenant for _ in range(10))
    assert first == {"loud": 5, "quiet": 5}


def test_a_tenant_that_was_quiet_goes_before_one_that_has_just_had_its_turn() -> None:
    box = inbox()
    box.put(peer("loud", "loud"), segments(10 * SLICE_SEGMENTS), 0.0)
    box.take()
    for _ in range(3):
        box.put(peer("quiet", "quiet"), segments(1), 0.0)
        assert box.take()[0].tenant == "quiet"


def test_who_emptied_the_inbox_goes_behind_whoever_comes_next() -> None:
    box = inbox()
    box.put(peer("a", "a"), segments(1), 0.0)
    box.take()
    box.put(peer("a", "a"), segments(1), 0.0)
    box.put(peer("b", "b"), segments(1), 0.0)
    assert [box.take()[0].tenant for _ in range(2)] == ["b", "a"]


def test_a_tenant_that_never_has_two_messages_waiting_gets_no_more_than_its_share() -> None:
    box = inbox()
    box.put(peer("loud", "loud"), segments(100 * SLICE_SEGMENTS), 0.0)
    taken: Counter[str] = Counter()
    for _ in range(60):
        if not box._tenants.get("eager"):
            box.put(peer("eager", "eager"), segments(SLICE_SEGMENTS), 0.0)
        sender, message = box.take()
        taken[sender.tenant] += segments_in(message)
    assert taken["eager"] == taken["loud"]


def test_a_tenant_does_not_catch_up_on_what_it_did_not_send() -> None:
    box = inbox()
    box.put(peer("loud", "loud"), segments(100 * SLICE_SEGMENTS), 0.0)
    for _ in range(30):
        box.take()
    box.put(peer("late", "late"), segments(30 * SLICE_SEGMENTS), 0.0)
    assert Counter(box.take()[0].tenant for _ in range(21))["late"] == 11


def test_tenants_that_have_gone_leave_nothing_while_another_keeps_the_inbox_busy() -> None:
    box = inbox()
    box.put(peer("loud", "loud"), segments(1000 * SLICE_SEGMENTS), 0.0)
    for number in range(200):
        box.put(peer("visitor", f"visitor-{number}"), segments(2), 0.0)
        box.take()
        box.take()
    assert len(box._tenants) == len(box._turns) < 20


def test_the_connections_of_a_tenant_take_turns() -> None:
    box = inbox()
    box.put(peer("busy"), segments(10 * SLICE_SEGMENTS), 0.0)
    box.put(peer("small"), segments(1), 0.0)
    assert [box.take()[0].client for _ in range(3)] == ["busy", "small", "busy"]


def test_more_than_may_wait_of_a_connection_is_refused_and_others_are_not_concerned() -> None:
    one = segments(1)
    box = inbox(connection_bytes=1000)
    assert box.put(peer("a"), one, 0.0)
    assert box.put(peer("a"), one, 0.0)
    assert box.put(peer("a"), one, 0.0)
    assert not box.put(peer("a"), one, 0.0)
    assert box.put(peer("b"), one, 0.0)
    take_all(box)
    assert box.put(peer("a"), segments(100), 0.0), "a message larger than the limit is taken when nothing else waits"


def test_the_inbox_is_full_in_bytes_and_empties() -> None:
    box = inbox(all_bytes=1000)
    assert not box.is_full
    for name in "abcd":
        box.put(peer(name), segments(1), 0.0)
    assert box.is_full
    take_all(box)
    assert (box.is_full, box.n_bytes) == (False, 0)


def test_a_connection_that_is_gone_leaves_nothing() -> None:
    box, sender = inbox(), peer("a")
    box.put(sender, segments(40), 0.0)
    box.put(peer("b"), m.Ping(1), 0.0)
    box.take()
    box.discard(sender)
    box.discard(sender)
    assert [name for name, _ in take_all(box)] == ["b"]
    assert box.n_bytes == 0


@given(st.lists(st.tuples(st.sampled_from(["put", "put", "take", "discard"]), st.integers(0, 5), st.integers(1, 40))))
def test_it_knows_since_when_each_tenant_has_waited(actions: list[tuple[str, int, int]]) -> None:
    box, peers = inbox(), [peer(f"{number}", f"tenant-{number % 2}") for number in range(6)]
    waiting: dict[str, list[float]] = {one.client: [] for one in peers}
    for now_s, (action, number, count) in enumerate(actions):
        one = peers[number]
        if action == "put":
            box.put(one, segments(count), float(now_s))
            waiting[one.client] += [float(now_s)] * -(-count // SLICE_SEGMENTS)
        elif action == "discard":
            box.discard(one)
            waiting[one.client].clear()
        elif box:
            waiting[box.take()[0].client].pop(0)
        heard_s: dict[str, list[float]] = {}
        for sender in peers:
            heard_s.setdefault(sender.tenant, []).extend(waiting[sender.client])
        assert box.unread_since_s() == {tenant: min(times) for tenant, times in heard_s.items() if times}
