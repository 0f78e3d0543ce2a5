"""What do two workers do that one cannot, and what does the runtime cost beside model and wire?

One and two workers in processes of their own share one SQLite store and the key groups; two publisher processes
(`runtime.client.Publisher`) find each session's worker by the table, a third process follows all sessions. With a model
that does nothing, and with the paper's block. Where the machine has no more processors than processes, two workers
share them: the ratio says what sharing costs, `worker_us` (processor time of all workers per segment) what scales.

    python -m benchmarks.scaling [--quick] [--keep]

The last line is one JSON object: segments per second by model and number of workers, the ratio of two to one, and
`beyond_model_and_wire`: what a worker with the null model uses less its transport's threads, as a share of what one
with the paper's block uses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.blocks import BLOCKS, PAPER
from benchmarks.harness.load import LoadProcess
from benchmarks.harness.machine import conclude
from benchmarks.harness.models import NULL_PAPER, save_block
from benchmarks.harness.worker import WorkerProcess
from tests.servers import free_port

SESSIONS = 32
"""of each publisher"""


def serve(bundle: str, workers: int, segments: int) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = [free_port() for _ in range(workers)]
        servers = [
            stack.enter_context(WorkerProcess(folder, bundle, ports=ports, number=number)) for number in range(workers)
        ]
        subscriber = stack.enter_context(LoadProcess("subscriber", servers[0].endpoint))
        subscriber.wait_until_ready()
        publishers = [
            stack.enter_context(
                LoadProcess(
                    "product",
                    servers[0].endpoint,
                    block=PAPER.name,
                    prefix=f"s{number}",
                    sessions=SESSIONS,
                    segments=segments // 2,
                )
            )
            for number in range(2)
        ]
        for publisher in publishers:
            publisher.wait_until_ready()
        before_s = [server.cpu_s_by_name() for server in servers]
        for publisher in publishers:
            publisher.start()
        reports = [publisher.finish() for publisher in publishers]
        after_s = [server.cpu_s_by_name() for server in servers]
        subscriber.tell({})
        subscriber.finish()
    assert not sum(report["refused"] for report in reports)
    sent = sum(report["sent"] for report in reports)
    seconds = max(report["fused_s"] for report in reports) - min(report["started_s"] for report in reports)
    all_s = sum(sum(times.values()) for times in after_s) - sum(sum(times.values()) for times in before_s)
    wire_s = sum(times.get("other", 0.0) for times in after_s) - sum(times.get("other", 0.0) for times in before_s)
    return {
        "workers": workers,
        "segments_per_s": round(sent / seconds),
        "worker_us": round(1e6 * all_s / sent, 1),
        "wire_us": round(1e6 * wire_s / sent, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundles = {"null": NULL_PAPER, "paper": save_block(BLOCKS["paper"], Path(folder))}
        for model, bundle in bundles.items():
            segments = (2_000 if arguments.quick else 40_000) // (1 if model == "null" else 4)
            for workers in (1, 2):
                rows.append({"model": model} | serve(bundle, workers, segments))
                print(json.dumps(rows[-1]), flush=True)
    rates = {(row["model"], row["workers"]): row["segments_per_s"] for row in rows}
    answer: dict[str, Any] = {f"{model}_two_over_one": round(rates[model, 2] / rates[model, 1], 2) for model in bundles}
    answer |= {f"{row['model']}_{row['workers']}_segments_per_s": row["segments_per_s"] for row in rows}
    null, paper = rows[0], rows[len(rows) // 2]
    answer["beyond_model_and_wire"] = round((null["worker_us"] - null["wire_us"]) / paper["worker_us"], 3)
    conclude("scaling", answer | {"table": rows}, keep=arguments.keep)


if __name__ == "__main__":
    main()
