"""Several raylets, several workers, Redis: whatever dies under load, nothing is lost, doubled or forked.

Four of these run in `make test`, the others in `make chaos`: each costs ten seconds and more.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator

import httpx
import pytest

from runtime.client import StateClient
from tests.cluster.running import command_line, finish_publisher, parent_and_session, start_publishers, wait_until
from tests.cluster.running_cluster import RunningCluster
from tests.cluster.test_killing import check_settled, wait_a_little

pytestmark = pytest.mark.cluster
SESSIONS = 24
COUNT = 25


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    running = RunningCluster(tmp_path_factory.mktemp("cluster"), "cluster.workers=2", "cluster.standbys=1", nodes=3)
    running.start()
    try:
        running.wait_for(serving=2, standby=1)
        yield running
    finally:
        running.close()


def under_load(cluster: RunningCluster, name: str, disturb: Callable[[], None]) -> None:
    """Two publisher processes send one stream each of many sessions; meanwhile `disturb`; then all must be right."""
    sessions = [f"{name}-{number:02}" for number in range(SESSIONS)]
    publishers = start_publishers(cluster.address, sessions, count=COUNT, rate=100.0)
    try:
        with StateClient(cluster.address) as client:
            wait_until(lambda: client.sessions(after=sessions[-2])[0], 60.0, "the load has begun")
        disturb()
        figures = [finish_publisher(publisher) for publisher in publishers]
    finally:
        for publisher in publishers:
            publisher.kill()
            publisher.communicate()
    for stats in figures:
        assert (stats["durable"], stats["refused"]) == (stats["published"], 0), stats["codes"]
    check_settled(cluster, sessions, COUNT)


def test_no_two_workers_share_a_node_and_the_controller_dies_with_the_head_only(cluster: RunningCluster) -> None:
    assert len({worker["node"] for worker in cluster.workers()}) == 3
    (controller,) = cluster.pids_of("ControllerActor")
    raylet = command_line(parent_and_session(controller)[0])
    assert "--node-id=" in raylet
    assert not any(node in raylet for node in cluster.nodes)


@pytest.mark.chaos
def test_sessions_are_spread_over_workers_on_several_nodes(cluster: RunningCluster) -> None:
    serving = cluster.wait_for(serving=2, standby=1)
    assert min(worker["groups"] for worker in serving) > 300
    assert len({worker["node"] for worker in cluster.workers()}) > 1
    under_load(cluster, "undisturbed", lambda: None)


def test_a_standby_takes_over_from_a_killed_worker(cluster: RunningCluster) -> None:
    def kill() -> None:
        wait_a_little(random.Random(1))
        os.kill(cluster.workers("serving")[0]["pid"], signal.SIGKILL)
        cluster.wait_for(serving=2, standby=1)

    under_load(cluster, "worker-killed", kill)


def test_groups_move_to_a_new_worker_and_back_and_publishers_notice_nothing(cluster: RunningCluster) -> None:
    def scale() -> None:
        assert cluster.grf("scale", "3").returncode == 0
        cluster.wait_for(serving=3, standby=1)
        assert cluster.grf("scale", "2").returncode == 0
        cluster.wait_for(serving=2, standby=1)

    under_load(cluster, "scaled", scale)


@pytest.mark.chaos
def test_a_drained_worker_hands_over_all_it_has_and_ends(cluster: RunningCluster) -> None:
    drained = cluster.workers("serving")[0]

    def drain() -> None:
        assert cluster.grf("drain", drained["name"]).returncode == 0
        wait_until(lambda: _is_gone(drained["pid"]), 30.0, "the drained worker has ended")
        cluster.wait_for(serving=2, standby=1)

    under_load(cluster, "drained", drain)
    assert cluster.grf("drain", "worker-77").returncode == 1


@pytest.mark.chaos
def test_a_worker_that_is_told_to_end_hands_over_all_it_has_first(cluster: RunningCluster) -> None:
    ended = cluster.wait_for(serving=2, standby=1)[0]

    def terminate() -> None:
        os.kill(ended["pid"], signal.SIGTERM)
        wait_until(lambda: _is_gone(ended["pid"]), 30.0, "the worker has ended")
        cluster.wait_for(serving=2, standby=1)

    under_load(cluster, "terminated", terminate)
    assert not _failed_over(cluster, ended["incarnation"])


@pytest.mark.chaos
def test_a_node_that_ray_drains_is_emptied_before_it_ends(cluster: RunningCluster) -> None:
    """Ray's notice: of an autoscaler, of a spot instance, of a `ray start --block` that is told to end."""
    cluster.nodes.append(cluster.order("add"))
    worker = next(one for one in cluster.wait_for(serving=2, standby=1) if cluster.number_of(one["node"]) is not None)

    def drain() -> None:
        cluster.ray_drains(cluster.number_of(worker["node"]))
        wait_until(lambda: _is_gone(worker["pid"]), 30.0, "the node's worker has ended")
        cluster.wait_for(serving=2, standby=1)
        assert worker["node"] not in {one["node"] for one in cluster.workers()}

    under_load(cluster, "ray-drains", drain)
    assert not _failed_over(cluster, worker["incarnation"])


@pytest.mark.chaos
def test_a_killed_and_restarted_redis_stops_streams_for_a_moment_only(cluster: RunningCluster) -> None:
    def restart() -> None:
        cluster.redis.kill()
        wait_a_little(random.Random(2))
        cluster.redis.start()

    under_load(cluster, "redis-restarted", restart)


@pytest.mark.chaos
def test_a_stopped_worker_loses_its_groups_and_does_nothing_with_them_when_it_wakes(cluster: RunningCluster) -> None:
    def stop_and_wake() -> None:
        stopped = cluster.workers("serving")[0]
        os.kill(stopped["pid"], signal.SIGSTOP)
        try:
            wait_until(lambda: _groups_of(cluster, stopped["incarnation"]) == 0, 30.0, "others have its groups")
        finally:
            os.kill(stopped["pid"], signal.SIGCONT)

    under_load(cluster, "worker-stopped", stop_and_wake)


@pytest.mark.chaos
def test_a_killed_controller_is_not_missed(cluster: RunningCluster) -> None:
    before = {worker["incarnation"] for worker in cluster.wait_for(serving=2, standby=1)}

    def kill() -> None:
        for pid in cluster.pids_of("ControllerActor"):
            os.kill(pid, signal.SIGKILL)
        after = {worker["incarnation"] for worker in cluster.wait_for(serving=2, standby=1)}
        assert after == before, "nobody lost anything by it"

    under_load(cluster, "controller-killed", kill)


def test_a_lost_node_is_replaced_by_the_others(cluster: RunningCluster) -> None:
    """The last test here: the cluster is a node short afterwards."""

    def kill() -> None:
        lost = next(one for one in cluster.workers("serving") if cluster.number_of(one["node"]) is not None)
        cluster.kill_node(cluster.number_of(lost["node"]))
        within_s = 8.0  # Ray itself needs 18 s to see that a node is lost
        wait_until(lambda: _failed_over(cluster, lost["incarnation"]), within_s, "its groups are others'")
        cluster.wait_for(serving=2, standby=1)

    under_load(cluster, "node-lost", kill)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _failed_over(cluster: RunningCluster, incarnation: str) -> bool:
    events = cluster.state()["events"]
    return any(event["kind"] == "failed over" and incarnation in event["text"] for event in events)


def _groups_of(cluster: RunningCluster, incarnation: str) -> int:
    answer = httpx.get(f"{cluster.address}/v1/cluster", timeout=5.0).raise_for_status()
    return sum(worker["groups"] for worker in answer.json()["workers"] if worker["incarnation"] == incarnation)
