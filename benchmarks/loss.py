"""What is lost, counted twice or forked when things go wrong?

One real runtime (`grf up`), then three raylets with several workers and a Redis, then two machines with networks that
are cut; publishers in processes of their own, and one disturbance after another. The load is reproducible, so what has
to be settled at the end is computed by the offline model:

    lost      segments published that are not in the settled state
    double    segments more in the settled state than were published
    forked    sessions whose segments, though complete, were fused in another order or from another start

    python -m benchmarks.loss            every event once, the kill 20 times
    python -m benchmarks.loss --quick    every event once
    python -m benchmarks.loss --only one|cluster|partitions [--times N] [--keep]

Partitions need namespaces of the network: Linux, and a kernel that lets this user make them. The last line is one JSON
object with the keys lost, double, forked and table; `--keep` writes it to results/, or adds to that of today.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.disturbed import RATE, SEGMENTS, SESSIONS, Disturbed, Row
from benchmarks.harness.machine import conclude, kept_today
from runtime.client import Publisher, StreamRefused
from tests.cluster.load import make
from tests.cluster.networks import HEAD, PUBLISHERS, STORE, WORKER, Networks, is_alone, run_alone
from tests.cluster.ray_machines import RayMachines
from tests.cluster.recorded import STREAMS
from tests.cluster.running import RunningRuntime, start_publishers, wait_until
from tests.cluster.running_cluster import RunningCluster
from tests.servers import RedisServer

KILLS = 20
IN_ORDER = 0.0
"""jitter where a publisher pauses: after a pause all that came before is final, and disorder would be lateness"""

PATIENT = ("order.idle_timeout_s=8",)
"""longer than a publisher takes to be started again: its streams are waited for meanwhile"""

PARTS = ("one", "cluster", "partitions")
CUT_FOR_S = 6.0
"""longer than a lease, and shorter than a stream may be silent"""


class OneWorker(Disturbed):
    runtime: RunningRuntime

    def undisturbed(self) -> None:
        self.under_load("undisturbed", lambda: None)

    def publisher_killed(self) -> None:
        """kill -9 of a publisher in the middle; started again it sends everything from the beginning."""
        sessions = [f"retry-{number}" for number in range(SESSIONS)]
        for attempt in range(3):
            publishers = start_publishers(self.runtime.address, sessions, count=SEGMENTS, rate=RATE)
            if attempt < 2:
                select.select([], [], [], 2.0 + self.rng.uniform(0.0, 1.0))
                for publisher in publishers:
                    publisher.kill()
            for publisher in publishers:
                publisher.communicate()
        self.count("retry", sessions, SEGMENTS)

    def reconnect(self) -> None:
        """A new connection every few segments, each sending again what the last one sent."""
        session = "reconnect-0"
        for upto in range(5, SEGMENTS + 1, 5):
            with Publisher(self.runtime.address, client="reconnecting") as publisher:
                for number in range(1, upto + 1):
                    self._publish(publisher, session, number)
                publisher.flush(60.0)
        self.count("reconnect", [session], SEGMENTS, jitter_s=IN_ORDER)

    def idle_eviction(self) -> None:
        """The session leaves memory between every few segments, and comes back."""
        session = "idle-0"
        with Publisher(self.runtime.address) as publisher:
            for upto in range(10, SEGMENTS + 1, 10):
                for number in range(upto - 9, upto + 1):
                    self._publish(publisher, session, number)
                for stream, _, _ in STREAMS:
                    publisher.end(session, stream)
                publisher.flush(60.0)
                evicted = self.runtime.metric("grf_sessions_evicted_total")
                wait_until(partial(self._has_evicted, evicted), 60.0, "the session has left memory")
        self.count("idle_eviction", [session], SEGMENTS, jitter_s=IN_ORDER)

    def _has_evicted(self, before: float) -> bool:
        """Another session than the so many before, or all."""
        evicted = self.runtime.metric("grf_sessions_evicted_total")
        return evicted > before or self.runtime.metric("grf_sessions_resident") == 0

    def hot_duplicate(self) -> None:
        """The same segments from two publishers of one name at once."""
        session = "duplicate-0"
        with (
            Publisher(self.runtime.address, client="twin") as one,
            Publisher(self.runtime.address, client="twin") as two,
        ):
            for number in range(1, SEGMENTS + 1):
                for publisher in (one, two):
                    with suppress(StreamRefused):  # the other has taken its stream
                        self._publish(publisher, session, number)
            one.flush(60.0)
            two.flush(60.0)
        self.count("hot_duplicate", [session], SEGMENTS, jitter_s=IN_ORDER)

    def worker_killed(self, times: int) -> None:
        def kill() -> None:
            for _ in range(times):
                select.select([], [], [], self.rng.uniform(0.05, 1.0))
                serving = self.runtime.serving()
                os.kill(serving["pid"], signal.SIGKILL)
                self.runtime.wait_for_worker_other_than(serving["incarnation"])

        self.under_load(f"worker_killed_{times}x", kill, segments=SEGMENTS * max(1, times // 2))

    def gateway_killed(self) -> None:
        def kill() -> None:
            for pid in self.runtime.pids_of("ServeReplica"):
                os.kill(pid, signal.SIGKILL)
            wait_until(self.runtime.cluster, 60.0, "the gateway answers again")

        self.under_load("gateway_killed", kill)

    def restarted(self) -> None:
        def restart() -> None:
            self.runtime.stop()
            self.runtime.start()

        self.under_load("restart", restart)

    def all_killed(self) -> None:
        def kill() -> None:
            self.runtime.kill()
            self.runtime.start()

        self.under_load("all_killed", kill)

    def _publish(self, publisher: Publisher, session: str, number: int) -> None:
        for stream, modality, rank in STREAMS:
            made = make(session, stream, rank, number, IN_ORDER)
            publisher.publish(session, stream, modality, made.frames, made.event_time_s, sequence=number)


def on_one_worker(kills: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        runtime = RunningRuntime(Path(folder) / "state", "runtime.evict_after_s=1", *PATIENT)
        runtime.start()
        try:
            bench = OneWorker(runtime)
            bench.undisturbed()
            bench.publisher_killed()
            bench.reconnect()
            bench.idle_eviction()
            bench.hot_duplicate()
            bench.worker_killed(kills)
            bench.gateway_killed()
            bench.restarted()
            bench.all_killed()
        finally:
            runtime.close()
    return bench.rows


def on_a_cluster(times: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        cluster = RunningCluster(Path(folder), "cluster.workers=2", "cluster.standbys=1", *PATIENT)
        try:
            cluster.start()
            whole = partial(cluster.wait_for, serving=2, standby=1, within_s=120.0)
            whole()
            bench = Disturbed(cluster)

            def a_worker() -> dict[str, Any]:
                return bench.rng.choice(whole())

            def worker_killed() -> None:
                os.kill(a_worker()["pid"], signal.SIGKILL)
                whole()

            def worker_stopped() -> None:
                pid = a_worker()["pid"]
                os.kill(pid, signal.SIGSTOP)
                select.select([], [], [], 10.0)
                os.kill(pid, signal.SIGCONT)
                whole()

            def controller_killed() -> None:
                for pid in cluster.pids_of("ControllerActor"):
                    os.kill(pid, signal.SIGKILL)
                whole()

            def redis_killed() -> None:
                cluster.redis.kill()
                cluster.redis.start()

            def scaled() -> None:
                for workers in (4, 3, 2):
                    cluster.grf("scale", str(workers))
                    cluster.wait_for(serving=workers, standby=1, within_s=120.0)

            def drained() -> None:
                cluster.grf("drain", a_worker()["name"])
                whole()

            def node_lost() -> None:
                nodes = {worker["node"] for worker in whole()}
                cluster.kill_node(next(i for i, node in enumerate(cluster.nodes) if node[:12] in nodes))
                whole()

            events = worker_killed, worker_stopped, controller_killed, redis_killed, scaled, drained
            for event in [*(event for event in events for _ in range(times)), node_lost]:
                bench.under_load(f"cluster_{event.__name__}", event)
        finally:
            cluster.close()
    return bench.rows


def on_cut_networks(times: int) -> list[Row]:
    """A worker is cut off from the store, from its publishers, from all but these, and from everybody."""
    with tempfile.TemporaryDirectory() as folder:
        networks = Networks()
        redis = RedisServer(Path(folder), "--bind", "127.0.0.1", STORE, "--protected-mode", "no")
        redis.start()
        store = f"redis://{STORE}:{redis.port}"
        machines = RayMachines(HEAD, GRF_RUNTIME_STORE=store, GRF_ORDER_IDLE_TIMEOUT_S="8")
        try:
            machines.start_head()
            machines.start_worker(WORKER, networks.through("w"))
            here = {"runtime.host": "0.0.0.0", "runtime.state_dir": folder}
            runtime = machines.deploy({**here, "cluster.workers": 2, "cluster.standbys": 1})
            bench = Disturbed(runtime, networks.through("p"))

            def cut(*addresses: str) -> None:
                wait_until(lambda: runtime.serves_at(WORKER), 60.0, "a worker serves on the machine to be cut off")
                for address in addresses:
                    networks.cut(address)
                select.select([], [], [], CUT_FOR_S)
                for address in addresses:
                    networks.heal(address)
                wait_until(lambda: runtime.serve_all(2), 60.0, "two workers serve")

            rows = {
                "store": (STORE,),
                "publishers": (PUBLISHERS,),
                "all_but_publishers": (STORE, HEAD),
                "everybody": (STORE, HEAD, PUBLISHERS),
            }
            for name, addresses in rows.items():
                for _ in range(times):
                    bench.under_load(f"cut_off_from_{name}", partial(cut, *addresses))
        finally:
            machines.close()
            redis.kill()
            networks.close()
    return bench.rows


def in_own_namespace(times: int) -> list[Row]:
    answer = json.loads(run_alone("benchmarks.loss", "--only", "partitions", "--times", str(times)))
    rows: list[Row] = answer["table"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--times", type=int, default=1, help="each event of the cluster, and each cut")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    parts = [arguments.only] if arguments.only else PARTS
    started_s = time.monotonic()
    rows = on_one_worker(1 if arguments.quick else KILLS) if "one" in parts else []
    rows += on_a_cluster(arguments.times) if "cluster" in parts else []
    if "partitions" in parts:
        rows += on_cut_networks(arguments.times) if is_alone() else in_own_namespace(arguments.times)
    seconds = round(time.monotonic() - started_s)
    if arguments.keep and arguments.only:
        others = kept_today("loss")
        rows = [row for row in others.get("table", []) if row["event"] not in {row["event"] for row in rows}] + rows
        seconds += others.get("seconds", 0)
    totals = {name: sum(row[name] for row in rows) for name in ("refused", "lost", "double", "forked")}
    conclude("loss", totals | {"seconds": seconds, "table": rows}, keep=arguments.keep)


if __name__ == "__main__":
    main()
