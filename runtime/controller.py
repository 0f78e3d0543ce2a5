"""The controller: hears the workers' signs of life, assigns key groups, asks for workers. Never on the data path.

Its state is the store's: it may be killed and restarted at any moment, and workers go on serving what they own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable
from typing import Any, Protocol
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from runtime.asked import AskedGroups
from runtime.assignment import Assignment
from runtime.autoscaling import Autoscaler, Load
from runtime.cluster_log import ClusterLog
from runtime.cluster_view import describe, describe_fully
from runtime.drained_nodes import note_drained_nodes, read_drained_nodes
from runtime.granted_leases import GrantedLeases
from runtime.keys import KEY_GROUPS
from runtime.measured_loads import MeasuredLoads
from runtime.members import Members
from runtime.orders import OrderBook, Orders
from runtime.placement import Beat, ClusterPolicy, Facts, of_another_model, plan, targets, worker_of
from runtime.seldom_log import SeldomLog
from runtime.staff import Staff
from runtime.store.base import Store, StoreError, StoreFenced, StoreLocked
from runtime.workers_wanted import WorkersWanted

log = logging.getLogger(__name__)

ACT_EVERY_S = 0.1
"""at least so long between two looks at everything, unless there is news: beats come by the thousand"""


class Hands(Protocol):
    """What the controller wants done. Nothing here may block."""

    def start(self, name: str, beside: Collection[str]) -> None:
        """Start a worker of that name, which will beat, if it can be where none of the others is (names)."""

    def stop(self, name: str) -> None:
        """End a worker that owns nothing, for good."""

    def nudge(self, name: str) -> None:
        """Make a worker beat now: there is news for it."""

    def kill(self, beat: Beat) -> None:
        """End the process of a worker whose lease is over, if it is on this machine."""


class Controller:
    """Driven by calls, each told the time. Safe to call from several threads."""

    def __init__(
        self,
        store: Store,
        hands: Hands,
        policy: ClusterPolicy,
        lease_s: float,
        registry: CollectorRegistry,
        now_s: float,
        expected: Collection[str] = (),
    ) -> None:
        """`expected` names workers that may be running already, asked for by an earlier controller."""
        self._store = store
        self._hands = hands
        self._policy = policy
        self._lease_s = lease_s
        self._members = Members(lease_s)
        self._nodes: frozenset[str] = frozenset()
        self._drained_nodes = read_drained_nodes(store)
        self._staff = Staff(expected, now_s)
        self._filling_until_s = now_s
        """a new worker gets its share without waiting for the loads to be measured"""
        self._loads = MeasuredLoads(now_s)
        self._moved_s = now_s
        """when a group last changed hands"""
        self._asked = AskedGroups()
        self._assignment = Assignment(store)
        self._of_before = frozenset[str]() if expected else frozenset(self._assignment.owners)
        """owners of a runtime that has ended: that they are gone is no death"""
        self._leases = GrantedLeases(store, lease_s, now_s)
        self._has_rival = False
        self._wanted = WorkersWanted(store, policy.workers)
        self._autoscaler = Autoscaler(policy)
        self._acted_s = now_s
        self._book = OrderBook()
        self._write_book(now_s)
        self._log = ClusterLog(registry)
        self._seldom = SeldomLog(log)
        self._lock = threading.Lock()

    # ---- what others say ----

    def beat(self, beat: Beat, now_s: float) -> Orders:
        """A worker lives; answer what it owns."""
        with self._lock:
            self._log.metrics.heartbeats.inc()
            known = self._members.by_name.get(beat.name)
            if known is None or known.beat.incarnation != beat.incarnation:
                log.info("worker %s joined as %s at %s", beat.name, beat.incarnation, beat.endpoint)
                if known is not None and known.beat.endpoint == beat.endpoint:
                    self._bury(known.beat, now_s, "another has its port")
                known = None
            self._members.hear(beat, now_s, known.joined_s if known else now_s)
            self._leases.heard(beat.owner, now_s)
            self._loads.hear(beat, self._book.epochs_of(beat.owner), now_s)
            if known is None:
                self._welcome(beat, now_s)
            if beat.leaves or (self._nodes and beat.node in self._drained_nodes):
                self._staff.leaving.add(beat.owner)
            is_news = known is None or (known.beat.released, known.beat.leaves) != (beat.released, beat.leaves)
            if is_news or now_s >= self._acted_s + ACT_EVERY_S:
                self._act(now_s)
            return self._book.answer(beat, beat.owner in self._staff.leaving)

    def died(self, owner: str, now_s: float) -> None:
        """The process of this owner is known to have ended: its lease need not be waited for."""
        with self._lock:
            member = self._members.of_owner(owner)
            if member is not None:
                self._bury(member.beat, now_s, "its process has ended")
                self._act(now_s)

    def cannot_start(self, name: str, reason: str, now_s: float) -> None:
        """A worker that was asked for has failed for good; it is asked for again after a while."""
        with self._lock:
            self._log.note(now_s, "does not start", f"{name}: {reason}", logging.WARNING)

    def see_nodes(self, nodes: Iterable[str], drained: Iterable[str] = ()) -> None:
        """These live, and are not about to end; the drained ones are: nobody stays there while there is another."""
        with self._lock:
            self._nodes, self._drained_nodes = frozenset(nodes), frozenset(drained)

    def note_drained(self, nodes: Collection[str]) -> None:
        """By `grf drain`, for the controllers to come; of those that Ray drains it says so itself."""
        with self._lock:
            note_drained_nodes(self._store, nodes)

    def see_rival(self, is_there: bool, now_s: float) -> None:
        """Another controller is at work on the same store (`runtime.rival`), or none."""
        with self._lock:
            if is_there != self._has_rival:
                self._has_rival = is_there
                self._log.rival(is_there, now_s)

    def see_store(self, error: str, now_s: float) -> None:
        """Why the store did not answer just now; "" if it did. Workers notice only as they save."""
        with self._lock:
            self._log.store(error, now_s)

    def tick(self, now_s: float) -> None:
        """Look for workers that have fallen silent; see whether more or fewer are wanted."""
        with self._lock:
            self._compare_with_store(now_s)
            self._leases.look(self._assignment.owners, now_s)
            self._autoscale(now_s)
            self._act(now_s)

    def scale(self, workers: int, now_s: float, reason: str = "asked for") -> None:
        """Let so many workers serve. Raises ValueError, StoreError."""
        if not 1 <= workers <= KEY_GROUPS:
            raise ValueError(f"workers must be 1 .. {KEY_GROUPS}: {workers}")
        with self._lock:
            self._scale(workers, now_s, reason)
            self._act(now_s)

    def end(self) -> None:
        """The runtime ends in good order: how many workers were asked for was for as long as it is up."""
        with self._lock:
            self._wanted.forget()
            note_drained_nodes(self._store, ())

    def drain(self, name: str, now_s: float) -> list[str]:
        """Empty and end a worker, or all workers of a node (its id, or its address); return their names."""
        with self._lock:
            beats = [member.beat for member in self._members.by_name.values() if name in _names(member.beat)]
            for beat in beats:
                self._staff.leaving.add(beat.owner)
                self._log.note(now_s, "drains", f"{beat.owner} on {beat.node or 'this machine'}")
            self._act(now_s)
            return [beat.name for beat in beats]

    # ---- what others may know ----

    @property
    def drained_nodes(self) -> frozenset[str]:
        return self._drained_nodes

    def routes(self) -> dict[str, Any]:
        """The workers that serve, with their endpoints; how many are wanted, and where all tell their metrics: standbys
        too."""
        with self._lock:
            serving = self._members.among(self._assignment.owners)
            return {
                "workers": [describe(member, self._book.epochs_of(member.beat.owner)) for member in serving],
                "wanted": self._wanted.number + self._policy.standbys,
                "taken_by": self._assignment.taken_by,
                "metrics_urls": {name: member.beat.metrics_url for name, member in self._members.by_name.items()},
            }

    def cluster(self, now_s: float) -> dict[str, Any]:
        """Everything about every worker."""
        with self._lock:
            owners = self._assignment.owners
            return {
                "lease_s": self._lease_s,
                "workers_wanted": self._wanted.number,
                "standbys_wanted": self._policy.standbys,
                "table_version": self._book.table.version,
                "moving_groups": len(self._asked),
                "taken_by": self._assignment.taken_by,
                "store_error": self._log.store_error,
                "events": self._log.events(now_s),
                "workers": [
                    describe_fully(
                        member,
                        self._book.epochs_of(owner := member.beat.owner),
                        now_s,
                        serves=owner in owners,
                        leaves=owner in self._staff.leaving,
                    )
                    for member in self._members.by_name.values()
                ],
            }

    # ---- with the lock held ----

    def _act(self, now_s: float) -> None:
        """Give groups that are free to owners; while none is on the move, ask owners for those that should be
        elsewhere; see that as many workers are there as are wanted. Last, write down what beats are answered with."""
        self._acted_s = now_s
        facts = self._facts(now_s)
        todo = plan(facts, self._policy)
        for owner, groups in todo.claims.items():
            self._claim(owner, groups, facts, now_s)
        known = {member.beat.owner for member in self._members.by_name.values()}
        living = {owner for owner in known if not self._leases.is_dead(owner)}
        self._asked.forget_answered(self._assignment.groups, living)
        if todo.claims:  # who has them now may make others move
            todo = plan(self._facts(now_s), self._policy)
        if not self._asked:
            if not self._assignment.owners.issuperset(targets(facts)):
                self._filling_until_s = now_s + self._policy.settle_s / 3
            for owner, groups in todo.releases.items():
                self._ask_for(owner, groups, now_s)
        self._change_staff(now_s)
        self._log.count_roles(self._members, self._assignment.owners, self._wanted.number, now_s)
        self._write_book(now_s)

    def _write_book(self, now_s: float) -> None:
        endpoint_of = {
            member.beat.owner: member.beat.endpoint
            for member in self._members.heard_lately(now_s)
            if member.beat.owner not in self._staff.ending
        }
        self._book.write(self._assignment.groups, self._asked.by_owner(), endpoint_of)

    def _facts(self, now_s: float) -> Facts:
        over = {owner for owner in self._assignment.owners if self._leases.is_over(owner, now_s)}
        heard = {member.beat.owner for member in self._members.heard_lately(now_s)}
        return Facts(
            members=self._members.by_name,
            ownership=self._assignment.groups,
            over=over,
            serving=self._wanted.number,
            alive={owner for owner in heard - self._staff.ending if not self._leases.is_dead(owner)},
            leaving=self._staff.leaving,
            loads=self._loads.rates,
            is_settled=now_s - self._moved_s >= self._policy.settle_s or now_s < self._filling_until_s,
            nodes=self._nodes,
        )

    def _claim(self, owner: str, groups: tuple[int, ...], facts: Facts, now_s: float) -> None:
        """Give these groups to an owner, but for those of another one whose lease could not be ended: it may live."""
        former = {self._assignment.owner_of(group) for group in groups} - {""}
        ended = {one for one in former & set(facts.over) if self._end_lease(one, now_s)}
        free = [
            group for group in groups if (one := self._assignment.owner_of(group)) not in facts.over or one in ended
        ]
        expected = self._assignment.epochs_of(free)
        if not expected:
            return
        try:
            epochs = self._assignment.claim(owner, expected)
        except StoreFenced:  # another controller has been here: its word counts
            self._read_store(now_s)
            return
        except StoreError as error:
            self._seldom.warn(now_s, f"cannot assign key groups to {owner}", error)
            self._break_lock(error, ended, now_s)
            return
        self._leases.granted(owner, now_s)
        self._moved_s = now_s
        self._loads.moved(epochs, now_s)
        self._tell_of_claim(owner, expected, former & set(facts.over), now_s)
        self._leases.forget_dead(self._assignment.owners)
        self._hands.nudge(worker_of(owner))

    def _tell_of_claim(self, owner: str, expected: dict[int, int], gone: set[str], now_s: float) -> None:
        is_first = not any(expected.values()) or (bool(gone) and gone <= self._of_before)
        waited_s = self._asked.waited_s(expected, now_s)
        self._log.claimed(owner, len(expected), gone, waited_s, now_s, is_first=is_first)

    def _end_lease(self, owner: str, now_s: float) -> bool:
        """False if that cannot be said."""
        try:
            return self._leases.end(owner, now_s)
        except StoreError as error:
            self._seldom.warn(now_s, f"cannot end the lease of {owner}", error)
            self._break_lock(error, [owner], now_s)
            return False

    def _break_lock(self, error: StoreError, over: Collection[str], now_s: float) -> None:
        """A worker that was stopped in the middle of a write keeps the store's lock from all others, for as long as it
        lives. Its lease is over: nothing that it holds is lost with it."""
        if not isinstance(error, StoreLocked):
            return
        for owner in over:
            member = self._members.of_owner(owner)
            if member is not None:
                self._log.note(now_s, "killed", f"{owner} is silent, and may hold the store's lock")
                self._hands.kill(member.beat)

    def _ask_for(self, owner: str, groups: tuple[int, ...], now_s: float) -> None:
        self._asked.ask(groups, self._assignment.groups, now_s)
        log.info("%s is asked to give up %d key groups", owner, len(groups))
        self._hands.nudge(worker_of(owner))

    def _change_staff(self, now_s: float) -> None:
        """Ask for workers that are missing; end those that own nothing and are not wanted."""
        changes = self._staff.change(self._facts(now_s), self._policy.standbys, bool(self._asked), now_s)
        for name in changes.starts:
            log.info("starting %s", name)
            self._hands.start(name, changes.stay)
        for owner in changes.ends:
            self._log.note(now_s, "ended", f"{owner} is not wanted any more")
            self._hands.stop(worker_of(owner))

    def _welcome(self, beat: Beat, now_s: float) -> None:
        """Or turn it away: then it counts as still on its way, so that it is tried again after a while."""
        alive, owners = self._facts(now_s).alive, self._assignment.owners
        serving = [member.beat for member in self._members.among(owners.intersection(alive))]
        other = None if beat.owner in owners else of_another_model(beat, serving)
        if other is None:
            self._staff.came(beat.name)
            return
        self._staff.leaving.add(beat.owner)
        why = f"its model ({beat.model:.12}) is not that of {other.name} ({other.model:.12}), which serves"
        text = f"{beat.name}: {why}: all change it together, by `grf down`"
        self._log.note(now_s, "does not start", text, logging.WARNING)

    def _bury(self, beat: Beat, now_s: float, why: str) -> None:
        self._log.note(now_s, "died", f"{beat.owner}: {why}")
        self._leases.died(beat.owner)
        self._members.forget(beat.name)
        self._staff.went(beat, now_s)

    def _scale(self, workers: int, now_s: float, reason: str) -> None:
        before = self._wanted.number
        if workers != before:
            self._wanted.ask_for(workers)
            self._log.scaled(before, workers, reason, now_s)

    def _autoscale(self, now_s: float) -> None:
        owners = self._assignment.owners
        load = Load.of([member.beat for member in self._members.heard_lately(now_s) if member.beat.owner in owners])
        if load is None:
            return
        decision = self._autoscaler.decide(load, self._wanted.number, now_s)
        if decision is not None:
            try:
                self._scale(decision.workers, now_s, decision.reason)
            except StoreError as error:
                self._seldom.warn(now_s, "cannot scale", error)

    def _compare_with_store(self, now_s: float) -> None:
        """Another runtime may have taken our groups: the store knows, and nobody else would say so."""
        if not self._has_rival and not any(member.beat.fenced for member in self._members.by_name.values()):
            return
        try:
            if self._assignment.is_stale():
                self._read_store(now_s)
        except StoreError as error:
            self._seldom.warn(now_s, "cannot see who owns the key groups", error)
        if self._has_rival:  # its workers need not renew at the store: they are heard there
            for owner in self._assignment.strangers:
                self._leases.heard(owner, now_s)

    def _read_store(self, now_s: float) -> None:
        heard_s = {member.beat.owner: member.heard_s for member in self._members.by_name.values()}
        before = self._assignment.groups.keys()
        for owner, n_groups in self._assignment.read(heard_s.keys()).items():
            text = f"{n_groups} key groups by {owner}, of another runtime on the same store: one of the two must stop"
            self._log.note(now_s, "taken", text, logging.ERROR)
        if lost := before - self._assignment.groups.keys():
            text = f"it has lost {len(lost)} key groups, maybe sessions: was it emptied, or does it drop keys?"
            self._log.note(now_s, "store", text, logging.ERROR)
        self._leases.read(heard_s, now_s)


def _names(beat: Beat) -> tuple[str, str, str]:
    return beat.name, beat.node, urlsplit(beat.endpoint).hostname or ""
