"""How much of a machine's work is the model's, and how much does the runtime add?

One whole worker (engine, SQLite, metrics) in a process of its own, publishers in theirs, and a subscriber to every
session in another. It is timed from the first segment sent to the last one acknowledged as fused, while what settles is
written and acknowledged as durable. That the rest becomes durable too is waited for, outside the time: the end of a
session settles after `order.idle_timeout_s`.

    offline     the folded model alone, at its best batch, over the same segments
    null        the worker with a model that does nothing
    echo        a bare ZeroMQ + msgpack loop under the same load: no order, no state, no store

Loads: `small` sends one segment in a message, `large` 64 (8 streams with 8 each), both with ready-made messages and as
little work as Python allows; `product` is `runtime.client.Publisher`, two processes of it.

    vs_offline_model                        paper's block, `product`: end to end / offline
    null_vs_echo, null_vs_echo_large        segments per second, small and large messages
    vs_offline_model_cpu, null_vs_echo_cpu  the same two as ratios of processor time: all threads of the worker count,
                                            but what others do on the machine hardly does
    worker_us_per_segment_beyond_model      processor time of all threads of the worker with the null model, `small`
    segments_per_s                          paper's block, `product`

On two processors the publishers, the subscriber and the worker share them, so each row has the processor time of each.

    python -m benchmarks.runtime_efficiency [--quick] [--keep] [--only null|light|paper]

The last line is one JSON object; `--keep` writes it to results/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.blocks import BLOCKS, PAPER, Block
from benchmarks.harness.echo import EchoProcess
from benchmarks.harness.load import LoadProcess
from benchmarks.harness.machine import conclude
from benchmarks.harness.models import NULL_PAPER, batch_of, bundle_of, save_block
from benchmarks.harness.worker import WorkerProcess

SESSIONS = 64
PRODUCT_S = 6.0
"""so long at the rate of the load before: a new session settles nothing for two seconds, and a publisher keeps what is
not durable, up to its limit, so that a short load would mostly wait for that"""
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
                    endpoint=server.endpoint, block=block.name, prefix=f"s{number}",
                    sessions=SESSIONS // len(plans), segments=segments // len(plans), **plan,
                )
            )
            for number, plan in enumerate(plans)
        ]  # fmt: skip
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


def offline(block: Block, seconds: float) -> Row:
    """Segments per second of the folded model alone; the best batch counts, and of each batch its median step."""
    model = bundle_of(block).step_model()
    best: Row = {"segments_per_s": 0}
    for rows in BATCHES:
        batch, times_s, cpu_s = batch_of(block, rows), [], time.thread_time()
        until_s = time.monotonic() + seconds / len(BATCHES)
        while len(times_s) < 3 or time.monotonic() < until_s:
            started_s = time.perf_counter()
            model.step(batch)
            times_s.append(time.perf_counter() - started_s)
        rate = round(rows / sorted(times_s)[len(times_s) // 2])
        if rate > best["segments_per_s"]:
            cpu_us = 1e6 * (time.thread_time() - cpu_s) / (rows * len(times_s))
            best = {"segments_per_s": rate, "batch": rows, "cpu_us": round(cpu_us, 1)}
    return best


def measure_null(loads: list[str], segments: int) -> list[Row]:
    rows: list[Row] = []
    for load in loads:
        if load != "product":
            with EchoProcess() as echo:
                rows.append({"server": "echo"} | serve(echo, PAPER, load, segments))
                print(json.dumps(rows[-1]), flush=True)
        with tempfile.TemporaryDirectory() as folder, WorkerProcess(Path(folder), NULL_PAPER) as worker:
            many = round(PRODUCT_S * rows[-1]["segments_per_s"]) if load == "product" else segments
            rows.append({"server": "null"} | serve(worker, PAPER, load, many))
            print(json.dumps(rows[-1]), flush=True)
    return rows


def measure_block(block: Block, loads: list[str], seconds: float) -> list[Row]:
    """The model alone before and after, the mean of both, and the loads in between."""
    before = offline(block, seconds / 4)
    segments = round(before["segments_per_s"] * seconds / 2)
    rows = []
    for load in loads:
        with tempfile.TemporaryDirectory() as folder:
            bundle = save_block(block, Path(folder))
            with WorkerProcess(Path(folder) / "state", bundle) as worker:
                rows.append({"server": block.name} | serve(worker, block, load, segments))
    after = offline(block, seconds / 4)
    alone = (before["segments_per_s"] + after["segments_per_s"]) / 2
    alone_us = (before["cpu_us"] + after["cpu_us"]) / 2
    for row in rows:
        row["vs_offline"] = round(row["segments_per_s"] / alone, 3)
        row["vs_offline_cpu"] = round(alone_us / row["worker_us"], 3)
        row["us_beyond_model"] = round(row["worker_us"] - alone_us, 1)
    rows += [{"server": f"{block.name} offline"} | before, {"server": f"{block.name} offline"} | after]
    for row in rows:
        print(json.dumps(row), flush=True)
    return rows


def summary(rows: list[Row]) -> Row:
    def of(server: str, load: str) -> Row:
        return next((row for row in rows if row["server"] == server and row.get("load") == load), {})

    def ratio(load: str) -> float | None:
        null, echo = of("null", load), of("echo", load)
        return round(null["segments_per_s"] / echo["segments_per_s"], 3) if null and echo else None

    def cpu_ratio(load: str) -> float | None:
        null, echo = of("null", load), of("echo", load)
        return round(echo["worker_us"] / null["worker_us"], 3) if null and echo else None

    return {
        "vs_offline_model": of("paper", "product").get("vs_offline"),
        "vs_offline_model_cpu": of("paper", "product").get("vs_offline_cpu"),
        "null_vs_echo_cpu": cpu_ratio("small"),
        "null_vs_echo": ratio("small"),
        "null_vs_echo_large": ratio("large"),
        "worker_us_per_segment_beyond_model": of("null", "small").get("worker_us"),
        "worker_us_per_segment_beyond_model_large": of("null", "large").get("worker_us"),
        "segments_per_s": of("paper", "product").get("segments_per_s"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--only", choices=["null", *BLOCKS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    if arguments.only in (None, "null"):
        loads = ["small"] if arguments.quick else ["small", "large", "product"]
        rows += measure_null(loads, 3_000 if arguments.quick else 30_000)
    for name, block in BLOCKS.items():
        if arguments.only == name or (arguments.only is None and not (arguments.quick and name == "light")):
            loads = ["small", "large", "product"] if name == PAPER.name and not arguments.quick else ["product"]
            rows += measure_block(block, loads, 2.0 if arguments.quick else 8.0)
    conclude("runtime_efficiency", summary(rows) | {"table": rows}, keep=arguments.keep)


if __name__ == "__main__":
    main()
