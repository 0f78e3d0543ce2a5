"""The long form: under a steady load of many sessions, everything that may die does so, at random moments.

After each kind of event: lost 0, double 0, no session forked, every settled state as the offline model says.
"""

from __future__ import annotations

import os
import random
import select
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.running import finish_publisher, start_publishers, wait_until
from tests.cluster.running_cluster import RunningCluster
from tests.cluster.test_killing import check_settled

pytestmark = [pytest.mark.cluster, pytest.mark.chaos]
SESSIONS = 2000
PUBLISHERS = 4
"""processes for each of the two streams"""
COUNT = 6
TIMES = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    flags = ("cluster.workers=3", "cluster.standbys=1", "order.idle_timeout_s=10", "gateway.replicas=2")
    running = RunningCluster(tmp_path_factory.mktemp("chaos"), *flags, nodes=3)
    running.start()
    try:
        running.wait_for(serving=3, standby=1, within_s=120.0)
        yield running
    finally:
        running.close()


def under_load(cluster: RunningCluster, name: str, disturb: Callable[[], None]) -> None:
    sessions = [f"{name}-{number:04}" for number in range(SESSIONS)]
    shares = [sessions[number::PUBLISHERS] for number in range(PUBLISHERS)]
    publishers = start_publishers(cluster.address, *shares, count=COUNT, rate=100.0, flush_s=240.0)
    rng = random.Random(name)
    try:
        for _ in range(TIMES):
            select.select([], [], [], rng.uniform(2.0, 10.0))
            disturb()
        figures = [finish_publisher(publisher, within_s=400.0) for publisher in publishers]
    finally:
        for publisher in publishers:
            publisher.kill()
            publisher.communicate()
    for stats in figures:
        assert (stats["durable"], stats["refused"]) == (stats["published"], 0), stats["codes"]
    check_settled(cluster, sessions, COUNT)


def a_worker(cluster: RunningCluster) -> dict[str, Any]:
    """The gateway may take longer than usual to answer: eight publishers want a processor."""
    serving: list[dict[str, Any]] = wait_until(lambda: cluster.workers("serving"), 60.0, "somebody serves")
    return random.choice(serving)


def test_workers_killed(cluster: RunningCluster) -> None:
    def kill() -> None:
        os.kill(a_worker(cluster)["pid"], signal.SIGKILL)
        cluster.wait_for(serving=3, standby=1)

    under_load(cluster, "workers", kill)


def test_workers_stopped_for_ten_seconds(cluster: RunningCluster) -> None:
    def stop() -> None:
        pid = a_worker(cluster)["pid"]
        os.kill(pid, signal.SIGSTOP)
        select.select([], [], [], 10.0)
        os.kill(pid, signal.SIGCONT)
        cluster.wait_for(serving=3, standby=1)

    under_load(cluster, "stopped", stop)


@pytest.mark.parametrize("title", ["ControllerActor", "ServeReplica", "ProxyActor"])
def test_controller_gateway_and_proxy_killed(cluster: RunningCluster, title: str) -> None:
    def kill() -> None:
        os.kill(random.choice(cluster.pids_of(title)), signal.SIGKILL)
        wait_until(cluster.workers, 60.0, "the gateway answers")

    under_load(cluster, title.lower(), kill)


def test_redis_killed_and_started_again(cluster: RunningCluster) -> None:
    def restart() -> None:
        cluster.redis.kill()
        select.select([], [], [], 1.0)
        cluster.redis.start()

    under_load(cluster, "redis", restart)


def test_scaled_up_and_down(cluster: RunningCluster) -> None:
    def scale() -> None:
        for workers in (4, 2, 3):
            assert cluster.grf("scale", str(workers)).returncode == 0
            cluster.wait_for(serving=workers, standby=1, within_s=120.0)

    under_load(cluster, "scaled", scale)


def test_nodes_drained_and_lost(cluster: RunningCluster) -> None:
    def lose() -> None:
        cluster.nodes.append(cluster.order("add"))
        number = len(cluster.nodes) - 2
        assert cluster.grf("drain", cluster.nodes[number][:12]).returncode in (0, 1)
        cluster.wait_for(serving=3, standby=1, within_s=120.0)
        cluster.kill_node(number)
        cluster.wait_for(serving=3, standby=1, within_s=120.0)

    under_load(cluster, "nodes", lose)
