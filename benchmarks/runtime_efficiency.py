"""How much of a machine's work is the model's, and how much does the runtime add?

One whole worker (engine, SQLite, metrics) in a process of its own, publishers in theirs, and a subscriber to every
session in another. It is timed from the first segment sent to the last one acknowledged as fused, while what settles is
written and acknowledged as durable. That the rest becomes durable too is waited for, outside the time: the end of a
session settles after `order.idle_timeout_s`.

    offline     the folded model alone, at its best batch, over as many segments as two publishers keep under way: each
                is read from memory, as one that arrives is, and not from the cache of the batch before
    null        the worker with a model that does nothing
    echo        a bare ZeroMQ + msgpack loop under the same load: no order, no state, no store

Loads: `small` sends one segment in a message, `large` 64 (8 streams with 8 each), both with ready-made messages and as
little work as Python allows; `product` is `runtime.client.Publisher`, two processes of it.

    vs_offline_model                        paper's block, `product`: end to end / offline just before and after it
    null_vs_echo, null_vs_echo_large        segments per second, small and large messages
    vs_offline_model_cpu, null_vs_echo_cpu  the same two as ratios of processor time: all threads of the worker count,
                                            but what others do on the machine hardly does
    worker_us_per_segment_beyond_model      processor time of all threads of the worker with the null model, `small`;
                                            `echo_us_per_segment` is what the echo takes of the same messages
    segments_per_s                          paper's block, `product`

Machines change their pace within seconds: what is compared is measured in turns, and the middle of all rounds counts.
On two processors the publishers, the subscriber and the worker share them, so each row has the processor time of each.

    python -m benchmarks.runtime_efficiency [--quick] [--keep] [--only null|light|paper]

The last line is one JSON object; `--keep` writes it to results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.blocks import BLOCKS, PAPER, Block
from benchmarks.harness.echo import EchoProcess
from benchmarks.harness.load import LoadProcess
from benchmarks.harness.machine import conclude
from benchmarks.harness.models import NULL_PAPER, bundle_of, save_block, stream_of
from benchmarks.harness.worker import WorkerProcess

SESSIONS = 64
PRODUCT_S = 6.0
"""so long at the rate of the load before: a new session settles nothing for two seconds, and a publisher keeps what is
not durable, up to its limit, so that a short load would mostly wait for that"""
IN_FLIGHT = 2048
"""segments: two windows"""
ROUNDS = 7
BATCHES = (16, 32, 64, 128, 256)
LOADS: dict[str, list[dict[str, Any]]] = {
    "small": [{"kind": "raw", "per_group": 1, "groups": 1}],
    "large": [{"kind": "raw", "per_group": 8, "groups": 8}],
    "product": [{"kind": "product"}, {"kind": "product"}],
}

Row = dict[str, Any]


def serve(server: WorkerProcess | EchoProcess, block: Block, load: str, segments: int) -> Row:
    """Put one load on a server and wait until all of it is durable."""
    with ExitStack() as stack:
        subscriber = stack.enter_context(LoadProcess("subscriber", server.endpoint))
        subscriber.wait_until_ready()
        plans = LOADS[load]
        publishers = [
            stack.enter_context(
                LoadProcess(
                    endpoint=server.endpoint,
                    block=block.name,
                    prefix=f"s{number}",
                    sessions=SESSIONS // len(plans),
                    segments=segments // len(plans),
                    **plan,
                )
            )
            for number, plan in enumerate(plans)
        ]
        for publisher in publishers:
            publisher.wait_until_ready()
        before_s, names_s = server.cpu_s(), _cpu_by_name(server)
        for publisher in publishers:
            publisher.start()
        reports = [publisher.finish() for publisher in publishers]
        worker_s = server.cpu_s() - before_s
        threads_s = {name: seconds - names_s.get(name, 0.0) for name, seconds in _cpu_by_name(server).items()}
        subscriber.tell({})
        followed = subscriber.finish()
    refused = sum(report["refused"] for report in reports)
    assert not refused, f"{refused} segments were refused"
    sent = sum(report["sent"] for report in reports)
    seconds = max(report["fused_s"] for report in reports) - min(report["started_s"] for report in reports)
    return {
        "load": load,
        "segments": sent,
        "segments_per_s": round(sent / seconds),
        "worker_us": round(1e6 * worker_s / sent, 1),
        "worker_us_by_thread": {name: round(1e6 * s / sent, 1) for name, s in threads_s.items() if s > 0.01 * worker_s},
        "publisher_us": round(1e6 * sum(report["cpu_s"] for report in reports) / sent, 1),
        "subscriber_us": round(1e6 * followed["cpu_s"] / sent, 1),
        "updates": followed["updates"],
    }


def _cpu_by_name(server: WorkerProcess | EchoProcess) -> dict[str, float]:
    return server.cpu_s_by_name() if isinstance(server, WorkerProcess) else {}


class Offline:
    """The folded model alone, in this thread."""

    def __init__(self, block: Block, seconds: float) -> None:
        """Looks for the best batch, for so long: the one whose fastest step is, by the segment."""
        self._model = bundle_of(block).step_model()
        self._streams = {rows: cycle(stream_of(block, rows, IN_FLIGHT)) for rows in BATCHES}
        self._best = min(BATCHES, key=lambda rows: min(self._times_s(rows, seconds / len(BATCHES))) / rows)

    def measure(self, seconds: float) -> Row:
        cpu_s = time.thread_time()
        times_s = self._times_s(self._best, seconds)
        segments = self._best * len(times_s)
        cpu_us = 1e6 * (time.thread_time() - cpu_s) / segments
        return {"segments_per_s": round(segments / sum(times_s)), "batch": self._best, "cpu_us": round(cpu_us, 1)}

    def _times_s(self, rows: int, seconds: float) -> list[float]:
        times_s: list[float] = []
        until_s = time.monotonic() + seconds
        while len(times_s) < 3 or time.monotonic() < until_s:
            batch, started_s = next(self._streams[rows]), time.perf_counter()
            self._model.step(batch)
            times_s.append(time.perf_counter() - started_s)
        return times_s


def measure_null(*, quick: bool) -> list[Row]:
    if quick:
        return null_beside_echo("small", 3_000)
    rows = [row for load in ("small", "large") * ROUNDS for row in null_beside_echo(load, 30_000)]
    rows.append(null("product", round(PRODUCT_S * rows[-1]["segments_per_s"])))
    print(json.dumps(rows[-1]), flush=True)
    return rows


def null_beside_echo(load: str, segments: int) -> list[Row]:
    """The echo, and the worker with the null model just after it."""
    with EchoProcess() as server:
        echo = {"server": "echo"} | serve(server, PAPER, load, segments)
    worker = null(load, segments)
    worker["vs_echo"] = round(worker["segments_per_s"] / echo["segments_per_s"], 3)
    worker["vs_echo_cpu"] = round(echo["worker_us"] / worker["worker_us"], 3)
    for row in (echo, worker):
        print(json.dumps(row), flush=True)
    return [echo, worker]


def null(load: str, segments: int) -> Row:
    with tempfile.TemporaryDirectory() as folder, WorkerProcess(Path(folder), NULL_PAPER) as worker:
        return {"server": "null"} | serve(worker, PAPER, load, segments)


def measure_block(block: Block, alone: Offline, load: str, seconds: float) -> Row:
    """The load, and the model alone just before and just after it: the mean of both, for machines change their pace."""
    before = alone.measure(seconds / 8)
    with tempfile.TemporaryDirectory() as folder:
        bundle = save_block(block, Path(folder))
        with WorkerProcess(Path(folder) / "state", bundle) as worker:
            row: Row = {"server": block.name} | serve(
                worker, block, load, round(before["segments_per_s"] * seconds / 2)
            )
    after = alone.measure(seconds / 8)
    alone_per_s = (before["segments_per_s"] + after["segments_per_s"]) / 2
    alone_us = (before["cpu_us"] + after["cpu_us"]) / 2
    row |= {
        "vs_offline": round(row["segments_per_s"] / alone_per_s, 3),
        "vs_offline_cpu": round(alone_us / row["worker_us"], 3),
        "us_beyond_model": round(row["worker_us"] - alone_us, 1),
        "offline": [before, after],
    }
    print(json.dumps(row), flush=True)
    return row


def summary(rows: list[Row]) -> Row:
    def middle(server: str, load: str, key: str) -> float | None:
        """Of the rounds."""
        values = [row[key] for row in rows if row["server"] == server and row["load"] == load]
        return round(statistics.median(values), 3) if values else None

    return {
        "vs_offline_model": middle("paper", "product", "vs_offline"),
        "vs_offline_model_cpu": middle("paper", "product", "vs_offline_cpu"),
        "null_vs_echo": middle("null", "small", "vs_echo"),
        "null_vs_echo_cpu": middle("null", "small", "vs_echo_cpu"),
        "null_vs_echo_large": middle("null", "large", "vs_echo"),
        "worker_us_per_segment_beyond_model": middle("null", "small", "worker_us"),
        "worker_us_per_segment_beyond_model_large": middle("null", "large", "worker_us"),
        "echo_us_per_segment": middle("echo", "small", "worker_us"),
        "segments_per_s": middle("paper", "product", "segments_per_s"),
    }


def loads_of(name: str, *, quick: bool) -> list[str]:
    if quick or name != PAPER.name:
        return ["product"]
    return ["small", "large", *["product"] * ROUNDS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--only", choices=["null", *BLOCKS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    if arguments.only in (None, "null"):
        rows += measure_null(quick=arguments.quick)
    for name, block in BLOCKS.items():
        if arguments.only == name or (arguments.only is None and not (arguments.quick and name == "light")):
            seconds = 2.0 if arguments.quick else 6.0
            alone = Offline(block, seconds / 4)
            rows += [measure_block(block, alone, load, seconds) for load in loads_of(name, quick=arguments.quick)]
    conclude("runtime_efficiency", summary(rows) | {"table": rows}, keep=arguments.keep)


if __name__ == "__main__":
    main()
