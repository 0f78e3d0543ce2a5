"""How long from `publish` until a subscriber sees the segment in the live state?

One whole worker with the paper's block, in a process of its own; a source in another publishes single segments at even
distances, over 1 to 10,000 sessions, at 10, 50 and 80 % of what the worker can do with so many (measured first, in
the same way). A segment's time begins when it was due.

    p50_ms, p99_ms, p999_ms     from due to seen
    batch_ms                    the model's own time for one micro-batch meanwhile, in the mean
    batch                       segments in one, in the mean
    late_p99_ms, late_ms        the source itself was late by so much: one in a hundred, and at worst

`p50_ms_half_load`, `p99_ms_half_load`, `batch_ms_half_load` are those of 1,000 sessions.

    python -m benchmarks.latency [--quick] [--keep] [--only SESSIONS]

The last line is one JSON object; `--keep` writes it to results/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.blocks import PAPER
from benchmarks.harness.machine import conclude
from benchmarks.harness.models import save_block
from benchmarks.harness.paced import PacedProcess
from benchmarks.harness.worker import WorkerProcess

SESSIONS = (1, 64, 1_000, 10_000)
TOLD = 1_000
LOADS = (0.1, 0.5, 0.8)

Row = dict[str, Any]


def measure(sessions: int, loads: tuple[float, ...], seconds: float) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = save_block(PAPER, Path(folder))
        with (
            WorkerProcess(Path(folder) / "state", bundle) as worker,
            PacedProcess(worker.endpoint, PAPER.name, sessions) as source,
        ):
            source.ask(saturate=seconds / 4)
            capacity = source.ask(saturate=seconds / 2)["segments_per_s"]
            for load in loads:
                before = worker.metrics()
                heard = source.ask(rate=load * capacity, seconds=seconds)
                after = worker.metrics()
                spent = {name: after[name] - before.get(name, 0.0) for name in after}
                batches = spent["grf_batch_segments_count"]
                p50, p99, p999 = np.percentile(heard["latencies_ms"], (50, 99, 99.9))
                rows.append(
                    {
                        "sessions": sessions,
                        "load": load,
                        "capacity_segments_per_s": round(capacity),
                        "segments_per_s": round(load * capacity),
                        "p50_ms": round(p50, 2),
                        "p99_ms": round(p99, 2),
                        "p999_ms": round(p999, 2),
                        "batch_ms": round(1000 * spent["grf_step_seconds_sum"] / batches, 2),
                        "batch": round(spent["grf_batch_segments_sum"] / batches, 1),
                        "late_p99_ms": round(float(np.percentile(heard["late_ms"], 99)), 2),
                        "late_ms": round(max(heard["late_ms"]), 2),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    return rows


def summary(rows: list[Row]) -> Row:
    sessions = TOLD if any(row["sessions"] == TOLD for row in rows) else rows[0]["sessions"]
    half = next(row for row in rows if row["sessions"] == sessions and row["load"] == 0.5)
    return {f"{name}_half_load": half[name] for name in ("p50_ms", "p99_ms", "p999_ms", "batch_ms")} | {
        "sessions": sessions
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--only", type=int, metavar="SESSIONS")
    arguments = parser.parse_args()
    counts = (64,) if arguments.quick else (arguments.only,) if arguments.only else SESSIONS
    loads, seconds = ((0.5,), 1.5) if arguments.quick else (LOADS, 6.0)
    rows = [row for count in counts for row in measure(count, loads, seconds)]
    conclude("latency", summary(rows) | {"table": rows}, keep=arguments.keep)


if __name__ == "__main__":
    main()
