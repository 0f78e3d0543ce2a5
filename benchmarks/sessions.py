"""What does a session cost when there are many, and when there are more than fit?

One whole worker with the light block. First with so many sessions in memory that none leaves: segments go to all of
them in turn, 64 in a message, and the worker's memory is read once each has had one. Then with visits: a session opens
its stream, sends 4 segments, ends it; either all sessions fit the slab, or there are ten times more than rows for them,
so that each visit evicts one session and loads another from the store.

    throughput_100k_vs_1k       segments per second with 100,000 resident sessions / with 1,000
    host_bytes_per_session      growth of the worker's memory from 1,000 sessions to the most, per session
    throughput_10x_slots_vs_fit visits with ten times more sessions than rows / with rows for all

    python -m benchmarks.sessions [--quick] [--keep] [--most 1000000]

A million sessions need 10 GB and a quarter of an hour, most of it to open their streams. The last line is one JSON
object; `--keep` writes it to results/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
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
BURST = 4
MORE_THAN_SLOTS = 10

Row = dict[str, Any]


def capacity_for(sessions: int) -> int:
    """Rows of the slab for so many resident sessions, and for the steps of those that are busy."""
    return sessions * 5 // 4 + 8_192


def resident(sessions: int, segments: int) -> Row:
    """Every session in memory, each with a segment at least."""
    load: dict[str, Any] = {"block": LIGHT.name, "prefix": "s", "sessions": sessions, "streams": 1}
    with tempfile.TemporaryDirectory() as folder:
        bundle, capacity = save_block(LIGHT, Path(folder)), f"runtime.capacity={capacity_for(sessions)}"
        with WorkerProcess(Path(folder) / "state", bundle, capacity, *STAY, *UNSETTLED) as worker:
            empty_bytes = worker.resident_bytes()
            with LoadProcess(
                "raw", worker.endpoint, **load, segments=max(sessions, segments), per_group=1, groups=64
            ) as publisher:
                publisher.wait_until_ready(120.0 + sessions / OPENED_PER_S)
                before_s = worker.cpu_s()
                publisher.start()
                told = publisher.finish(600.0 + sessions / OPENED_PER_S)
                worker_s = worker.cpu_s() - before_s
            in_memory = worker.metrics()["grf_sessions_resident"]
            full_bytes = worker.resident_bytes()
    assert in_memory == sessions, f"{in_memory:g} of {sessions} sessions are in memory"
    seconds = told["fused_s"] - told["started_s"]
    return {
        "sessions": sessions,
        "segments_per_s": round(told["sent"] / seconds),
        "worker_us": round(1e6 * worker_s / told["sent"], 1),
        "memory_bytes": full_bytes,
        "growth_bytes": full_bytes - empty_bytes,
    }


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
    segments, many = (1_000, 400) if arguments.quick else (50_000, 16_000)
    in_memory = [say(resident(count, segments)) for count in counts]
    fit = say(visited(many, many, 1 if arguments.quick else 2))
    more = say(visited(many, many // MORE_THAN_SLOTS, 1 if arguments.quick else 2))
    few, most = in_memory[0], in_memory[-1]
    of_100k = next((row for row in in_memory if row["sessions"] == 100_000), most)
    grown_bytes = most["memory_bytes"] - few["memory_bytes"]
    answer = {
        "throughput_100k_vs_1k": round(of_100k["segments_per_s"] / few["segments_per_s"], 3),
        "host_bytes_per_session": round(grown_bytes / (most["sessions"] - few["sessions"])),
        "throughput_10x_slots_vs_fit": round(more["segments_per_s"] / fit["segments_per_s"], 3),
        "table": [*in_memory, fit, more],
    }
    conclude("sessions", answer, keep=arguments.keep)


if __name__ == "__main__":
    main()
