"""What does a session cost when there are many, and when there are more than fit?

Whole workers with the light block, side by side. First with so many sessions in memory that none leaves: segments go to
all of them in turn, 64 in a message, ten to each and more; time begins once each session has had one. One of these
workers has 1,000 sessions that send, beside so many that have sent. They are sent to one after another in five rounds,
for the pace of a machine changes within minutes: what is compared is compared within a round, and the middle of the
five counts. Their memory is read at the end. Then with visits: a session opens its stream, sends 4 segments, ends it;
either all sessions fit the slab, or there are ten times more than rows for them, so that each visit evicts one session
and loads another from the store.

    throughput_100k_vs_1k       segments per second with 100,000 sessions that send in turn / with 1,000
    throughput_beside_100k      of 1,000 sessions that send, beside 100,000 resident ones / beside none
    host_bytes_per_session      what each of those takes of the worker's memory
    throughput_10x_slots_vs_fit visits with ten times more sessions than rows / with rows for all

    python -m benchmarks.sessions [--quick] [--keep] [--most 1000000]

A million sessions need 10 GB and the better part of an hour. The last line is one JSON
object; `--keep` writes it to results/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness.blocks import LIGHT
from benchmarks.harness.load import LoadProcess
from benchmarks.harness.machine import conclude
from benchmarks.harness.models import save_block
from benchmarks.harness.visits import VisitsProcess
from benchmarks.harness.worker import WorkerProcess

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
ENDS_SETTLE = "order.idle_timeout_s=0.02"
"""a session settles its end so long after its last segment, in both kinds of visits; by default after 2 s"""
STAY = ("runtime.evict_after_s=100000", "quota.max_sessions=10000000")
UNSETTLED = ("quota.max_pending_bytes=17179869184", "quota.worker_pending_bytes=17179869184")
"""one stream a session: its segments settle once it has been silent, and a million may wait for that"""
OPENED_PER_S = 500
"""at least: each is looked up in the store"""
ROWS_AHEAD = 262_144
"""of the slab: what is fused in the two seconds before it settles, so that nobody waits for a row"""
EACH = 10
"""segments to a session at least, in all rounds: each that has settled is saved while the others send"""
FINISH_WITHIN_S = 1_800.0
"""a round"""
BURST = 4
MORE_THAN_SLOTS = 10

Row = dict[str, Any]


class Resident:
    """A worker with sessions that send in turn, beside others that have sent one segment and are silent."""

    def __init__(self, stack: ExitStack, folder: Path, sessions: int, beside: int, segments: int, rounds: int) -> None:
        self.sessions, self.beside = sessions, beside
        home = folder / f"{sessions}-beside-{beside}"
        home.mkdir()
        # Rows of the slab for all sessions, and for all steps ahead of their watermarks.
        capacity = f"runtime.capacity={(sessions + beside) * 5 // 4 + ROWS_AHEAD}"
        self._worker = stack.enter_context(
            WorkerProcess(home / "state", save_block(LIGHT, home), capacity, *STAY, *UNSETTLED)
        )
        self._empty_bytes = self._worker.resident_bytes()
        if beside:
            with self._publisher("silent", beside, segments=0, rounds=1) as publisher:
                publisher.start()
                publisher.finish(FINISH_WITHIN_S)
        self._sender = stack.enter_context(self._publisher("sending", sessions, segments, rounds))
        self.segments_per_s: list[float] = []
        """of each round"""
        self._worker_us: list[float] = []

    def _publisher(self, prefix: str, sessions: int, segments: int, rounds: int) -> LoadProcess:
        plan: dict[str, Any] = {"block": LIGHT.name, "prefix": prefix, "sessions": sessions, "streams": 1}
        size: dict[str, int] = {"before": sessions, "segments": segments, "per_group": 1, "groups": min(64, sessions)}
        publisher = LoadProcess("raw", self._worker.endpoint, **plan, **size, rounds=rounds)
        publisher.wait_until_ready(120.0 + sessions / OPENED_PER_S)
        return publisher

    def send(self) -> None:
        """One round: until all of it is durable, so that nothing is left to do beside the next worker's."""
        before_s = self._worker.cpu_s()
        self._sender.start()
        told = self._sender.finish(FINISH_WITHIN_S)
        self._worker_us.append(1e6 * (self._worker.cpu_s() - before_s) / told["sent"])
        self.segments_per_s.append(told["sent"] / (told["fused_s"] - told["started_s"]))

    def row(self) -> Row:
        in_memory = self._worker.metrics()["grf_sessions_resident"]
        assert in_memory == self.sessions + self.beside, f"{in_memory:g} of {self.sessions + self.beside} in memory"
        memory_bytes = self._worker.resident_bytes()
        return {
            "sessions": self.sessions,
            "beside": self.beside,
            "segments_per_s": round(median(self.segments_per_s)),
            "worker_us": round(median(self._worker_us), 1),
            "rounds": [round(rate) for rate in self.segments_per_s],
            "memory_bytes": memory_bytes,
            "growth_bytes": memory_bytes - self._empty_bytes,
        }


def resident(cases: Sequence[tuple[int, int]], segments: int, rounds: int) -> tuple[list[Row], list[float]]:
    """A worker for each case of sessions that send and others beside them: what came of it, and how its throughput
    compares with that of the first, the middle of all rounds."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers = [
            Resident(stack, Path(folder), sessions, beside, max(segments, EACH * sessions // rounds), rounds)
            for sessions, beside in cases
        ]
        for number in range(rounds):  # to and fro: what is measured after a long one may find a slower machine
            for worker in workers[:: -1 if number % 2 else 1]:
                worker.send()
        rows = [say(worker.row()) for worker in workers]
    first = workers[0].segments_per_s
    return rows, [
        median(rate / of_first for rate, of_first in zip(worker.segments_per_s, first, strict=True))
        for worker in workers
    ]


def visited(sessions: int, slots: int, rounds: int) -> Row:
    """Visits to all sessions in turn, with rows for `slots` of them."""
    plan: dict[str, Any] = {"block": LIGHT.name, "sessions": sessions, "rounds": rounds, "burst": BURST}
    # Of the rows one in eight is kept for steps; each session needs one, and one for each segment of its visit.
    capacity = slots * 8 // 7 + 1
    with tempfile.TemporaryDirectory() as folder:
        flags = (f"runtime.capacity={capacity}", ENDS_SETTLE, *STAY)
        with (
            WorkerProcess(Path(folder) / "state", save_block(LIGHT, Path(folder)), *flags) as worker,
            VisitsProcess(worker.endpoint, **plan, at_once=sessions // MORE_THAN_SLOTS // 8) as visits,
        ):
            before_s = worker.cpu_s()
            visits.start()
            told = visits.finish()
            worker_s = worker.cpu_s() - before_s
            evicted = worker.metrics()["grf_sessions_evicted_total"]
    return {
        "sessions": sessions,
        "slots": slots,
        "segments_per_s": round(told["sent"] / (told["durable_s"] - told["started_s"])),
        "worker_us": round(1e6 * worker_s / told["sent"], 1),
        "evicted": round(evicted),
        "told_to_wait": told["refused"],
    }


def say(row: Row) -> Row:
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--most", type=int, default=100_000, metavar="SESSIONS", help="in memory (default 100,000)")
    arguments = parser.parse_args()
    counts = (100, 500) if arguments.quick else [count for count in COUNTS if count <= arguments.most]
    segments, rounds, many, visits = (1_000, 1, 400, 1) if arguments.quick else (150_000, 5, 16_000, 2)
    beside = min(100_000, counts[-1])
    rows, ratios = resident([(count, 0) for count in counts] + [(counts[0], beside)], segments, rounds)
    fit = say(visited(many, many, visits))
    more = say(visited(many, many // MORE_THAN_SLOTS, visits))
    grown_bytes = rows[-1]["memory_bytes"] - rows[0]["memory_bytes"]
    answer = {
        "throughput_100k_vs_1k": round(ratios[counts.index(beside)], 3),
        "throughput_beside_100k": round(ratios[-1], 3),
        "host_bytes_per_session": round(grown_bytes / beside),
        "throughput_10x_slots_vs_fit": round(more["segments_per_s"] / fit["segments_per_s"], 3),
        "table": [*rows, fit, more],
    }
    conclude("sessions", answer, keep=arguments.keep)


if __name__ == "__main__":
    main()
