from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from runtime.controller import Controller
from runtime.keys import KEY_GROUPS
from runtime.placement import Beat
from runtime.store.base import StoreFenced
from runtime.store.memory import MemoryDisk, MemoryStore

LEASE_S = 5.0


class Cluster:
    """A controller on a disk, and the names of the workers that it has asked for."""

    def __init__(self, disk: MemoryDisk, now_s: float = 0.0) -> None:
        self.disk = disk
        self.started: list[str] = []
        self.registry = CollectorRegistry()
        self.controller = Controller(MemoryStore(disk), self.started.append, LEASE_S, 60.0, self.registry, now_s)

    def beat(self, name: str, incarnation: str, now_s: float) -> dict[int, int]:
        return self.controller.beat(Beat(name, incarnation, f"tcp://{name}", "http://m"), now_s).epochs


def test_a_controller_without_workers_starts_one_and_only_one() -> None:
    cluster = Cluster(MemoryDisk())
    for now_s in (0.0, 0.5, 1.0):
        cluster.controller.tick(now_s)
    assert cluster.started == ["worker-0"]


def test_a_worker_that_does_not_come_up_is_replaced() -> None:
    cluster = Cluster(MemoryDisk())
    cluster.controller.tick(0.0)
    cluster.controller.tick(61.0)
    assert len(cluster.started) == 2


def test_the_first_beat_brings_all_groups_and_the_route() -> None:
    cluster = Cluster(MemoryDisk())
    epochs = cluster.beat("worker-0", "a", 1.0)
    assert epochs == dict.fromkeys(range(KEY_GROUPS), 1)
    assert [worker["endpoint"] for worker in cluster.controller.routes()["workers"]] == ["tcp://worker-0"]


def test_a_restarted_worker_owns_at_a_higher_epoch_and_its_last_life_is_fenced() -> None:
    disk = MemoryDisk()
    cluster = Cluster(disk)
    first = cluster.beat("worker-0", "a", 1.0)
    second = cluster.beat("worker-0", "b", 2.0)
    assert second == {group: epoch + 1 for group, epoch in first.items()}
    with pytest.raises(StoreFenced):
        MemoryStore(disk).claim("worker-0/a", first | {0: 0})
    assert cluster.beat("worker-0", "a", 2.5) != first


def test_a_silent_worker_is_replaced_and_owns_nothing_when_it_wakes() -> None:
    cluster = Cluster(MemoryDisk())
    cluster.beat("worker-0", "a", 1.0)
    cluster.controller.tick(7.0)
    assert cluster.started == ["worker-1"]
    assert cluster.beat("worker-1", "b", 8.0) == dict.fromkeys(range(KEY_GROUPS), 2)
    assert cluster.beat("worker-0", "a", 9.0) == {}
    roles = {worker["name"]: worker["role"] for worker in cluster.controller.cluster(9.0)["workers"]}
    assert roles == {"worker-0": "standby", "worker-1": "serving"}


def test_a_restarted_controller_leaves_a_living_worker_alone() -> None:
    disk = MemoryDisk()
    first = Cluster(disk).beat("worker-0", "a", 1.0)
    after = Cluster(disk, now_s=2.0)
    after.controller.tick(2.0)
    assert after.started == []
    assert after.beat("worker-0", "a", 2.1) == first


def test_while_the_store_is_away_nothing_is_claimed_and_afterwards_it_is() -> None:
    disk = MemoryDisk()
    cluster = Cluster(disk)
    disk.away = "disk on fire"
    assert cluster.beat("worker-0", "a", 1.0) == {}
    disk.away = ""
    assert len(cluster.beat("worker-0", "a", 2.0)) == KEY_GROUPS


def test_two_controllers_cannot_both_claim() -> None:
    disk = MemoryDisk()
    one, other = Cluster(disk), Cluster(disk)
    assert len(one.beat("worker-0", "a", 1.0)) == KEY_GROUPS
    assert other.beat("worker-9", "z", 1.0) == {}


def test_roles_and_takeovers_are_counted() -> None:
    cluster = Cluster(MemoryDisk())
    cluster.beat("worker-0", "a", 1.0)
    cluster.beat("worker-0", "b", 2.0)
    assert cluster.registry.get_sample_value("grf_takeovers_total", {"reason": "owner_gone"}) == 1
    assert cluster.registry.get_sample_value("grf_workers", {"role": "serving"}) == 1
