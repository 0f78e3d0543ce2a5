from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from runtime.controller import Controller
from runtime.controller_actor import patiently
from runtime.keys import KEY_GROUPS
from runtime.orders import Orders
from runtime.placement import Beat, ClusterPolicy
from runtime.store.base import StoreError, StoreFenced, StoreUnavailable, StoreUnusable
from runtime.store.memory import MemoryDisk, MemoryStore
from runtime.store.sqlite import SqliteStore

LEASE_S = 2.0


class Hands:
    def __init__(self) -> None:
        self.started: list[str] = []
        self.beside: list[list[str]] = []
        self.stopped: list[str] = []
        self.nudged: list[str] = []
        self.killed: list[str] = []

    def start(self, name: str, beside: Collection[str]) -> None:
        self.started.append(name)
        self.beside.append(sorted({*beside} - {name}))

    def stop(self, name: str) -> None:
        self.stopped.append(name)

    def nudge(self, name: str) -> None:
        self.nudged.append(name)

    def kill(self, beat: Beat) -> None:
        self.killed.append(beat.owner)


class Cluster:
    """A controller on a disk, and what it has asked for."""

    def __init__(
        self, disk: MemoryDisk | None = None, now_s: float = 0.0, expected: tuple[str, ...] = (), **policy: int
    ) -> None:
        self.disk = disk or MemoryDisk()
        self.hands = Hands()
        self.registry = CollectorRegistry()
        store = MemoryStore(self.disk)
        settings = ClusterPolicy(**policy)
        self.controller = Controller(store, self.hands, settings, LEASE_S, self.registry, now_s, expected)

    def orders(
        self,
        name: str,
        incarnation: str,
        now_s: float,
        released: dict[int, int] | None = None,
        *,
        node: str = "",
        fenced: bool = False,
        leaves: bool = False,
        model: str = "",
    ) -> Orders:
        beat = Beat(
            name,
            incarnation,
            f"tcp://{name}",
            "http://m",
            released=released or {},
            node=node,
            fenced=fenced,
            leaves=leaves,
            model=model,
        )
        return self.controller.beat(beat, now_s)

    def beat(self, name: str, incarnation: str, now_s: float) -> dict[int, int]:
        return self.orders(name, incarnation, now_s).epochs

    def events(self, kind: str) -> list[str]:
        return [event["text"] for event in self.controller.cluster(0.0)["events"] if event["kind"] == kind]


def move_all(cluster: Cluster, source: str, others: list[str], now_s: float) -> None:
    """Let a worker give up what it is asked for, until it is asked for nothing."""
    released: dict[int, int] = {}
    for _ in range(40):
        orders = cluster.orders(source, "1", now_s, released)
        released = {group: epoch for group, epoch in released.items() if orders.epochs.get(group) == epoch}
        released |= {group: orders.epochs[group] for group in orders.releases}
        for other in others:
            cluster.beat(other, "1", now_s)
        if not orders.releases:
            return
    raise AssertionError("it never comes to rest")


# ---- beginnings ----


def test_a_controller_without_workers_starts_those_wanted_and_no_more() -> None:
    cluster = Cluster(workers=2, standbys=1)
    for now_s in (0.0, 0.5, 1.0):
        cluster.controller.tick(now_s)
    assert cluster.hands.started == ["worker-0", "worker-1", "worker-2"]


def test_a_worker_that_does_not_come_up_is_replaced() -> None:
    cluster = Cluster()
    cluster.controller.tick(0.0)
    cluster.controller.tick(61.0)
    assert len(cluster.hands.started) == 2


def test_the_first_beat_brings_all_groups_the_route_and_the_table() -> None:
    cluster = Cluster()
    orders = cluster.orders("worker-0", "a", 1.0)
    assert orders.epochs == dict.fromkeys(range(KEY_GROUPS), 1)
    assert [worker["endpoint"] for worker in cluster.controller.routes()["workers"]] == ["tcp://worker-0"]
    assert orders.table is not None
    assert (orders.table.version, list(orders.table.groups_of)) == (KEY_GROUPS, ["tcp://worker-0"])


def test_the_metrics_of_standbys_are_told_and_they_are_no_route() -> None:
    cluster = Cluster(standbys=1)
    cluster.beat("worker-0", "a", 1.0)
    cluster.beat("worker-1", "b", 1.1)
    routes = cluster.controller.routes()
    assert [worker["name"] for worker in routes["workers"]] == ["worker-0"]
    assert routes["metrics_urls"] == {"worker-0": "http://m", "worker-1": "http://m"}


def test_a_new_worker_is_to_be_away_from_those_that_stay_and_may_be_where_one_leaves() -> None:
    cluster = Cluster(workers=2)
    for name in ("worker-0", "worker-1"):
        cluster.beat(name, "1", 1.0)
    cluster.controller.drain("worker-0", 2.0)
    assert (cluster.hands.started, cluster.hands.beside) == (["worker-1", "worker-2"], [["worker-0"], ["worker-1"]])


# ---- deaths ----


def test_a_worker_restarted_on_its_port_owns_at_a_higher_epoch_and_its_last_life_is_fenced() -> None:
    cluster = Cluster()
    first = cluster.beat("worker-0", "a", 1.0)
    second = cluster.beat("worker-0", "b", 2.0)
    assert second == {group: epoch + 1 for group, epoch in first.items()}
    with pytest.raises(StoreFenced):
        MemoryStore(cluster.disk).claim("worker-0/a", first | {0: 0})


def test_one_restarted_elsewhere_waits_for_the_lease_of_its_last_life() -> None:
    """Ray may have given up a node that is only cut off."""
    cluster = Cluster()
    cluster.beat("worker-0", "a", 1.0)
    elsewhere = Beat("worker-0", "b", "tcp://elsewhere", "http://m")
    assert cluster.controller.beat(elsewhere, 1.5).epochs == {}
    assert len(cluster.controller.beat(elsewhere, 3.1).epochs) == KEY_GROUPS


def test_a_silent_worker_is_replaced_and_owns_nothing_when_it_wakes() -> None:
    cluster = Cluster()
    cluster.beat("worker-0", "a", 1.0)
    cluster.controller.tick(7.0)
    assert cluster.hands.started == ["worker-1"]
    assert cluster.beat("worker-1", "b", 8.0) == dict.fromkeys(range(KEY_GROUPS), 2)
    assert cluster.beat("worker-0", "a", 9.0) == {}
    roles = {worker["name"]: worker["role"] for worker in cluster.controller.cluster(9.0)["workers"]}
    assert roles == {"worker-0": "standby", "worker-1": "serving"}


def test_a_standby_takes_over_the_moment_a_process_is_known_to_be_dead() -> None:
    cluster = Cluster(standbys=1)
    cluster.beat("worker-0", "a", 1.0)
    assert cluster.beat("worker-1", "b", 1.1) == {}
    cluster.controller.died("worker-0/a", 1.2)
    assert cluster.hands.nudged[-1] == "worker-1"
    assert len(cluster.beat("worker-1", "b", 1.21)) == KEY_GROUPS
    assert cluster.hands.started == ["worker-1"], "Ray restarts the dead one"
    assert len(cluster.beat("worker-1", "b", 5.0)) == KEY_GROUPS
    assert cluster.beat("worker-0", "c", 5.0) == {}, "and it becomes the next standby"


def test_a_worker_of_another_model_than_those_that_serve_gets_nothing_and_is_tried_again_later() -> None:
    """As where the bundle was replaced and a worker has crashed: two models at once reset sessions at each move."""
    cluster = Cluster(workers=2)
    cluster.controller.tick(0.0)
    cluster.orders("worker-0", "a", 1.0, model="old")
    assert cluster.orders("worker-1", "a", 1.1, model="new").epochs == {}
    assert cluster.hands.stopped == ["worker-1"]
    assert cluster.events("does not start") == [
        "worker-1: its model (new) is not that of worker-0 (old), which serves: all change it together, by `grf down`"
    ]
    cluster.controller.died("worker-1/a", 2.0)
    cluster.orders("worker-0", "a", 50.0, model="old")
    assert cluster.hands.started == ["worker-0", "worker-1"]
    cluster.orders("worker-0", "a", 61.0, model="old")
    assert cluster.hands.started == ["worker-0", "worker-1", "worker-1"]
    cluster.orders("worker-1", "b", 62.0, model="old")
    assert cluster.hands.stopped == ["worker-1"]


def test_a_worker_of_another_model_takes_over_where_nobody_serves_any_more() -> None:
    cluster = Cluster()
    cluster.orders("worker-0", "a", 1.0, model="old")
    cluster.controller.died("worker-0/a", 1.1)
    assert len(cluster.orders("worker-0", "b", 5.0, model="new").epochs) == KEY_GROUPS


def test_those_that_serve_stay_when_the_controller_is_restarted_whoever_beats_first() -> None:
    disk = Cluster(workers=2)
    disk.orders("worker-0", "a", 1.0, model="old")
    restarted = Cluster(disk.disk, 2.0, expected=("worker-0", "worker-1"), workers=2)
    restarted.orders("worker-1", "b", 2.1, model="new")
    assert len(restarted.orders("worker-0", "a", 2.2, model="old").epochs) == KEY_GROUPS


def test_a_worker_that_renews_at_the_store_is_not_replaced_though_it_is_silent_here() -> None:
    cluster = Cluster(standbys=1)
    worker = MemoryStore(cluster.disk)
    cluster.beat("worker-0", "a", 1.0)
    cluster.beat("worker-1", "b", 1.0)
    for now_s in (2.0, 3.2, 4.0, 5.0):
        worker.renew("worker-0/a", worker.leases()["worker-0/a"])
        cluster.controller.tick(now_s + 0.1)
        assert cluster.beat("worker-1", "b", now_s + 0.1) == {}
    assert cluster.beat("worker-1", "b", 7.0) == {}
    assert cluster.beat("worker-1", "b", 7.2) != {}
    with pytest.raises(StoreFenced):
        worker.renew("worker-0/a", 0)


def test_a_silent_worker_cannot_renew_once_its_groups_are_given_away() -> None:
    cluster = Cluster(standbys=1)
    worker = MemoryStore(cluster.disk)
    cluster.beat("worker-0", "a", 1.0)
    cluster.beat("worker-1", "b", 3.0)
    assert cluster.beat("worker-1", "b", 3.1) != {}
    assert "worker-0/a" not in worker.leases()


def test_what_was_claimed_is_counted_although_the_store_does_not_answer_after_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster()
    claim = MemoryStore.claim

    def claim_and_go(store: MemoryStore, owner: str, expected: Mapping[int, int]) -> dict[int, int]:
        epochs = claim(store, owner, expected)
        cluster.disk.away = "cut off"
        return epochs

    monkeypatch.setattr(MemoryStore, "claim", claim_and_go)
    assert len(cluster.beat("worker-0", "a", 1.0)) == KEY_GROUPS
    assert cluster.events("claimed") == [f"{KEY_GROUPS} key groups to worker-0/a"]
    assert cluster.hands.nudged == ["worker-0"]


def test_a_store_that_does_not_answer_is_told_once_although_nobody_publishes() -> None:
    cluster = Cluster()
    for error in ("", "Redis is away", "Redis is still away", ""):
        cluster.controller.see_store(error, 1.0)
        assert cluster.controller.cluster(1.0)["store_error"] == error
        assert cluster.registry.get_sample_value("grf_store_up") == (not error)
    assert cluster.events("store") == ["it does not answer: Redis is away", "it answers again"]


def test_a_store_that_was_emptied_is_told_and_its_key_groups_are_claimed_again() -> None:
    cluster = Cluster()
    cluster.beat("worker-0", "a", 1.0)
    cluster.disk.groups.clear()
    cluster.orders("worker-0", "a", 2.0, fenced=True)
    cluster.controller.tick(2.1)
    assert [text[:23] for text in cluster.events("store")] == [f"it has lost {KEY_GROUPS} key gr"]
    assert len(cluster.beat("worker-0", "a", 2.2)) == KEY_GROUPS


# ---- restarts of the controller ----


def test_a_restarted_controller_leaves_a_living_worker_alone() -> None:
    first = Cluster()
    epochs = first.beat("worker-0", "a", 1.0)
    after = Cluster(first.disk, now_s=2.0, expected=("worker-0",))
    after.controller.tick(2.0)
    assert after.hands.started == []
    assert after.beat("worker-0", "a", 2.1) == epochs


def test_a_restarted_controller_waits_one_lease_for_an_owner_it_has_not_heard_of() -> None:
    first = Cluster()
    first.beat("worker-0", "a", 1.0)
    after = Cluster(first.disk, now_s=10.0)
    assert after.beat("worker-1", "b", 11.0) == {}
    assert len(after.beat("worker-1", "b", 12.1)) == KEY_GROUPS


def test_who_stands_by_beside_another_is_started_anew_where_there_is_an_empty_node() -> None:
    cluster = Cluster(standbys=1)

    def beats(now_s: float) -> None:
        for name in ("worker-0", "worker-1"):
            if name not in cluster.hands.stopped:
                cluster.orders(name, "a", now_s, node="n1")

    beats(0.0)
    cluster.controller.see_nodes(["n1"])
    beats(1.0)
    assert cluster.hands.stopped == [], "there is nowhere else to go"
    cluster.controller.see_nodes(["n1", "n2"])
    beats(2.0)
    assert cluster.hands.stopped == ["worker-1"]
    cluster.hands.stopped.clear()
    beats(20.0)  # Ray has started it on the same node again
    beats(21.0)
    assert cluster.hands.stopped == [], "once for an empty node"


def test_a_node_that_was_drained_stays_so_for_a_controller_that_comes_after() -> None:
    first = Cluster()
    first.controller.note_drained(["n1"])
    after = Cluster(first.disk, 2.0)
    assert after.controller.drained_nodes == {"n1"}
    after.controller.end()
    assert not Cluster(first.disk, 3.0).controller.drained_nodes, "of another runtime"


def test_who_starts_on_a_node_that_is_drained_leaves_it_while_there_is_another() -> None:
    cluster = Cluster(workers=1)
    cluster.controller.see_nodes([], ["n1"])
    assert not cluster.orders("worker-0", "a", 0.0, node="n1").leaves
    cluster.controller.see_nodes(["n2"], ["n1"])
    assert cluster.orders("worker-0", "a", 1.0, node="n1").leaves
    assert not cluster.orders("worker-1", "a", 1.0, node="n2").leaves


def test_a_restarted_controller_does_not_fill_a_standby_that_it_hears_of_before_those_that_serve() -> None:
    first = Cluster(workers=2, standbys=1)
    for name in ("worker-0", "worker-1", "worker-2"):
        first.beat(name, "1", 1.0)
    move_all(first, "worker-0", ["worker-1", "worker-2"], 1.1)
    after = Cluster(first.disk, now_s=2.0, expected=("worker-0", "worker-1", "worker-2"), workers=2, standbys=1)
    for now_s in (2.1, 2.4):
        for name in ("worker-2", "worker-0", "worker-1"):
            assert after.orders(name, "1", now_s).releases == ()


def test_how_many_workers_were_asked_for_survives_the_controller() -> None:
    first = Cluster()
    first.controller.scale(3, 1.0)
    after = Cluster(first.disk)
    after.controller.tick(0.0)
    assert len(after.hands.started) == 3


def wanted(cluster: Cluster) -> int:
    return int(cluster.controller.cluster(0.0)["workers_wanted"])


def test_a_runtime_started_with_another_setting_is_heard_and_what_was_scaled_before_is_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    first = Cluster(workers=1)
    first.controller.scale(3, 1.0)
    assert wanted(Cluster(first.disk, workers=1)) == 3
    assert "3 workers are to serve, as was asked for since cluster.workers is 1" in caplog.text
    changed = Cluster(first.disk, workers=2)
    assert wanted(changed) == 2
    assert "cluster.workers is 2 now, it was 1: the 3 that were asked for count no more" in caplog.text
    assert wanted(Cluster(first.disk, workers=1)) == 1, "for good"


def test_after_an_end_in_good_order_the_setting_counts_though_it_is_the_same() -> None:
    first = Cluster(workers=1)
    first.controller.scale(3, 1.0)
    first.controller.end()
    assert wanted(Cluster(first.disk, workers=1)) == 1


def test_a_number_noted_by_an_earlier_version_counts_and_a_store_that_takes_no_note_is_no_hindrance() -> None:
    disk = MemoryDisk(notes={"workers": "3"})
    assert wanted(Cluster(disk, workers=1)) == 3
    cluster = Cluster(disk, workers=1)
    disk.away = "full"
    cluster.controller.end()


def test_what_a_worker_had_given_up_when_the_controller_died_finds_an_owner() -> None:
    first = Cluster(workers=2)
    epochs = first.beat("worker-0", "1", 1.0)
    after = Cluster(first.disk, now_s=2.0, workers=2)
    after.beat("worker-1", "1", 2.1)
    after.orders("worker-0", "1", 2.2, released={5: epochs[5]})
    assert 5 in after.beat("worker-1", "1", 2.3)


def test_while_the_store_is_away_nothing_is_claimed_and_afterwards_it_is() -> None:
    cluster = Cluster()
    cluster.disk.away = "disk on fire"
    assert cluster.beat("worker-0", "a", 1.0) == {}
    cluster.disk.away = ""
    assert len(cluster.beat("worker-0", "a", 2.0)) == KEY_GROUPS


def test_a_store_that_is_away_as_a_worker_dies_is_not_told_at_every_tick(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    cluster.beat("worker-0", "a", 1.0)
    cluster.disk.away = "Redis is away"
    cluster.controller.died("worker-0/a", 2.0)
    for tick in range(40):
        cluster.beat("worker-1", "b", 2.0 + tick / 4)
        cluster.controller.tick(2.0 + tick / 4)
    assert sum("Redis is away" in message for message in caplog.messages) == 2
    cluster.disk.away = ""
    assert len(cluster.beat("worker-1", "b", 13.0)) == KEY_GROUPS


@pytest.mark.parametrize("error", [StoreUnavailable("stopped"), StoreUnusable("it asks for a password")])
def test_a_controller_waits_for_its_store_whatever_is_wrong_with_it(
    monkeypatch: pytest.MonkeyPatch, error: StoreError
) -> None:
    answers: list[StoreError | None] = [error, error, None]

    def make() -> str:
        if answer := answers.pop(0):
            raise answer
        return "made"

    monkeypatch.setattr("runtime.controller_actor.time.sleep", lambda _: None)
    assert patiently(make) == "made"


class HandsOnLock(Hands):
    """The one that is killed held the store's lock."""

    def __init__(self, holder: sqlite3.Connection) -> None:
        super().__init__()
        self._holder = holder

    def kill(self, beat: Beat) -> None:
        super().kill(beat)
        self._holder.rollback()


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_worker_stopped_in_the_middle_of_a_write_is_killed_for_the_stores_lock(
    tmp_path: Path, is_counted: bool
) -> None:
    path = tmp_path / "grf.db"
    store = SqliteStore(path, busy_timeout_s=0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    hands = HandsOnLock(holder)
    controller = Controller(store, hands, ClusterPolicy(standbys=1), LEASE_S, CollectorRegistry(), 0.0)

    def beat(name: str, now_s: float) -> int:
        return len(controller.beat(Beat(name, "1", f"tcp://{name}", "http://m"), now_s).epochs)

    assert beat("worker-0", 0.0) == KEY_GROUPS
    if not is_counted:
        holder.execute("DELETE FROM leases")
        controller.tick(0.1)
    holder.execute("BEGIN IMMEDIATE")
    assert beat("worker-1", 1.9) == 0
    assert hands.killed == []
    assert beat("worker-1", 3.9) == 0
    assert hands.killed == ["worker-0/1"]
    assert beat("worker-1", 4.0) == KEY_GROUPS


def test_two_controllers_cannot_both_claim() -> None:
    disk = MemoryDisk()
    one, other = Cluster(disk), Cluster(disk)
    assert len(one.beat("worker-0", "a", 1.0)) == KEY_GROUPS
    assert other.beat("worker-9", "z", 1.0) == {}


# ---- moves ----


def test_scaling_up_moves_half_of_the_groups_and_every_one_has_an_owner_all_the_time() -> None:
    cluster = Cluster()
    cluster.beat("worker-0", "1", 1.0)
    cluster.controller.scale(2, 1.0)
    assert cluster.hands.started == ["worker-1"]
    cluster.beat("worker-1", "1", 1.1)
    move_all(cluster, "worker-0", ["worker-1"], 1.2)
    counts = {worker["name"]: worker["groups"] for worker in cluster.controller.cluster(1.2)["workers"]}
    assert sum(counts.values()) == KEY_GROUPS
    assert abs(counts["worker-0"] - counts["worker-1"]) <= KEY_GROUPS // 4


def test_a_drained_worker_is_emptied_and_ended_and_another_takes_its_place() -> None:
    cluster = Cluster()
    cluster.beat("worker-0", "1", 1.0)
    assert cluster.controller.drain("worker-0", 1.0) == ["worker-0"]
    assert cluster.hands.started == ["worker-1"]
    cluster.beat("worker-1", "1", 1.1)
    move_all(cluster, "worker-0", ["worker-1"], 1.2)
    assert cluster.hands.stopped == ["worker-0"]
    assert len(cluster.beat("worker-1", "1", 1.3)) == KEY_GROUPS


def test_a_worker_that_says_it_leaves_is_drained() -> None:
    cluster = Cluster(standbys=1)
    cluster.beat("worker-0", "1", 1.0)
    cluster.beat("worker-1", "1", 1.0)
    assert cluster.orders("worker-0", "1", 1.1, leaves=True).leaves
    assert cluster.orders("worker-0", "1", 1.2, leaves=True).releases


def test_scaling_down_empties_the_one_that_joined_last_and_ends_it() -> None:
    cluster = Cluster(workers=2)
    cluster.beat("worker-0", "1", 1.0)
    cluster.beat("worker-1", "1", 1.1)
    move_all(cluster, "worker-0", ["worker-1"], 1.2)
    cluster.controller.scale(1, 1.3)
    move_all(cluster, "worker-1", ["worker-0"], 1.4)
    assert cluster.hands.stopped == ["worker-1"]
    assert len(cluster.beat("worker-0", "1", 1.5)) == KEY_GROUPS


def test_a_drain_of_what_is_not_there_says_so() -> None:
    assert Cluster().controller.drain("worker-7", 1.0) == []


def takeovers(cluster: Cluster) -> dict[str, float | None]:
    counted = cluster.registry.get_sample_value
    return {reason: counted("grf_takeovers_total", {"reason": reason}) for reason in ("first", "owner_gone")}


@pytest.mark.parametrize(("expected", "deaths"), [((), 0), (("worker-0",), 1)])
def test_a_runtime_that_begins_again_counts_no_death_and_a_controller_that_does_counts_it(
    expected: tuple[str, ...], deaths: int
) -> None:
    before = Cluster(standbys=0)
    before.beat("worker-0", "1", 0.1)
    again = Cluster(before.disk, 100.0, expected, standbys=0)
    owned = {}
    for tenths in range(50):
        owned = again.beat("worker-0", "2", 100.0 + tenths / 10)
    assert len(owned) == KEY_GROUPS
    assert takeovers(again) == {"first": 1 - deaths, "owner_gone": deaths}
    again.controller.died("worker-0/2", 106.0)
    again.beat("worker-0", "3", 106.1)
    assert takeovers(again) == {"first": 1 - deaths, "owner_gone": deaths + 1}


def test_roles_takeovers_and_moves_are_counted() -> None:
    cluster = Cluster(workers=2)
    cluster.beat("worker-0", "1", 1.0)
    cluster.beat("worker-0", "1", 2.0)
    cluster.beat("worker-1", "1", 2.0)
    move_all(cluster, "worker-0", ["worker-1"], 2.1)
    assert cluster.registry.get_sample_value("grf_workers", {"role": "serving"}) == 2
    assert (cluster.registry.get_sample_value("grf_groups_moved_total") or 0) > 300
    deaths = cluster.registry.get_sample_value("grf_takeovers_total", {"reason": "owner_gone"})
    assert deaths == 0, "there before the first one, which is no increase else"
    cluster.controller.died("worker-1/1", 2.2)
    assert cluster.registry.get_sample_value("grf_takeovers_total", {"reason": "owner_gone"}) == 1
    assert cluster.events("failed over")
