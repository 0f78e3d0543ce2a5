"""Promises 2 and 3 on the real thing: processes are killed under load; nothing is lost, nothing counted twice."""

from __future__ import annotations

import json
import os
import random
import select
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from grf_core.bundle import load_bundle
from runtime.client import StateClient
from runtime.digest import TOLERANCE, difference
from runtime.store.base import StoreFenced
from runtime.store.sqlite import SqliteStore
from tests.cluster.load import expected
from tests.cluster.recorded import STREAMS
from tests.cluster.running import ROOT, RunningRuntime, finish_publisher, grf, start_publishers, wait_until, wake

pytestmark = pytest.mark.cluster
RANKED = [(stream, rank) for stream, _, rank in STREAMS]
COUNT = 60


def run_under_load(
    runtime: RunningRuntime, name: str, disturb: Callable[[], None], count: int = COUNT, rate: float = 100.0
) -> None:
    """Two publisher processes send one stream each of four sessions; meanwhile `disturb`; then all must be right."""
    sessions = [f"{name}-{number}" for number in range(4)]
    publishers = start_publishers(runtime.address, sessions, count=count, rate=rate)
    with StateClient(runtime.address) as client:
        wait_until(lambda: client.sessions(after=f"{name}-2")[0], 60.0, "the load has begun")
    try:
        disturb()
        figures = [finish_publisher(publisher) for publisher in publishers]
    finally:
        for publisher in publishers:
            publisher.kill()
            publisher.communicate()
    for stats in figures:
        assert (stats["published"], stats["durable"], stats["refused"]) == (4 * count, 4 * count, 0)
    check_settled(runtime, sessions, count)


class Reachable(Protocol):
    address: str


def check_settled(runtime: Reachable, sessions: Sequence[str], count: int) -> None:
    """Lost 0, double 0, and the states of an undisturbed run: what the offline model says."""
    model = load_bundle(ROOT / "bundles" / "motion").step_model("cpu")
    with StateClient(runtime.address) as client:
        for session in sessions:
            state = client.state(session, include_context=True, timeout_s=30.0)
            right = expected(model, session, RANKED, count)
            assert (state["settled"]["version"], state["lineage"]) == (right.version, right.lineage), session
            assert difference(np.array(state["settled"]["context"], np.float32), right.context_KD) < TOLERANCE


def wait_a_little(rng: random.Random) -> None:
    """A random moment of the load, so that the kill meets another state each time."""
    select.select([], [], [], rng.uniform(0.1, 1.0))


def test_a_killed_worker_comes_back_and_nothing_is_lost_or_counted_twice(runtime: RunningRuntime) -> None:
    rng = random.Random(1)

    def kill_twice() -> None:
        for _ in range(2):
            wait_a_little(rng)
            serving = runtime.serving()
            os.kill(serving["pid"], signal.SIGKILL)
            runtime.wait_for_worker_other_than(serving["incarnation"])

    run_under_load(runtime, "worker-killed", kill_twice)


def test_a_killed_gateway_stops_no_stream(runtime: RunningRuntime) -> None:
    def kill_gateway() -> None:
        for pid in runtime.pids_of("ServeReplica"):
            os.kill(pid, signal.SIGKILL)
        wait_until(runtime.cluster, 60.0, "the gateway answers again")

    run_under_load(runtime, "gateway-killed", kill_gateway)


def test_a_killed_proxy_stops_no_stream_and_is_looked_at_every_second(runtime: RunningRuntime) -> None:
    def kill_proxy() -> None:
        for pid in runtime.pids_of("ProxyActor"):
            os.kill(pid, signal.SIGKILL)
        wait_until(runtime.cluster, 60.0, "the gateway answers again")

    run_under_load(runtime, "proxy-killed", kill_proxy)
    for pid in runtime.pids_of("ServeController"):
        assert b"RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S=1\0" in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_killed_controller_stops_no_stream(runtime: RunningRuntime) -> None:
    serving = runtime.serving()["incarnation"]

    def kill_controller() -> None:
        for pid in runtime.pids_of("ControllerActor"):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: runtime.serving().get("incarnation") == serving, 60.0, "the worker serves on")

    run_under_load(runtime, "controller-killed", kill_controller)


def test_a_stopped_worker_is_replaced_and_writes_nothing_when_it_wakes(runtime: RunningRuntime) -> None:
    """SIGSTOP for longer than every time-out, then SIGCONT."""

    def stop_and_wake() -> None:
        stopped = runtime.serving()
        os.kill(stopped["pid"], signal.SIGSTOP)
        try:
            runtime.wait_for_worker_other_than(stopped["incarnation"])
        finally:
            wake(stopped["pid"])

        def woken_is_without_groups() -> bool:
            woken = [worker for worker in runtime.cluster() if worker["incarnation"] == stopped["incarnation"]]
            return all(worker["groups"] == 0 for worker in woken)

        wait_until(woken_is_without_groups, 30.0, "the woken worker owns nothing")
        store = SqliteStore(runtime.state_dir / "grf.db")
        with pytest.raises(StoreFenced):
            store.save(dict.fromkeys(range(1024), 1), list(store.records())[:1])
        store.close()

    run_under_load(runtime, "worker-stopped", stop_and_wake)


def test_the_whole_runtime_killed_and_started_again_in_the_middle_of_a_load(runtime: RunningRuntime) -> None:
    def kill_all() -> None:
        runtime.kill()
        runtime.start()

    run_under_load(runtime, "all-killed", kill_all, count=40)


def test_stopped_and_started_again_in_the_middle_of_a_load(runtime: RunningRuntime) -> None:
    def restart() -> None:
        assert runtime.stop() == 0
        runtime.start()

    run_under_load(runtime, "restarted", restart, count=40)


def test_an_export_of_the_store_has_the_digest_of_the_store(runtime: RunningRuntime, tmp_path: Path) -> None:
    archive = tmp_path / "all.grfstate"
    flags = runtime.set_flags()
    assert grf("state", "export", str(archive), *flags).returncode == 0
    store = json.loads(grf("digest", *flags).stdout)
    exported = json.loads(grf("digest", "--file", str(archive), *flags).stdout)
    assert store == exported
    compared = grf("digest", "--against", str(archive), *flags)
    assert compared.returncode == 0
    assert json.loads(compared.stdout)["differing_sessions"] == 0
