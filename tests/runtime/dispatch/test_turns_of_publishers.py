"""One stream, several publishers in turns: whose numbers these are, also once the session has left memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grf_core.step import StepBatch, StepResult
from runtime import messages as m
from runtime.client.errors import StreamRefused
from runtime.client.link import Identity
from runtime.client.published import Receipt
from runtime.client.publisher_account import PublisherPolicy
from runtime.client.publisher_core import PublisherCore
from runtime.keys import SessionKey
from runtime.store.memory import MemoryDisk, MemoryStore
from tests.runtime.dispatch.desk import Desk
from tests.runtime.toy_model import D, ToyModel

KEY = SessionKey("default", "s")
FULL = 24 * D
"""so many segments can be told apart in one context"""


def leave_memory(desk: Desk) -> None:
    for _ in range(2):
        desk.work(3.0)
    assert KEY not in desk.dispatcher.engine.sessions


class Ledger(ToyModel):
    """Its context says which segments are in it: each one adds a bit of its own, and would carry if it came twice."""

    def step(self, batch: StepBatch) -> StepResult:
        added = np.stack([_bit_of(int(frames[0, 0])) for frames in batch.frames])
        context = np.where(batch.fresh[:, None], 0, batch.contexts.numpy()[:, 0]) + added
        outputs = np.zeros((len(added), 3), np.float32)
        gate = np.ones(len(added), np.float32)
        return StepResult(torch.from_numpy(context[:, None].astype(np.float32)), outputs, gate)


def _bit_of(segment: int) -> np.ndarray:
    bit = np.zeros(D)
    bit[segment % D] = 2 ** (segment // D)
    return bit


def entered(context_KD: np.ndarray) -> set[int]:
    """The segments in a context."""
    return {
        column + D * place
        for column, total in enumerate(context_KD[0].astype(int))
        for place in range(24)
        if total >> place & 1
    }


class Table:
    """Several publishers of one stream before one desk. What is on its way is lost with the connection."""

    def __init__(self) -> None:
        self.desk = Desk(model=Ledger(), evict_after_s=1.0)
        self.publishers: list[PublisherCore | None] = [None, None]
        self.connections: list[bytes] = [b"", b""]
        self.made = 0
        self.receipts: dict[int, Receipt] = {}
        self.connect(0)
        self.connect(1)

    def connect(self, who: int) -> None:
        """Over a new connection, after whatever befell the last one; a publisher that was refused is another now."""
        self.made += 1
        core = self.publishers[who]
        if core is None:
            core = self.publishers[who] = PublisherCore(Identity(f"robot-{self.made}"), PublisherPolicy(linger_ms=0))
        self.connections[who] = f"connection-{self.made}".encode()
        core.connected(self.desk.now_s)

    def publish(self, who: int) -> None:
        core, segment = self.publishers[who], len(self.receipts)
        if core is None or segment == FULL:
            return
        frames = np.full((1, 3), segment, np.float32)
        try:
            self.receipts[segment] = core.publish("s", "mic", "audio", frames, self.desk.now_s, self.desk.now_s)
        except StreamRefused:
            self.publishers[who] = None

    def send(self, who: int) -> None:
        core = self.publishers[who]
        while core is not None and self.connections[who] and (message := core.outgoing(self.desk.now_s)) is not None:
            self.desk.deliver_message(self.connections[who], message)
        self.desk.work()

    def hear(self, who: int) -> None:
        core = self.publishers[who]
        for message in self.desk.all_heard(self.connections[who]):
            if core is not None:
                core.receive(message, self.desk.now_s)

    def talk(self, who: int) -> None:
        for _ in range(3):
            self.send(who)
            self.hear(who)

    def cut(self, who: int) -> None:
        """Its connection is gone, and it has not come back."""
        self.connections[who] = b""

    def turn_store(self, _: int) -> None:
        """It answers no more, or again."""
        self.desk.store_is_stuck = not self.desk.store_is_stuck

    def pass_time(self, _: int) -> None:
        """The session leaves memory, if nobody sends."""
        self.desk.work(3.0)
        for core in self.publishers:
            if core is not None:
                core.tick(self.desk.now_s)

    def crash(self, _: int) -> None:
        self.desk = self.desk.crash(model=Ledger(), evict_after_s=1.0)
        for who, core in enumerate(self.publishers):
            if core is not None:
                self.connect(who)

    def change_store(self, _: int) -> None:
        """Export, and import in a new one, where epochs begin anew."""
        if not self.desk.store_is_stuck:
            disk = MemoryDisk()
            MemoryStore(disk).restore(list(self.desk.store.records()))
            self.desk.disk = disk
            self.crash(0)

    def finish(self) -> set[int]:
        """Whoever has anything left to say comes back; return what the store has fused."""
        self.desk.store_is_stuck = False
        for who, core in enumerate(self.publishers):
            if core is not None:
                self.connect(who)
                for _ in range(4):
                    self.talk(who)
                    self.pass_time(who)
                core.end("s", "mic")
        for _ in range(4):
            for who in range(len(self.publishers)):
                self.talk(who)
            self.pass_time(0)
        record = self.desk.store.load([KEY]).get(KEY)
        return set() if record is None or record.context_KD is None else entered(record.context_KD)


ACTS = [
    *(Table.connect, Table.cut, Table.publish, Table.publish, Table.talk, Table.talk),
    *(Table.send, Table.hear, Table.pass_time, Table.crash, Table.turn_store, Table.change_store),
]


@given(st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 1)), max_size=60))
def test_what_a_publisher_is_told_is_durable_is_its_own_segment(
    acts: list[tuple[Callable[[Table, int], None], int]],
) -> None:
    table = Table()
    for act, who in acts:
        act(table, who)
    fused = table.finish()
    assert {segment for segment, receipt in table.receipts.items() if receipt.is_durable} <= fused
    unknown = [receipt for receipt in table.receipts.values() if not receipt.is_final]
    assert not unknown


def test_who_comes_back_behind_another_publisher_is_told_that_its_segments_have_no_place() -> None:
    table = Table()
    for who in (0, 1):
        table.connect(who)
        table.publish(who)
        table.talk(who)
        table.pass_time(who)
        table.hear(who)
        table.desk.say(table.connections[who], m.Goodbye())
        if who == 0:
            table.publish(0)  # its number is given, and the connection is gone
    assert [receipt.sequence for receipt in table.receipts.values()] == [1, 2, 2]
    fused = table.finish()
    assert [receipt.code for receipt in table.receipts.values()] == ["", "stream_taken", ""]
    assert fused == {0, 2}


# ---- a session that was deleted and begun anew ----


def begun_anew_and_evicted() -> Desk:
    """`former` has published to a session that was deleted; `a` has begun another one, which has left memory."""
    desk = Desk(evict_after_s=1.0)
    desk.hello(b"former")
    desk.hello(b"a")
    desk.settle(b"former", "s", 1, 2, 3)
    desk.say(b"a", m.Delete(1, "s"))
    desk.settle(b"a", "s", 1)
    leave_memory(desk)
    desk.told.clear()
    return desk


def test_a_number_of_the_deleted_session_is_not_taken_behind_a_gap() -> None:
    desk = begun_anew_and_evicted()
    desk.publish(b"former", "s", 4)
    assert desk.codes(b"former") == [("stream_taken", 4)]
    desk.say(b"former", m.Open("s", "mic", "audio", 1))
    assert [opened.last_sequence for opened in desk.heard(b"former", m.Opened)] == [1]
    desk.publish(b"former", "s", 2)
    assert desk.codes(b"former") == []
    assert desk.dispatcher.engine.sessions[KEY].live_version == 2


def test_an_end_of_the_deleted_session_ends_nothing() -> None:
    desk = begun_anew_and_evicted()
    desk.say(b"a", m.Open("s", "mic", "audio", 2, 1))
    desk.publish(b"a", "s", 2)
    leave_memory(desk)
    desk.say(b"a", m.Open("s", "wrist", "imu", 1))
    desk.say(b"former", m.End("s", "mic", 0))
    assert not desk.dispatcher.engine.sessions[KEY].timeline.clocks["mic"].ended


def test_who_has_a_stream_open_goes_on_after_the_session_has_left_memory() -> None:
    desk = begun_anew_and_evicted()
    desk.publish(b"a", "s", 2)
    assert desk.codes(b"a") == []
    assert desk.dispatcher.engine.sessions[KEY].live_version == 2


def test_in_the_hands_of_another_worker_a_stream_is_open_to_nobody() -> None:
    desk = begun_anew_and_evicted().crash()
    desk.hello(b"a")
    desk.publish(b"a", "s", 2)
    assert desk.codes(b"a") == [("not_open", 2)]


@pytest.mark.parametrize(("known", "codes"), [(0, []), (1, [("stream_taken", 2)])])
def test_who_names_no_numbering_takes_over_from_any(known: int, codes: list[tuple[str, int]]) -> None:
    desk = begun_anew_and_evicted()
    desk.hello(b"b")
    desk.say(b"b", m.Open("s", "mic", "audio", 2, known_numbering=known))
    assert desk.codes(b"b") == codes


def test_a_publisher_that_comes_back_keeps_its_numbering_and_another_gets_a_higher_one() -> None:
    desk = Desk()
    numberings: list[int] = []
    for who, known in (b"a", 0), (b"a", 0), (b"b", 0), (b"b2", -1), (b"a", 0):
        desk.hello(who)
        desk.say(who, m.Open("s", "mic", "audio", 1, known_numbering=known and numberings[known]))
        numberings += [opened.numbering for opened in desk.heard(who, m.Opened)]
    first, again, second, kept, third = numberings
    assert first == again < second == kept < third


def other_store(desk: Desk, *, with_records: bool) -> Desk:
    """Another worker on a store that has been put in place of this one's."""
    disk = MemoryDisk()
    MemoryStore(disk).restore(list(desk.store.records()) if with_records else [])
    after = Desk(disk, incarnation=f"elsewhere after {desk.dispatcher.incarnation}")
    after.now_s = desk.now_s
    return after


def numbering_told(desk: Desk, who: bytes, known_numbering: int = 0, base: int = 1) -> int:
    desk.hello(who)
    desk.say(who, m.Open("s", "mic", "audio", base, known_numbering=known_numbering))
    (opened,) = desk.heard(who, m.Opened)
    return opened.numbering


@pytest.mark.parametrize("crashes", [0, 5])
@pytest.mark.parametrize("with_records", [True, False])
def test_in_a_store_put_in_place_of_another_numberings_still_tell_publishers_apart(
    crashes: int, with_records: bool
) -> None:
    before = Desk()
    for _ in range(crashes):
        before = before.crash()
    former = numbering_told(before, b"a")
    before.settle(b"a", "s", 1, 2)
    desk = other_store(before, with_records=with_records)
    newer = numbering_told(desk, b"b")
    desk.publish(b"b", "s", 1, 2, 3, 4)
    desk.say(b"b", m.Goodbye())
    desk.hello(b"a")
    desk.say(b"a", m.Open("s", "mic", "audio", 3, 2, known_numbering=former))
    assert desk.codes(b"a") == [("stream_taken", 3)]
    assert numbering_told(desk, b"b", newer, 5) == newer


def test_who_comes_back_to_an_older_store_goes_on_where_nobody_has_numbered_since() -> None:
    before = Desk()
    numbering_told(before, b"b")
    before.settle(b"b", "s", 1, 2)
    older = other_store(before, with_records=True)
    former = numbering_told(before.crash(), b"a")
    assert numbering_told(older, b"a", former, 3) == former
    assert numbering_told(older, b"b") > former


def test_a_numbering_that_no_worker_gives_is_refused() -> None:
    desk = Desk()
    desk.hello(b"a")
    desk.say(b"a", *(m.Open("s", "mic", "audio", 1, known_numbering=number) for number in (-1, 2**63 - 1)))
    assert desk.codes(b"a") == [("malformed", 1)] * 2
    assert not desk.dispatcher.engine.sessions


def test_who_loses_the_stream_while_it_is_opened_is_not_told_the_numbering_of_another() -> None:
    desk = Desk()
    for who in (b"a", b"b"):
        desk.hello(who)
    desk.store_is_stuck = True
    desk.say(b"a", m.Open("s", "mic", "audio", 1))
    desk.say(b"b", m.Open("s", "mic", "audio", 1))
    desk.store_is_stuck = False
    desk.work(0.1)
    told_a = desk.all_heard(b"a")
    assert told_a[-1] == m.Nack("stream_taken", "another client has opened this stream meanwhile", "s", "mic")
    (lost,) = (told.numbering for told in told_a if isinstance(told, m.Opened))
    (taken,) = (told.numbering for told in desk.heard(b"b", m.Opened))
    assert 0 < lost < taken


def test_who_takes_over_may_begin_once_the_store_knows_whose_the_numbers_are() -> None:
    desk = Desk()
    for who in (b"a", b"b"):
        desk.hello(who)
    desk.say(b"a", m.Open("s", "mic", "audio", 1))
    desk.store_is_stuck = True
    desk.say(b"b", m.Open("s", "mic", "audio", 1))
    assert desk.heard(b"b", m.Opened) == []
    desk.store_is_stuck = False
    desk.work()
    assert len(desk.heard(b"b", m.Opened)) == 1
