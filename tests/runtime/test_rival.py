"""Two controllers on one store: how they see each other, and what becomes of two runtimes that share it by mistake."""

from __future__ import annotations

import logging

import pytest

from runtime.keys import KEY_GROUPS
from runtime.rival import NOTE, RivalWatch, is_at_work
from runtime.store.base import StoreUnavailable
from runtime.store.memory import MemoryDisk, MemoryStore
from tests.runtime.test_controller import LEASE_S, Cluster

GONE_S = 4.5 * LEASE_S
"""three leases of silence, then one, and what the clocks may drift"""


class CountingStore(MemoryStore):
    """It counts what is noted, and may lose the answer to that."""

    notes_taken = 0
    loses_answers = False

    def note(self, name: str, value: str) -> None:
        super().note(name, value)
        self.notes_taken += 1
        if self.loses_answers:
            raise StoreUnavailable("no answer")


def look_for(seconds: float, from_s: float, *watches: RivalWatch) -> list[bool]:
    """What each of them sees in the end."""
    seen = [False] * len(watches)
    for turn in range(int(seconds / watches[0].look_every_s)):
        seen = [watch.look(from_s + turn * watch.look_every_s) for watch in watches]
    return seen


def test_who_is_alone_writes_once_whoever_was_there_before() -> None:
    store = CountingStore(MemoryDisk(notes={NOTE: "one that is dead"}))
    assert look_for(20.0, 0.0, RivalWatch(store, LEASE_S)) == [False]
    assert store.notes_taken == 1


def test_two_see_each_other_and_the_one_that_stays_sees_when_the_other_is_gone() -> None:
    disk = MemoryDisk()
    one, other = (RivalWatch(MemoryStore(disk), LEASE_S) for _ in range(2))
    assert look_for(60.0, 0.0, one, other) == [True, True]
    assert look_for(2 * LEASE_S, 60.0, one) == [True]
    assert look_for(2 * LEASE_S, 60.0 + 2 * LEASE_S, one) == [False]


def test_who_asks_whether_a_controller_is_at_work_hears_of_one_that_lives() -> None:
    disk = MemoryDisk()
    watch = RivalWatch(MemoryStore(disk), LEASE_S)
    look_for(2.0, 0.0, watch)
    assert not is_at_work(MemoryStore(disk), LEASE_S, wait=lambda _: None)

    def while_it_answers(wait_s: float) -> None:
        look_for(wait_s, 2.0, watch)

    assert is_at_work(MemoryStore(disk), LEASE_S, wait=while_it_answers)


def test_a_store_that_was_emptied_is_no_rival() -> None:
    disk = MemoryDisk()
    watch = RivalWatch(MemoryStore(disk), LEASE_S)
    look_for(2.0, 0.0, watch)
    disk.notes.clear()
    assert not watch.look(3.0)
    assert NOTE in disk.notes


def test_a_store_that_is_away_or_loses_its_answers_is_no_rival() -> None:
    store = CountingStore(MemoryDisk())
    watch = RivalWatch(store, LEASE_S)
    store.loses_answers = True
    assert look_for(2.0, 0.0, watch) == [False]
    store.disk.away = "cut off"
    assert look_for(2.0, 2.0, watch) == [False]
    assert "cut off" in watch.store_error
    store.loses_answers, store.disk.away = False, ""
    assert look_for(2.0, 4.0, watch) == [False]
    assert watch.store_error == ""
    store.disk.away = ""
    assert look_for(2.0, 4.0, watch) == [False]


class Runtime:
    """A controller and its one worker, which writes or does not."""

    def __init__(self, disk: MemoryDisk, life: str, now_s: float, *, writes: bool = True) -> None:
        self.cluster = Cluster(disk, now_s)
        self.groups: dict[int, int] = {}
        self._watch = RivalWatch(MemoryStore(disk), LEASE_S)
        self._life = life
        self._writes = writes

    def turn(self, now_s: float) -> None:
        self.cluster.controller.see_rival(self._watch.look(now_s), now_s)
        self.cluster.controller.tick(now_s)
        stored = self.cluster.disk.groups
        fenced = self._writes and any(stored[group].epoch != epoch for group, epoch in self.groups.items())
        self.groups = self.cluster.orders("worker-0", self._life, now_s, fenced=fenced).epochs

    def is_ready(self) -> bool:
        """It names a worker that serves: `/ready` asks for that."""
        return bool(self.cluster.controller.routes()["workers"])

    @property
    def taken_by(self) -> list[str]:
        return list(self.cluster.controller.cluster(0.0)["taken_by"])


def turns(from_s: float, to_s: float, *runtimes: Runtime) -> None:
    now_s = from_s
    while now_s < to_s:
        for runtime in runtimes:
            runtime.turn(now_s)
        now_s += LEASE_S / 8


@pytest.mark.parametrize("writes", [True, False])
def test_the_first_of_two_runtimes_says_who_has_its_groups_and_takes_them_back_once_the_other_is_gone(
    writes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    disk = MemoryDisk()
    first = Runtime(disk, "a", 0.0, writes=writes)
    turns(0.0, 10.0, first)
    assert len(first.groups) == KEY_GROUPS
    second = Runtime(disk, "b", 10.0)
    turns(10.0, 60.0, first, second)
    assert (len(first.groups), len(second.groups)) == (0, KEY_GROUPS)
    assert set(second.groups.values()) == {2}, "they are not taken to and fro"
    assert not first.is_ready()
    assert first.cluster.controller.routes()["taken_by"] == ["worker-0/b"]
    assert (first.taken_by, second.taken_by) == (["worker-0/b"], [])
    assert second.cluster.events("shared store") == ["another controller is at work on it"]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [
        "taken: 1024 key groups by worker-0/b, of another runtime on the same store: one of the two must stop"
    ]
    turns(60.0, 60.0 + GONE_S, first)
    assert set(first.groups.values()) == {3}
    assert first.is_ready()
    assert first.taken_by == []
    assert first.cluster.events("shared store")[-1] == "the other controller is gone"


def test_the_first_waits_as_well_while_the_others_controller_is_away_and_its_worker_renews_at_the_store() -> None:
    disk = MemoryDisk()
    first = Runtime(disk, "a", 0.0)
    turns(0.0, 10.0, first)
    second = Runtime(disk, "b", 10.0)
    turns(10.0, 30.0, first, second)
    store = MemoryStore(disk)
    for now_s in range(30, 60):
        store.renew("worker-0/b", store.leases()["worker-0/b"])
        turns(now_s, now_s + 1.0, first)
    assert first.groups == {}
    turns(60.0, 60.0 + GONE_S, first)
    assert len(first.groups) == KEY_GROUPS


def test_a_worker_that_was_fenced_because_its_own_controller_replaced_it_is_no_news() -> None:
    cluster = Cluster(standbys=1)
    cluster.beat("worker-0", "a", 1.0)
    cluster.beat("worker-1", "b", 3.0)
    assert len(cluster.beat("worker-1", "b", 3.1)) == KEY_GROUPS
    cluster.orders("worker-0", "a", 3.2, fenced=True)
    cluster.controller.tick(3.3)
    assert cluster.events("taken") == []
    assert cluster.controller.cluster(3.3)["taken_by"] == []
