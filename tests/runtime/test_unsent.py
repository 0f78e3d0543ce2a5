"""What waits for connections that do not read: in order, whole, and bounded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import unsent
from runtime.unsent import MESSAGE_OVERHEAD_BYTES, Unsent
from runtime.wire import Frame

KIB = 1024 - MESSAGE_OVERHEAD_BYTES
"""with what a message takes beside its bytes, one KiB"""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsent, "CONNECTION_BYTES", 4 * 1024)
    monkeypatch.setattr(unsent, "ALL_BYTES", 10 * 1024)


class Transport:
    """Takes so many messages of each connection."""

    def __init__(self) -> None:
        self.room: defaultdict[bytes, int] = defaultdict(int)
        self.sent: defaultdict[bytes, list[bytes]] = defaultdict(list)

    def sends(self, identity: bytes, frames: Sequence[Frame]) -> bool:
        if not self.room[identity]:
            return False
        self.room[identity] -= 1
        self.sent[identity].append(b"".join(bytes(frame) for frame in frames))
        return True


def never() -> bool:
    return False


def test_a_connection_that_reads_nothing_is_dropped_with_all_that_waits() -> None:
    waiting = Unsent()
    for _ in range(4):
        assert waiting.add(b"a", [bytes(KIB)]) == []
    assert waiting.add(b"a", [b""]) == [b"a"]
    assert (waiting.n_bytes, waiting.is_empty, b"a" in waiting) == (0, True, False)


def test_one_message_always_fits() -> None:
    waiting = Unsent()
    assert waiting.add(b"a", [bytes(9 * 1024)]) == []
    assert waiting.add(b"a", [b""]) == [b"a"]


def test_beyond_what_all_may_leave_unread_the_heaviest_is_dropped() -> None:
    waiting = Unsent()
    for identity, messages in ((b"a", 3), (b"b", 4), (b"c", 3)):
        for _ in range(messages):
            assert waiting.add(identity, [bytes(KIB)]) == []
    assert waiting.add(b"a", [b""]) == [b"b"]
    assert b"a" in waiting
    assert b"c" in waiting


def test_a_turn_tries_some_of_those_that_read_nothing_and_the_next_one_others() -> None:
    waiting, transport, tried = Unsent(), Transport(), list[bytes]()
    for identity in (b"a", b"b", b"c"):
        waiting.add(identity, [b""])

    def sends(identity: bytes, frames: Sequence[Frame]) -> bool:
        tried.append(identity)
        return transport.sends(identity, frames)

    for _ in range(3):
        assert waiting.send(sends, lambda: len(tried) % 2 == 0), "not all were tried"
    assert tried == [b"a", b"b", b"c", b"a", b"b", b"c"]
    assert not waiting.send(sends, never)


def test_a_turn_ends_while_a_connection_reads_all_that_waited_for_it() -> None:
    waiting, transport = Unsent(), Transport()
    for number in range(9):
        waiting.add(b"a", [bytes([number])])
    transport.room[b"a"] = 9
    assert waiting.send(transport.sends, lambda: len(transport.sent[b"a"]) % 4 == 0)
    assert len(transport.sent[b"a"]) == 4
    waiting.send(transport.sends, never)
    assert transport.sent[b"a"] == [bytes([number]) for number in range(9)]
    assert waiting.is_empty


@given(
    steps=st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 3), st.integers(0, 2000)), max_size=60)
)
def test_messages_are_sent_whole_and_in_order_or_their_connection_goes(
    steps: list[tuple[bytes, int, int]],
) -> None:
    waiting, transport = Unsent(), Transport()
    told: dict[bytes, list[bytes]] = {}
    dropped: set[bytes] = set()
    for number, (identity, room, size) in enumerate(steps):
        transport.room[identity] += room
        waiting.send(transport.sends, never)
        if identity in dropped:
            continue
        message = number.to_bytes(2, "big") + bytes(size)
        told.setdefault(identity, []).append(message)
        frames: list[Frame] = [message[:1], memoryview(message[1:])]
        if identity in waiting or not transport.sends(identity, frames):
            dropped.update(waiting.add(identity, frames))
        assert waiting.n_bytes <= unsent.ALL_BYTES
    transport.room.update(dict.fromkeys(told, len(steps)))
    waiting.send(transport.sends, never)
    assert waiting.is_empty
    assert waiting.n_bytes == 0
    for identity, messages in told.items():
        sent = transport.sent[identity]
        assert sent == messages[: len(sent)]
        assert len(sent) == len(messages) or identity in dropped
