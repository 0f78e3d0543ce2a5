"""Does one tenant's flood slow another tenant down?

One real runtime; a quiet tenant publishes 50 segments a second over 10 sessions and measures publish to fused. First
alone, then while another tenant floods: a process of its own publishes to 200 sessions as fast as it is let. That
process runs only when nobody else wants to, for it stands for a program on another machine: what it takes of the
processors is not taken from the quiet tenant by the runtime.

    p99_alone_ms, p99_flooded_ms      of the quiet tenant
    ratio                             of the two
    flood_segments_per_s              what the flooding tenant got through meanwhile

    python -m benchmarks.isolation [--quick] [--keep] [--set KEY=VALUE ...]

The last line is one JSON object; `--keep` writes it to results/.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness.machine import conclude
from runtime.client import Publisher
from tests.cluster.running import ROOT, RunningRuntime

QUIET_SESSIONS, QUIET_RATE = 10, 50.0
FLOOD_SESSIONS = 200
WARM_UP_S = 2.0
FRAMES = np.ones((5, 3), np.float32)


def quiet_latencies_ms(address: str, name: str, seconds: float) -> list[float]:
    with Publisher(address, tenant="quiet") as publisher:
        publisher.check(30.0)
        publish_steadily(publisher, name, 0.0, WARM_UP_S)
        publisher.stats.latencies_s.clear()
        publish_steadily(publisher, name, WARM_UP_S, WARM_UP_S + seconds)
        publisher.flush(60.0)
        return [1000 * latency_s for latency_s in publisher.stats.latencies_s]


def publish_steadily(publisher: Publisher, name: str, from_s: float, to_s: float) -> None:
    started_s = time.monotonic() - from_s
    for number in range(int(from_s * QUIET_RATE), int(to_s * QUIET_RATE)):
        session = f"{name}-{number % QUIET_SESSIONS}"
        publisher.publish(session, "left", "accelerometer", FRAMES, number / QUIET_RATE)
        time.sleep(max(0.0, started_s + (number + 1) / QUIET_RATE - time.monotonic()))


def flood(address: str) -> None:
    """Publish until the process is ended."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with Publisher(address, tenant="loud") as publisher:
        publisher.check(30.0)
        for number in range(10**9):
            publisher.publish(f"loud-{number % FLOOD_SESSIONS}", "left", "accelerometer", FRAMES, number / 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the runtime")
    parser.add_argument("--flood", metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.flood:
        flood(arguments.flood)
    seconds = 5.0 if arguments.quick else 20.0
    with tempfile.TemporaryDirectory() as folder:
        runtime = RunningRuntime(Path(folder) / "state", *arguments.set)
        # Linux shares processors between terminal sessions first, and the flood yields only within its own.
        runtime.start(own_session=False)
        try:
            alone = quiet_latencies_ms(runtime.address, "alone", seconds)
            loud = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.isolation", "--flood", runtime.address],
                cwd=ROOT,
            )
            try:
                before, started_s = runtime.metric("grf_segments_fused_total"), time.monotonic()
                flooded = quiet_latencies_ms(runtime.address, "flooded", seconds)
                fused = runtime.metric("grf_segments_fused_total") - before
                flood_rate = fused / (time.monotonic() - started_s)
            finally:
                loud.kill()
                loud.wait()
        finally:
            runtime.close()
    p99_alone, p99_flooded = float(np.percentile(alone, 99)), float(np.percentile(flooded, 99))
    answer = {
        "ratio": round(p99_flooded / p99_alone, 2),
        "p50_alone_ms": round(float(np.percentile(alone, 50)), 2),
        "p99_alone_ms": round(p99_alone, 2),
        "p50_flooded_ms": round(float(np.percentile(flooded, 50)), 2),
        "p99_flooded_ms": round(p99_flooded, 2),
        "flood_segments_per_s": round(flood_rate),
    }
    conclude("isolation", answer, keep=arguments.keep)


if __name__ == "__main__":
    main()
