"""What does a session cost when there are many, and when there are more than fit?

One whole worker with the light block. First with so many sessions in memory that none leaves: segments go to all of
them in turn, 64 in a message, ten to each; time begins once each session has had one. Then the same with 1,000 sessions
that send, beside so many that have sent; the worker's memory is read at the end. Then with visits: a session opens its
stream, sends 4 segments, ends it; either all sessions fit the slab, or there are ten times more than rows for them, so
that each visit evicts one session and loads another from the store.

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
ROWS_AHEAD = 262_144
"""of the slab: what is fused in the two seconds before it settles, so that nobody waits for a row"""
EACH = 10
"""segments to a session at least: each that has settled is saved while the others send"""
BURST = 4
MORE_THAN_SLOTS = 10

Row = dict[str, Any]


def capacity_for(sessions: int) -> int:
    """Rows of the slab for so many resident sessions, and for all steps ahead of their watermarks."""
    return sessions * 5 // 4 + ROWS_AHEAD


def resident(sessions: int, segments: int, beside: int = 0) -> Row:
    """Sessions that send so many segments in turn once each has sent one, beside others that have."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, capacity = save_block(LIGHT, Path(folder)), f"runtime.capacity={capacity_for(sessions + beside)}"
        with WorkerProcess(Path(folder) / "state", bundle, capacity, *STAY, *UNSETTLED) as worker:
            empty_bytes = worker.resident_bytes()
            if beside:
                with publisher_of("b", worker, beside, segments=0) as publisher:
                    publisher.wait_until_ready(120.0 + beside / OPENED_PER_S)
                    publisher.start()
                    publisher.finish(600.0 + beside / OPENED_PER_S)
            with publisher_of("s", worker, sessions, segments) as publisher:
                publisher.wait_until_ready(120.0 + sessions / OPENED_PER_S)
                before_s = worker.cpu_s()
                publisher.start()
                told = publisher.finish(600.0 + sessions / OPENED_PER_S)
                worker_s = worker.cpu_s() - before_s
            in_memory = worker.metrics()["grf_sessions_resident"]
            full_bytes = worker.resident_bytes()
    assert in_memory == sessions + beside, f"{in_memory:g} of {sessions + beside} sessions are in memory"
    seconds = told["fused_s"] - told["started_s"]
    return {
        "sessions": sessions,
        "beside": beside,
        "segments_per_s": round(told["sent"] / seconds),
        "worker_us": round(1e6 * worker_s / told["sent"], 1),
        "memory_bytes": full_bytes,
        "growth_bytes": full_bytes - empty_bytes,
    }


def publisher_of(prefix: str, worker: WorkerProcess, sessions: int, segments: int) -> LoadProcess:
    plan: dict[str, Any] = {"block": LIGHT.name, "prefix": prefix, "sessions": sessions, "streams": 1}
    return LoadProcess(
        "raw", worker.endpoint, **plan, before=sessions, segments=segments, per_group=1, groups=min(64, sessions)
    )


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
    segments, many = (1_000, 400) if arguments.quick else (100_000, 16_000)
    in_memory = [say(resident(count, max(segments, EACH * count))) for count in counts]
    few, most = in_memory[0], in_memory[-1]
    beside = say(resident(few["sessions"], segments, beside=min(100_000, most["sessions"])))
    fit = say(visited(many, many, 1 if arguments.quick else 2))
    more = say(visited(many, many // MORE_THAN_SLOTS, 1 if arguments.quick else 2))
    of_100k = next((row for row in in_memory if row["sessions"] == 100_000), most)
    grown_bytes = beside["memory_bytes"] - few["memory_bytes"]
    answer = {
        "throughput_100k_vs_1k": round(of_100k["segments_per_s"] / few["segments_per_s"], 3),
        "throughput_beside_100k": round(beside["segments_per_s"] / few["segments_per_s"], 3),
        "host_bytes_per_session": round(grown_bytes / beside["beside"]),
        "throughput_10x_slots_vs_fit": round(more["segments_per_s"] / fit["segments_per_s"], 3),
        "table": [*in_memory, beside, fit, more],
    }
    conclude("sessions", answer, keep=arguments.keep)


if __name__ == "__main__":
    main()
