"""How long do streams stand still when a process dies, when a node dies, and when key groups move?

Three raylets on this machine, two workers that serve and one that stands by, on a real Redis that syncs every write.
One publisher streams to many sessions at a steady rate. Measured at the publisher:

    process, node   from the kill to the first fused segment, published after it, of a session that moved
    migration       the longest that a segment of a moved session waited from its publication to being fused, since the
                    change was asked for; `stayed`, the same of sessions that did not move, is what the machine adds
    errors          segments refused, and events other than none at all

    python -m benchmarks.failover            20 kills of a worker, 20 of a node, 6 changes of the number of workers
    python -m benchmarks.failover --quick    3 kills of a worker, 1 of a node, 2 changes
    python -m benchmarks.failover --only migration|process|node [--keep]

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from benchmarks.harness.machine import conclude, kept_today
from runtime.client import Publisher, PublisherEvent
from runtime.client.published import Receipt
from runtime.keys import SessionKey, key_group
from tests.cluster.running import wait_until
from tests.cluster.running_cluster import RunningCluster

SESSIONS = 60
EVERY_S = 0.1
"""between two segments of a session"""
LOOK_EVERY_S = 0.002
WINDOW_S = 3.0
"""after a change of the number of workers was asked for: its moves are over by then"""
PARTS = ("migration", "process", "node")
DEFAULTS = ("runtime.lease_s=2", "runtime.heartbeat_s=0.25", "cluster.workers=2", "cluster.standbys=1")


def pause_for(seconds: float) -> None:
    select.select([], [], [], seconds)


@dataclass
class Samples:
    process_s: list[float] = field(default_factory=list)
    node_s: list[float] = field(default_factory=list)
    migration_s: list[float] = field(default_factory=list)
    stayed_s: list[float] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    """of the publisher"""

    def add(self, others: dict[str, Any]) -> None:
        """What another run has measured, in the parts that this one left out."""
        for name in ("process_s", "node_s", "migration_s", "stayed_s"):
            getattr(self, name).extend([] if getattr(self, name) else others.get(name, []))
        totals = others.get("totals", {})
        self.totals = {name: count + totals.get(name, 0) for name, count in self.totals.items()}

    def summary(self) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        if self.process_s:
            answer |= {"process_p50_s": median(self.process_s), "process_worst_s": max(self.process_s)}
        if self.node_s:
            answer |= {"node_p50_s": median(self.node_s), "node_worst_s": max(self.node_s)}
        if self.migration_s:
            p99_s = quantiles(self.migration_s, n=100, method="inclusive")[98]
            answer |= {"migration_p50_ms": 1000 * median(self.migration_s), "migration_p99_ms": 1000 * p99_s}
            answer |= {"stayed_p50_ms": 1000 * median(self.stayed_s)}
        rounded = {name: round(value, 3 if name.endswith("_s") else 1) for name, value in answer.items()}
        errors = sum(self.totals[name] for name in ("refused", "lost", "events"))
        kills, moved = len(self.process_s) + len(self.node_s), len(self.migration_s)
        return {**rounded, "publisher_errors": errors, "kills": kills, "moved_sessions": moved, **self.totals}


class Streams:
    """Publishes to all sessions in turns, and notes when each segment was fused."""

    def __init__(self, address: str) -> None:
        self.sessions = [f"s{number}" for number in range(SESSIONS)]
        self.events: list[PublisherEvent] = []
        self.publisher = Publisher(address, on_event=self.events.append)
        self.fused: dict[str, list[tuple[float, float]]] = {session: [] for session in self.sessions}
        """by session: when published, when fused"""
        self._waiting: dict[str, deque[tuple[float, Receipt]]] = {session: deque() for session in self.sessions}
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=do, daemon=True) for do in (self._publish, self._look)]
        for thread in self._threads:
            thread.start()

    def _publish(self) -> None:
        began_s, sent = time.monotonic(), 0
        while not self._stopping.is_set():
            session = self.sessions[sent % SESSIONS]
            event_time_s = (sent // SESSIONS) * EVERY_S
            frames = np.full((4, 3), (sent % 7) / 7, np.float32)
            published_s = time.monotonic()
            receipt = self.publisher.publish(session, "left", "accelerometer", frames, event_time_s)
            self._waiting[session].append((published_s, receipt))
            sent += 1
            pause_for(max(0.0, began_s + sent * EVERY_S / SESSIONS - time.monotonic()))

    def _look(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            now_s = time.monotonic()
            for session, waiting in self._waiting.items():
                while waiting and (waiting[0][1].is_fused or waiting[0][1].is_final):
                    self.fused[session].append((waiting.popleft()[0], now_s))

    def of_worker(self, endpoint: str) -> list[str]:
        """Sessions that this client sends to the worker."""
        table = self.publisher._driver.core._endpoint_of
        return [one for one in self.sessions if table.get(key_group(SessionKey("default", one))) == endpoint]

    def first_fused_after(self, began_s: float, sessions: list[str]) -> float:
        """Seconds until the first segment that was published after this moment was fused."""

        def first() -> float | None:
            times = [fused_s for one in sessions for at_s, fused_s in self.fused[one][-400:] if at_s > began_s]
            return min(times) - began_s if times else None

        found: float = wait_until(first, 60.0, "a moved session goes on")
        return found

    def longest_waits_between(self, began_s: float, ended_s: float, sessions: list[str]) -> list[float]:
        """Of segments that were published before the end and fused after the beginning."""
        waits = [
            [fused_s - at_s for at_s, fused_s in self.fused[one] if at_s < ended_s and fused_s > began_s]
            for one in sessions
        ]
        return [max(some) for some in waits if some]

    def close(self) -> dict[str, int]:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self.publisher.flush(60.0)
        stats = self.publisher.stats
        self.publisher.close()
        lost = stats.published - stats.durable - stats.refused
        return {"published": stats.published, "refused": stats.refused, "lost": lost, "events": len(self.events)}


class Bench:
    def __init__(self, cluster: RunningCluster, streams: Streams) -> None:
        self.cluster = cluster
        self.streams = streams
        self.rng = random.Random(0)

    def kill(self, choose: Callable[[], dict[str, Any]], kill: Callable[[dict[str, Any]], None]) -> float:
        self.cluster.wait_for(serving=2, standby=1, within_s=120.0)
        pause_for(self.rng.uniform(1.0, 2.0))
        worker = choose()
        moved = self.streams.of_worker(worker["endpoint"])
        kill(worker)
        began_s = time.monotonic()
        return self.streams.first_fused_after(began_s, moved)

    def a_worker(self) -> dict[str, Any]:
        return self.rng.choice([one for one in self.cluster.workers("serving") if one["groups"]])

    def kill_process(self) -> float:
        return self.kill(self.a_worker, lambda worker: os.kill(worker["pid"], signal.SIGKILL))

    def kill_node(self) -> float:
        """One that is not the head and has a serving worker; another takes its place."""
        nodes = {node[:12]: number for number, node in enumerate(self.cluster.nodes)}

        def there() -> dict[str, Any] | None:
            serving = [one for one in self.cluster.workers("serving") if one["node"] in nodes and one["groups"]]
            return serving[0] if serving else None

        def choose() -> dict[str, Any]:
            chosen: dict[str, Any] = wait_until(there, 60.0, "a worker serves on a node that may die")
            return chosen

        self.cluster.wait_for(serving=2, standby=1, within_s=120.0)
        if not there():  # Ray has restarted those of lost nodes on the head: one of ours goes where there is room
            self.cluster.grf("drain", self.cluster.workers("serving")[0]["name"])
        took_s = self.kill(choose, lambda worker: self.cluster.kill_node(nodes[worker["node"]]))
        self.cluster.nodes.append(self.cluster.order("add"))
        return took_s

    def scale(self, workers: int) -> tuple[list[float], list[float]]:
        """How long segments waited at most once it was asked for: of sessions that moved, and of the others."""
        endpoints = [one["endpoint"] for one in self.cluster.workers()]
        before = {session: one for one in endpoints for session in self.streams.of_worker(one)}
        self.cluster.grf("scale", str(workers))
        asked_s = [event["at_s"] for event in self.cluster.state()["events"] if event["kind"] == "scaled"][-1]
        self.cluster.wait_for(serving=workers, standby=1, within_s=120.0)
        pause_for(2.0)
        endpoints = [one["endpoint"] for one in self.cluster.workers()]
        now = {session: one for one in endpoints for session in self.streams.of_worker(one)}
        moved = [one for one in self.streams.sessions if before.get(one) != now.get(one)]
        stayed = [one for one in self.streams.sessions if one not in moved]
        window = asked_s, asked_s + WINDOW_S
        return (
            self.streams.longest_waits_between(*window, moved),
            self.streams.longest_waits_between(*window, stayed),
        )


def measure(parts: Sequence[str], quick: bool) -> Samples:
    samples = Samples()
    with tempfile.TemporaryDirectory() as folder:
        cluster = RunningCluster(Path(folder), *DEFAULTS, nodes=3)
        try:
            cluster.start()
            cluster.wait_for(serving=2, standby=1, within_s=120.0)
            streams = Streams(cluster.address)
            bench = Bench(cluster, streams)
            pause_for(3.0)
            for workers in ([3, 2] * 3)[: 2 if quick else 6] if "migration" in parts else ():
                moved, stayed = bench.scale(workers)
                samples.migration_s += [round(wait, 4) for wait in moved]
                samples.stayed_s += [round(wait, 4) for wait in stayed]
                print(f"migration: {[round(1000 * wait) for wait in sorted(moved)]} ms", flush=True)
            for _ in range(3 if quick else 20) if "process" in parts else ():
                samples.process_s.append(round(bench.kill_process(), 4))
                print(f"process: {samples.process_s[-1]:.3f} s", flush=True)
            for _ in range(1 if quick else 20) if "node" in parts else ():
                samples.node_s.append(round(bench.kill_node(), 4))
                print(f"node: {samples.node_s[-1]:.3f} s", flush=True)
            samples.totals = streams.close()
        finally:
            cluster.close()
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--keep", action="store_true", help="write the answer to results/, or add to that of today")
    arguments = parser.parse_args()
    samples = measure([arguments.only] if arguments.only else PARTS, arguments.quick)
    if arguments.keep and arguments.only:
        samples.add(kept_today("failover").get("samples", {}))
    conclude("failover", samples.summary() | {"samples": asdict(samples)}, keep=arguments.keep)


if __name__ == "__main__":
    main()
