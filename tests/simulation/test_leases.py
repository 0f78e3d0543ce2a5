"""At most one worker answers for a key group, ever: real controller, placement and lease code, adversarial time.

Workers, controllers and store are objects in virtual time. Hypothesis chooses what happens next: beats that are delayed
or lost, answers that come late, renewals at the store, workers stopped and woken, controllers killed, clocks of every
process with an origin and a rate of its own. After every step: no two workers believe that they may answer for a group,
and whoever does has the epoch that the store lets write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from runtime import granted_leases
from runtime.controller import Controller
from runtime.dispatch.ownership import OwnedGroups
from runtime.granted_leases import GrantedLeases
from runtime.leases import Lease, renew_at_store
from runtime.orders import Orders
from runtime.placement import Beat, ClusterPolicy
from runtime.store.base import StoreFenced
from runtime.store.memory import MemoryDisk, MemoryStore

LEASE_S = 2.0
SHOWN = (0, 1, 511, 512, 1023)
"""groups that are looked at; they all fare alike"""


class NoHands:
    def start(self, name: str, beside: object) -> None: ...

    def stop(self, name: str) -> None: ...

    def nudge(self, name: str) -> None: ...

    def kill(self, beat: Beat) -> None: ...


@dataclass
class Answer:
    """Orders on their way to a worker, or a renewal's success."""

    orders: Orders | None
    sent_s: float
    """by the worker's clock"""


@dataclass
class Worker:
    """What `runtime.worker` does with orders and leases, without its threads."""

    name: str
    rate: float
    origin_s: float
    incarnation: int = 0
    is_stopped: bool = False
    is_fenced: bool = False
    owned: OwnedGroups = field(default_factory=lambda: OwnedGroups("w"))
    lease: Lease = field(default_factory=Lease)
    coming: list[Answer] = field(default_factory=list)
    sent: list[tuple[Beat, float]] = field(default_factory=list)
    renewing: list[tuple[int, float]] = field(default_factory=list)
    """counts that were read at the store, and when it was asked"""

    def clock(self, now_s: float) -> float:
        return self.origin_s + now_s * self.rate

    @property
    def owner(self) -> str:
        return f"{self.name}/{self.incarnation}"

    def beat(self) -> Beat:
        endpoint, released = f"tcp://{self.owner}", self.owned.released
        return Beat(self.name, str(self.incarnation), endpoint, "http://m", fenced=self.is_fenced, released=released)

    def turn(self, now_s: float) -> None:
        """As `Dispatcher.keep_to_lease`: the first thing in every turn."""
        if self.owned.epochs and self.lease.is_over(self.clock(now_s)):
            self.owned.replace({})

    def obey(self, answer: Answer) -> None:
        self.lease.extend(answer.sent_s + LEASE_S)
        if answer.orders is not None:
            self.owned.replace(answer.orders.epochs)
            self.owned.freeze(answer.orders.releases)
            for group in set(self.owned.frozen):
                self.owned.give_up(group)

    def answers_for(self, group: int, now_s: float) -> bool:
        """Would it answer, if it looked at its lease now?"""
        return group in self.owned.epochs and not self.lease.is_over(self.clock(now_s))


class Leases(RuleBasedStateMachine):
    @initialize(rates=st.lists(st.sampled_from((0.995, 1.0, 1.005)), min_size=3, max_size=3))
    def begin(self, rates: list[float]) -> None:
        self.now_s = 100.0
        self.disk = MemoryDisk()
        self.store = MemoryStore(self.disk)
        self.workers = [Worker(f"worker-{i}", rate, 1000.0 * i) for i, rate in enumerate(rates)]
        self.controllers: list[Controller] = []
        self.new_controller()
        for _ in range(6):
            self.all_beat_in_time({0, 1, 2})

    def new_controller(self) -> None:
        policy = ClusterPolicy(workers=2, standbys=1, moves_at_once=400)
        controller = Controller(
            MemoryStore(self.disk), NoHands(), policy, LEASE_S, CollectorRegistry(), self.now_s, ("worker-0",)
        )
        self.controllers = [*self.controllers[-1:], controller]

    # ---- what may happen ----

    @rule(seconds=st.sampled_from((0.01, 0.1, 0.3, 0.7, 1.0, 1.9, 2.0, 2.1, 4.5)))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(who=st.sets(st.integers(0, 2), min_size=1), times=st.integers(1, 4), apart_s=st.sampled_from((0.1, 0.5, 1.0)))
    def some_beat_in_time_again_and_again(self, who: set[int], times: int, apart_s: float) -> None:
        for _ in range(times):
            self.now_s += apart_s
            self.all_beat_in_time(who)
            self.controllers[-1].tick(self.now_s)

    def all_beat_in_time(self, who: set[int]) -> None:
        for worker in (self.workers[i] for i in sorted(who)):
            if not worker.is_stopped:
                worker.turn(self.now_s)
                orders = self.controllers[-1].beat(worker.beat(), self.now_s)
                worker.obey(Answer(orders, worker.clock(self.now_s)))

    @rule(i=st.integers(0, 2), times=st.integers(1, 4), apart_s=st.sampled_from((0.5, 1.0, 1.9)))
    def one_renews_at_the_store_again_and_again(self, i: int, times: int, apart_s: float) -> None:
        worker = self.workers[i]
        for _ in range(times):
            self.now_s += apart_s
            worker.turn(self.now_s)
            if not worker.is_stopped and renew_at_store(self.store, worker.owner):
                worker.obey(Answer(None, worker.clock(self.now_s)))

    @rule(i=st.integers(0, 2))
    def a_worker_sends_a_beat(self, i: int) -> None:
        worker = self.workers[i]
        if not worker.is_stopped:
            worker.turn(self.now_s)
            worker.sent = [*worker.sent[-3:], (worker.beat(), worker.clock(self.now_s))]

    @rule(i=st.integers(0, 2), which=st.integers(0, 3), controller=st.integers(0, 1))
    def a_controller_hears_a_beat(self, i: int, which: int, controller: int) -> None:
        """In time, late, out of order, or twice; of two controllers the older may not know that it was replaced."""
        worker = self.workers[i]
        if worker.sent:
            beat, sent_s = worker.sent.pop(which % len(worker.sent))
            orders = self.controllers[controller % len(self.controllers)].beat(beat, self.now_s)
            if beat.owner == worker.owner:
                worker.coming = [*worker.coming[-3:], Answer(orders, sent_s)]

    @rule(i=st.integers(0, 2))
    def a_worker_hears_an_answer(self, i: int) -> None:
        """Answers come in the order of the beats: a worker asks anew only after the last answer, or its time-out."""
        worker = self.workers[i]
        if worker.coming and not worker.is_stopped:
            worker.turn(self.now_s)
            worker.obey(worker.coming.pop())
            worker.coming.clear()
            worker.turn(self.now_s)

    @rule(i=st.integers(0, 2))
    def a_worker_reads_its_lease(self, i: int) -> None:
        worker = self.workers[i]
        count = self.store.leases().get(worker.owner)
        if count is not None and not worker.is_stopped:
            worker.renewing = [*worker.renewing[-1:], (count, worker.clock(self.now_s))]

    @rule(i=st.integers(0, 2))
    def the_store_renews(self, i: int) -> None:
        worker = self.workers[i]
        if worker.renewing:
            count, sent_s = worker.renewing.pop()
            try:
                self.store.renew(worker.owner, count)
            except StoreFenced:
                return
            worker.coming.append(Answer(None, sent_s))

    @rule(controller=st.integers(0, 1))
    def a_controller_ticks(self, controller: int) -> None:
        self.controllers[controller % len(self.controllers)].tick(self.now_s)

    @rule(controller=st.integers(0, 1), is_there=st.booleans())
    def a_controller_is_told_of_another(self, controller: int, is_there: bool) -> None:
        self.controllers[controller % len(self.controllers)].see_rival(is_there, self.now_s)

    @rule()
    def another_controller_takes_over(self) -> None:
        self.new_controller()

    @rule(i=st.integers(0, 2))
    def a_worker_stops(self, i: int) -> None:
        self.workers[i].is_stopped = True

    @rule(i=st.integers(0, 2))
    def a_worker_wakes(self, i: int) -> None:
        self.workers[i].is_stopped = False
        self.workers[i].turn(self.now_s)

    @rule(i=st.integers(0, 2), is_fenced=st.booleans())
    def a_worker_writes(self, i: int, is_fenced: bool) -> None:
        self.workers[i].is_fenced = is_fenced

    @rule(i=st.integers(0, 2), is_noticed=st.booleans())
    def a_worker_dies_and_comes_back(self, i: int, is_noticed: bool) -> None:
        worker = self.workers[i]
        if is_noticed:
            self.controllers[-1].died(worker.owner, self.now_s)
        fresh = Worker(worker.name, worker.rate, worker.origin_s + 7.0, worker.incarnation + 1)
        self.workers[i] = fresh

    @rule(workers=st.integers(1, 3))
    def somebody_scales(self, workers: int) -> None:
        self.controllers[-1].scale(workers, self.now_s)

    @precondition(lambda self: not self.disk.away)
    @rule()
    def the_store_goes_away_for_a_tick(self) -> None:
        self.disk.away = "for a moment"
        self.controllers[-1].tick(self.now_s)
        self.disk.away = ""

    # ---- what must hold ----

    @invariant()
    def at_most_one_answers_for_a_group(self) -> None:
        for group in SHOWN:
            answering = [one.owner for one in self.workers if one.answers_for(group, self.now_s)]
            assert len(answering) <= 1, f"group {group}: {answering} at {self.now_s}"

    @invariant()
    def who_answers_may_write(self) -> None:
        """The epoch of whoever answers is the store's: what it writes is not refused."""
        ownership = self.disk.groups
        for group in SHOWN:
            for worker in self.workers:
                if worker.answers_for(group, self.now_s):
                    assert ownership[group].owner == worker.owner
                    assert ownership[group].epoch == worker.owned.epochs[group]


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# ---- does the machine see what it is there to see? ----


def _waits_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granted_leases, "is_over", lambda heard_s, now_s, lease_s: now_s - heard_s >= lease_s / 2)


def _does_not_end_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GrantedLeases, "end", lambda self, owner, now_s: True)


def _misses_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    def see(self: GrantedLeases, now_s: float) -> None:
        self._counts = self._store.leases()

    monkeypatch.setattr(GrantedLeases, "see_renewals", see)


def _counts_from_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "extend", lambda self, until_s: setattr(self, "_until_s", until_s + LEASE_S))


def _keeps_what_it_gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        OwnedGroups, "give_up", lambda self, group: self._released.setdefault(group, self._epochs[group])
    )


Step = Callable[[Leases], object]


def _others_beat(leases: Leases) -> None:
    leases.some_beat_in_time_again_and_again(who={1, 2}, times=1, apart_s=0.1)


def _the_first_renews_at_the_store(leases: Leases) -> None:
    leases.one_renews_at_the_store_again_and_again(i=0, times=1, apart_s=1.9)


def _nobody_is_heard(leases: Leases) -> None:
    leases.time_passes(0.1)


def _one_is_to_serve(leases: Leases) -> None:
    leases.somebody_scales(workers=1)


def _all_beat(leases: Leases) -> None:
    leases.some_beat_in_time_again_and_again(who={0, 1, 2}, times=1, apart_s=0.1)


def _the_second_tells_what_it_gave_up(leases: Leases) -> None:
    leases.a_worker_sends_a_beat(i=1)
    leases.a_controller_hears_a_beat(i=1, which=0, controller=0)


@pytest.mark.parametrize(
    ("plant", "steps"),
    [
        (_waits_too_little, [_others_beat] * 25),
        (_does_not_end_leases, [_the_first_renews_at_the_store, *[_nobody_is_heard] * 2, _others_beat]),
        (_misses_renewals, [_the_first_renews_at_the_store, *[_others_beat] * 5]),
        (_counts_from_the_answer, [_others_beat] * 25),
        (_keeps_what_it_gave_up, [_one_is_to_serve, _all_beat, _the_second_tells_what_it_gave_up]),
    ],
)
def test_a_planted_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], steps: list[Step]
) -> None:
    """In steps that the machine may take. Whether it takes them by itself within some hundred examples is chance, for
    three of the five, and lasts so long that a slow machine ended the test before."""
    _take(steps)
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        _take(steps)


def _take(steps: list[Step]) -> None:
    leases = Leases()
    leases.begin(rates=[1.0, 1.0, 1.0])
    for step in steps:
        step(leases)
        leases.at_most_one_answers_for_a_group()
        leases.who_answers_may_write()
