"""A worker is cut off from its store, from its publishers, or from all but these: nothing is lost, doubled or forked.

Real workers, sockets and Redis in this process; what is cut is a relay between the two (tests/relay.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.client import StateClient
from runtime.engine.order import FusionKey
from runtime.engine.session import NO_LINEAGE, extend_lineage
from tests.relay import Relay
from tests.runtime.test_worker_cluster import SESSIONS, Load, served_by, wait_until
from tests.runtime.worker_cluster import WorkerCluster
from tests.servers import RedisServer

VICTIM = "worker-0"


@dataclass
class Scene:
    cluster: WorkerCluster
    store: Relay
    """between the victim and the Redis"""
    data: Relay
    """between the victim and all clients"""

    def begin(self) -> Load:
        load = Load(self.cluster.endpoint("worker-1"))
        load.go_on_for(20)
        assert VICTIM in served_by(self.cluster, load).values()
        return load

    def end(self, load: Load) -> None:
        load.go_on_for(5)
        load.finish()
        lineage = NO_LINEAGE
        for number in range(1, load.rounds + 1):
            lineage = extend_lineage(lineage, FusionKey(number * 0.03, 0, "left", number))
        with StateClient(self.cluster.endpoint("worker-1")) as reader:
            for session in SESSIONS:
                state = reader.state(session)
                assert (state["settled"]["version"], state["lineage"]) == (load.rounds, lineage.hex())

    def owns_groups(self) -> bool:
        worker = self.cluster.workers[VICTIM]
        return bool(worker._loop.call(lambda: worker._dispatcher.owned.epochs).result(10.0))

    def store_fails(self) -> bool:
        return self.cluster.workers[VICTIM]._dispatcher.store.health.failing_since_s is not None


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    redis = RedisServer(tmp_path)
    redis.start()
    with Relay(redis.port) as store, Relay() as data:
        cluster = WorkerCluster(tmp_path, workers=2, standbys=1, store=redis.address)
        cluster.stores[VICTIM], cluster.relays[VICTIM] = f"redis://127.0.0.1:{store.port}", data
        with cluster:
            cluster.wait_until_balanced(2)
            yield Scene(cluster, store, data)
            store.heal()
            data.heal()
    redis.kill()


@pytest.mark.chaos
def test_a_worker_cut_off_from_its_store_calls_nothing_durable_and_catches_up(scene: Scene) -> None:
    load = scene.begin()
    scene.store.cut()
    wait_until(scene.store_fails)
    load.go_on_for(20)
    assert scene.owns_groups()
    behind = load.publisher.stats.published - load.publisher.stats.durable
    assert behind > 20 * len([one for one in served_by(scene.cluster, load).values() if one == VICTIM])
    scene.store.heal()
    scene.end(load)


@pytest.mark.chaos
def test_publishers_cut_off_from_a_worker_go_on_where_they_were(scene: Scene) -> None:
    load = scene.begin()
    scene.data.cut()
    load.go_on_for(130)  # four seconds: they give the connection up, and ask for another in vain
    assert load.publisher.stats.reconnects > 0
    scene.data.heal()
    scene.end(load)


def test_a_worker_cut_off_from_all_but_its_publishers_is_replaced_and_can_do_nothing_more(scene: Scene) -> None:
    load = scene.begin()
    scene.store.cut()
    scene.cluster.unheard.add(VICTIM)
    wait_until(lambda: VICTIM not in scene.cluster.serving())
    assert not scene.owns_groups()
    load.go_on_for(10)
    scene.store.heal()  # what it wrote last, and was held back, arrives now
    scene.cluster.unheard.clear()
    scene.end(load)
