"""Several workers over real sockets: sessions move, workers die, the controller is away; streams go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from runtime.client import Publisher, PublisherEvent, StateClient
from runtime.keys import SessionKey, key_group
from runtime.leases import lease_clock
from runtime.worker import Worker
from tests.runtime.toy_model import SIGNATURE
from tests.runtime.worker_cluster import WorkerCluster

MODALITY = SIGNATURE.modalities[0]
SESSIONS = [f"s{number}" for number in range(24)]
FRAMES = np.ones((2, MODALITY.width), np.float32)


class Load:
    """One publisher that streams to all sessions until it is stopped."""

    def __init__(self, endpoint: str) -> None:
        self.events: list[PublisherEvent] = []
        self.publisher = Publisher(endpoint, on_event=self.events.append)
        self.rounds = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.03):
            self.rounds += 1
            for session in SESSIONS:
                self.publisher.publish(session, "left", MODALITY.name, FRAMES, self.rounds * 0.03)

    def go_on_for(self, rounds: int) -> None:
        upto = self.rounds + rounds
        wait_until(lambda: self.rounds >= upto)

    def finish(self) -> None:
        """All that was published is durable, and nobody was told anything."""
        self._stopping.set()
        self._thread.join()
        for session in SESSIONS:
            self.publisher.end(session, "left")
        self.publisher.flush(30.0)
        stats = self.publisher.stats
        assert (stats.durable, stats.refused) == (len(SESSIONS) * self.rounds, 0)
        assert self.events == []
        self.publisher.close()


def wait_until(is_so: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[WorkerCluster]:
    with WorkerCluster(tmp_path, workers=2, standbys=1) as running:
        running.wait_until_balanced(2)
        yield running


def served_by(cluster: WorkerCluster, load: Load) -> dict[str, str]:
    """By session: the worker that has it in memory."""
    return {key.session: name for name, worker in cluster.workers.items() for key in resident(worker)}


def resident(worker: Worker) -> list[SessionKey]:
    return worker._loop.call(lambda: list(worker._dispatcher.engine.sessions)).result(10.0)


def check_states(cluster: WorkerCluster, load: Load) -> None:
    with StateClient(cluster.endpoint(next(iter(cluster.serving())))) as reader:
        for session in SESSIONS:
            assert reader.state(session)["settled"]["version"] == load.rounds
        assert set(reader.sessions()[0]) == set(SESSIONS)


def test_sessions_are_spread_and_every_client_finds_them_from_any_worker(cluster: WorkerCluster) -> None:
    standby = next(name for name in cluster.workers if name not in cluster.serving())
    load = Load(cluster.endpoint(standby))
    load.go_on_for(5)
    assert len(set(served_by(cluster, load).values())) == 2
    load.finish()
    check_states(cluster, load)


def test_every_worker_tells_of_its_process_where_prometheus_is_told_to_look(cluster: WorkerCluster) -> None:
    urls = cluster.controller.routes()["metrics_urls"]
    assert urls.keys() == {"worker-0", "worker-1", "worker-2"}, "the standby too"
    for url in urls.values():
        assert "process_resident_memory_bytes" in httpx.get(url).text


def test_who_follows_all_sessions_hears_of_those_of_every_worker(cluster: WorkerCluster) -> None:
    load = Load(cluster.endpoint("worker-0"))
    with StateClient(cluster.endpoint("worker-1")) as reader:
        seen = set()
        for update in reader.subscribe("", timeout_s=10.0):
            seen.add(update.state["session"])
            if len(seen) == len(SESSIONS):
                break
    load.finish()
    assert seen == set(SESSIONS)


def test_sessions_move_to_a_new_worker_and_back_and_the_publisher_is_told_nothing(cluster: WorkerCluster) -> None:
    load = Load(cluster.endpoint("worker-0"))
    load.go_on_for(5)
    cluster.controller.scale(3, time.monotonic())
    cluster.wait_until_balanced(3)
    load.go_on_for(10)
    assert len(set(served_by(cluster, load).values())) == 3
    cluster.controller.scale(1, time.monotonic())
    cluster.wait_until_balanced(1)
    load.go_on_for(5)
    load.finish()
    check_states(cluster, load)


def test_a_standby_takes_over_at_once_from_a_worker_that_dies(cluster: WorkerCluster) -> None:
    load = Load(cluster.endpoint("worker-0"))
    load.go_on_for(10)
    victim = next(iter(cluster.serving()))
    cluster.crash(victim)
    began_s = time.monotonic()
    table = load.publisher._driver.core._endpoint_of
    moved = [one for one in SESSIONS if table.get(key_group(SessionKey("default", one)))]
    assert moved
    cluster.wait_until_balanced(2)
    assert time.monotonic() - began_s < 2.0
    load.go_on_for(10)
    load.finish()
    check_states(cluster, load)


def test_streams_flow_and_queries_are_answered_while_the_controller_is_away_for_longer_than_a_lease(
    cluster: WorkerCluster,
) -> None:
    load = Load(cluster.endpoint("worker-0"))
    load.go_on_for(5)
    cluster.is_deaf = True
    lease_s = cluster.settings.runtime.lease_s
    renewed_until_s = lease_clock() + 2.5 * lease_s  # as who renews by itself 1.5 leases from now does
    leases = [cluster.workers[name]._dispatcher.lease for name in cluster.serving()]
    wait_until(lambda: not any(lease.is_over(renewed_until_s) for lease in leases))
    load.go_on_for(5)
    with StateClient(cluster.endpoint("worker-0")) as reader:
        assert all(reader.state(session)["version"] > 0 for session in SESSIONS)
    before = cluster.serving()
    cluster.controller = cluster.new_controller()
    cluster.is_deaf = False
    wait_until(lambda: cluster.serving() == before)
    load.finish()
    check_states(cluster, load)


def test_a_worker_cut_off_from_controller_and_store_stops_answering_by_itself(cluster: WorkerCluster) -> None:
    name = next(iter(cluster.serving()))
    worker = cluster.workers[name]
    worker._send_beat = lambda beat: (_ for _ in ()).throw(ConnectionError("cut off"))
    worker._renew_at_store = lambda owner: None  # type: ignore[method-assign]  # nor does it reach the store

    def owns() -> bool:
        return bool(worker._loop.call(lambda: worker._dispatcher.owned.epochs).result(10.0))

    began_s = time.monotonic()
    wait_until(lambda: not owns())
    assert time.monotonic() - began_s < cluster.settings.runtime.lease_s + 0.5
    wait_until(lambda: sum(groups for other, groups in cluster.serving().items() if other != name) == 1024)
