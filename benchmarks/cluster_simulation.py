"""What does the controller have to do for very many workers, and what breaks first?

Event-driven, in virtual time, with the real controller, placement and store contract (in memory): workers beat, give up
what they are asked for, die with their nodes and come back, while the load is unequal and rises to a spike. No model,
socket or process: what a worker needs for a flush and what Ray needs to start one are assumed, and named below.

    python -m benchmarks.cluster_simulation            1,000 workers, 10 million sessions
    python -m benchmarks.cluster_simulation --quick    100 workers, 1 million sessions

The last line is one JSON object: processor time of the controller per beat and per second of cluster, groups moved, the
pauses of groups that failed over and that moved (virtual seconds), the size of a table on the wire. `--keep` writes it
to results/.
"""

from __future__ import annotations

import argparse
import heapq
import random
import time
from collections.abc import Callable
from functools import partial
from statistics import median, quantiles

import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.harness.machine import conclude
from runtime.controller import Controller
from runtime.keys import KEY_GROUPS
from runtime.orders import Orders
from runtime.placement import Beat, ClusterPolicy
from runtime.routes import Table, as_message
from runtime.store.memory import MemoryDisk, MemoryStore
from runtime.wire import encode

HEARTBEAT_S, LEASE_S = 0.25, 2.0
FLUSH_S = (0.02, 0.06)
"""a worker needs to save what is settled of the groups it gives up"""
HOP_S = 0.002
"""a Ray call"""
RESTART_S = (4.0, 20.0)
"""until Ray has started the worker of a lost node elsewhere"""
WORKERS_PER_NODE = 10
SEGMENTS_PER_SESSION_S = 0.01
"""most of ten million sessions are idle"""


class Worker:
    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.node = number // WORKERS_PER_NODE
        self.incarnation = 0
        self.is_alive = True
        self.owned: dict[int, int] = {}
        self.released: dict[int, int] = {}
        self.stamp = ""

    @property
    def owner(self) -> str:
        return f"{self.name}/{self.incarnation}"


class Simulation:
    def __init__(self, workers: int, sessions: int, seed: int = 0) -> None:
        self.random = random.Random(seed)
        rng = np.random.default_rng(seed)
        shares = rng.lognormal(sigma=0.5, size=KEY_GROUPS)  # tenants differ: groups are not equally used
        self.load = sessions * SEGMENTS_PER_SESSION_S * shares / shares.sum()
        self.now_s = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.ticket = 0
        standbys = max(2, workers // 100)
        self.workers = {f"worker-{i}": Worker(f"worker-{i}", i) for i in range(workers + standbys)}
        policy = ClusterPolicy(workers=workers, standbys=standbys, settle_s=5.0)
        self.controller = Controller(
            MemoryStore(MemoryDisk()), self, policy, LEASE_S, CollectorRegistry(), 0.0, self.workers
        )
        self.beats = 0
        self.busy_s = 0.0
        self.pauses: dict[str, list[float]] = {"failed over": [], "moved": []}
        self.silent_since: dict[int, tuple[str, float]] = {}
        self.table = Table(-1, {})
        for worker in self.workers.values():
            self.after(self.random.uniform(0.0, HEARTBEAT_S), self.beater(worker, worker.incarnation))
        self.after(HEARTBEAT_S, self.tick)

    # ---- the controller's hands ----

    def start(self, name: str, beside: object) -> None:
        if name not in self.workers:
            self.workers[name] = Worker(name, self.random.randrange(len(self.workers)))
            worker = self.workers[name]
            self.after(self.random.uniform(*RESTART_S), self.beater(worker, worker.incarnation))

    def stop(self, name: str) -> None:
        self.workers[name].is_alive = False

    def nudge(self, name: str) -> None:
        worker = self.workers[name]
        self.after(HOP_S, lambda: self.beat(worker, worker.incarnation))

    def kill(self, beat: Beat) -> None:
        """No store locks here."""

    # ---- time ----

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.ticket += 1
        heapq.heappush(self.events, (self.now_s + seconds, self.ticket, do))

    def run(self, until_s: float) -> None:
        while self.events and self.events[0][0] <= until_s:
            self.now_s, _, do = heapq.heappop(self.events)
            do()
        self.now_s = until_s

    def timed(self, call: Callable[[], Orders | None]) -> Orders | None:
        began_s = time.process_time()
        answer = call()
        self.busy_s += time.process_time() - began_s
        return answer

    def tick(self) -> None:
        self.timed(lambda: self.controller.tick(self.now_s))
        self.after(HEARTBEAT_S, self.tick)

    # ---- workers ----

    def beater(self, worker: Worker, incarnation: int) -> Callable[[], None]:
        def go_on() -> None:
            if worker.is_alive and worker.incarnation == incarnation:
                self.beat(worker, incarnation)
                self.after(HEARTBEAT_S, go_on)

        return go_on

    def beat(self, worker: Worker, incarnation: int) -> None:
        if not worker.is_alive or worker.incarnation != incarnation:
            return
        loads = {group: float(self.load[group]) for group in worker.owned}
        beat = Beat(
            worker.name,
            str(incarnation),
            f"tcp://10.0.{worker.node}.1:{worker.name}",
            "",
            node=str(worker.node),
            loads=loads,
            released=dict(worker.released),
            table_stamp=worker.stamp,
        )
        self.beats += 1
        orders = self.timed(lambda: self.controller.beat(beat, self.now_s))
        assert orders is not None
        worker.stamp = orders.table_stamp
        if orders.table is not None:
            self.table = orders.table
        worker.released = {group: e for group, e in worker.released.items() if orders.epochs.get(group) == e}
        for group in orders.epochs.keys() - worker.owned.keys() - worker.released.keys():
            if group in self.silent_since:
                kind, since_s = self.silent_since.pop(group)
                self.pauses[kind].append(self.now_s + HOP_S - since_s)
        worker.owned = {group: e for group, e in orders.epochs.items() if group not in worker.released}
        if leaving := [group for group in orders.releases if group in worker.owned]:
            for group in leaving:
                self.silent_since[group] = ("moved", self.now_s)
                worker.released[group] = worker.owned.pop(group)
            self.after(self.random.uniform(*FLUSH_S), lambda: self.beat(worker, incarnation))

    def lose_node(self, node: int) -> None:
        """All of it, network included: nothing but the lease tells of it."""
        for worker in [one for one in self.workers.values() if one.node == node and one.is_alive]:
            worker.is_alive = False
            for group in worker.owned:
                self.silent_since[group] = ("failed over", self.now_s)
            worker.owned, worker.released, worker.stamp = {}, {}, ""

            def come_back(worker: Worker = worker) -> None:
                worker.is_alive = True
                worker.incarnation += 1
                worker.node = self.random.randrange(len(self.workers) // WORKERS_PER_NODE)
                self.beater(worker, worker.incarnation)()

            self.after(self.random.uniform(*RESTART_S), come_back)


def figures(values: list[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    p99 = quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]
    return {
        "count": len(values),
        "p50_s": round(median(values), 3),
        "p99_s": round(p99, 3),
        "max_s": round(max(values), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    quick = arguments.quick
    workers, sessions, seconds = (100, 1_000_000, 20) if quick else (1000, 10_000_000, 120)
    simulation = Simulation(workers, sessions)
    simulation.run(8.0)  # everybody joins and is filled
    settled_beats, settled_busy_s = simulation.beats, simulation.busy_s
    simulation.run(12.0)
    calm_s = (simulation.busy_s - settled_busy_s) / 4.0
    for number in range(4 if quick else 10):  # rolling node loss
        simulation.after(number * seconds / 20, partial(simulation.lose_node, 3 * number))
    simulation.run(12.0 + seconds / 2)
    simulation.load[: KEY_GROUPS // 10] *= 5.0  # a spike in a tenth of the groups
    simulation.run(12.0 + seconds)
    assignment = simulation.controller._assignment
    loads = dict.fromkeys(assignment.owners, 0.0)
    for group, item in assignment.groups.items():
        loads[item.owner] += float(simulation.load[group])
    answer = {
        "workers": workers,
        "sessions": sessions,
        "beats": simulation.beats,
        "controller_ms_per_beat": round(1000 * simulation.busy_s / simulation.beats, 3),
        "controller_share_calm": round(calm_s, 3),
        "controller_share": round(simulation.busy_s / (12.0 + seconds), 3),
        "failover": figures(simulation.pauses["failed over"]),
        "moves": figures(simulation.pauses["moved"]),
        "largest_load_over_mean": round(max(loads.values()) * len(loads) / sum(loads.values()), 2),
        "table_bytes": len(encode(as_message(simulation.table))[0]),
        "joining_beats": settled_beats,
    }
    conclude("cluster_simulation", answer, keep=arguments.keep)


if __name__ == "__main__":
    main()
