"""A cluster as operators have it: `ray start` on each machine. A head is lost and comes back; Serve deploys a file."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.ray_machines import PROGRAMS, RayMachines, Running
from tests.cluster.running import ROOT, finish_publisher, start_publishers, wait_until
from tests.cluster.test_killing import check_settled
from tests.servers import RedisServer, free_port

pytestmark = [pytest.mark.cluster, pytest.mark.chaos]
SESSIONS = [f"s{number}" for number in range(12)]
COUNT = 60


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


def test_a_head_that_is_lost_and_comes_back_costs_nothing(redis: RedisServer, tmp_path: Path) -> None:
    machines = RayMachines(RAY_REDIS_ADDRESS=f"127.0.0.1:{redis.port}", GRF_RUNTIME_STORE=redis.address)
    workers = {"cluster.workers": 2, "cluster.standbys": 1, "runtime.state_dir": tmp_path / "state"}
    publishers = []
    try:
        head = machines.start_head()
        machines.start_worker()
        runtime = machines.deploy(workers)
        publishers = start_publishers(runtime.address, SESSIONS, count=COUNT, rate=60.0, flush_s=200.0)
        select.select([], [], [], 3.0)
        machines.kill(head)
        select.select([], [], [], 5.0)
        machines.start_head()
        figures = [finish_publisher(publisher, within_s=240.0) for publisher in publishers]
        for stats in figures:
            assert (stats["durable"], stats["refused"]) == (stats["published"], 0), stats["codes"]
        wait_until(lambda: runtime.serve_all(2), 120.0, "two workers serve again")
        check_settled(runtime, SESSIONS, COUNT)
    finally:
        for publisher in publishers:
            publisher.kill()
            publisher.communicate()
        machines.close()


def test_serve_deploys_the_file_onto_a_ray_that_runs(tmp_path: Path) -> None:
    """As it is, but for ports that are free here and a place for the state."""
    config = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    runtime = Running("127.0.0.1", free_port())
    config["http_options"] |= {"host": "127.0.0.1", "port": runtime.port}
    config["applications"][0]["args"] |= {
        "runtime.state_dir": str(tmp_path / "state"),
        "runtime.data_port": free_port(),
    }
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    machines = RayMachines()
    try:
        machines.start_head(dashboard=True)
        dashboard = f"http://127.0.0.1:{machines.dashboard_port}"
        machines.run("deploy", "--address", dashboard, str(path), program=PROGRAMS / "serve")
        wait_until(lambda: runtime.serve_all(2), 120.0, "two workers serve")
        for publisher in start_publishers(runtime.address, SESSIONS, count=10, rate=100.0):
            finish_publisher(publisher)
        check_settled(runtime, SESSIONS, 10)
    finally:
        machines.close()
