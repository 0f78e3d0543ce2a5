"""From which batch on is a GPU faster than a CPU, and what does a step gain when it is recorded?

A step from raw frames on the host to answers on the host, contexts on the device: `kernels` on one thread of the CPU
(grf_core/kernels), `launched` one operation after another (grf_core/folded.py), `recorded` as one CUDA graph
(grf_core/graphed.py), which is what a worker runs. They run in turns, by the wall clock; of all repetitions the fastest
counts. Segments are of mixed modalities; `ragged` ones have 1 to T frames.

Then a whole worker of each device under the loads of runtime_efficiency.py.

    recorded_vs_launched_b64, recorded_vs_kernels_b1, ..._b64, ..._b256    paper's block, segments per second
    worker_gpu_vs_cpu       paper's block, messages of one segment: segments per second of the two workers
    max_abs_error           between contexts of the recorded step and the kernels' on the CPU

    python -m benchmarks.gpu [--quick] [--keep]         without a GPU that torch sees it says so, and no more

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fusion_core import fastest_s
from benchmarks.harness.blocks import BLOCKS, PAPER, Block
from benchmarks.harness.machine import conclude
from benchmarks.harness.models import batch_of, bundle_of, save_block
from benchmarks.harness.worker import WorkerProcess
from benchmarks.runtime_efficiency import PRODUCT_S, serve
from grf_core.folded import FoldedStepModel
from grf_core.step import StepBatch, StepModel

GPU = torch.device("cuda")
BATCHES = (1, 4, 16, 64, 256)
LOADS = ("small", "large", "product")

Row = dict[str, Any]


def ragged(batch: StepBatch) -> StepBatch:
    rng = np.random.default_rng(len(batch.frames))
    return replace(batch, frames=[frames[: rng.integers(1, len(frames) + 1)] for frames in batch.frames])


def compare(block: Block, forms: dict[str, StepModel], batch: StepBatch, lengths: str, seconds: float) -> Row:
    there = replace(batch, contexts=batch.contexts.to(GPU))
    of_form = {name: batch if form.device.type == "cpu" else there for name, form in forms.items()}
    error = forms["kernels"].step(batch).contexts - forms["recorded"].step(there).contexts.cpu()
    runs = [lambda form=form, own=of_form[name]: form.step(own) for name, form in forms.items()]
    times_s = fastest_s(runs, time.perf_counter, seconds)
    microseconds = {f"{name}_us": round(1e6 * s) for name, s in zip(forms, times_s, strict=True)}
    shape = {"block": block.name, "batch": len(batch.frames), "lengths": lengths}
    return shape | microseconds | {"max_abs_error": float(error.abs().max())}


def steps(block: Block, batches: tuple[int, ...], seconds: float) -> list[Row]:
    bundle = bundle_of(block)
    launched = FoldedStepModel(bundle.model(), bundle.normalisation, bundle.name, bundle.digest, GPU)
    forms = {"kernels": bundle.step_model("cpu"), "launched": launched, "recorded": bundle.step_model(GPU)}
    rows = []
    for count in batches:
        batch = batch_of(block, count)
        rows.append(compare(block, forms, batch, "equal", seconds))
        rows.append(compare(block, forms, ragged(batch), "ragged", seconds))
        for row in rows[-2:]:
            print(json.dumps(row), flush=True)
    return rows


def workers(block: Block, loads: tuple[str, ...], segments: int) -> list[Row]:
    rows: list[Row] = []
    for device in ("cpu", "cuda"):
        for load in loads:
            many = round(PRODUCT_S * rows[-1]["segments_per_s"]) if load == "product" else segments
            with tempfile.TemporaryDirectory() as folder:
                bundle = save_block(block, Path(folder))
                with WorkerProcess(Path(folder) / "state", bundle, f"runtime.device={device}") as worker:
                    rows.append({"block": block.name, "device": device} | serve(worker, block, load, many))
            print(json.dumps(rows[-1]), flush=True)
    return rows


def summary(step_rows: list[Row], worker_rows: list[Row]) -> Row:
    def ratio(other: str, batch: int) -> float:
        [row] = [
            row for row in step_rows if (row["block"], row["batch"], row["lengths"]) == (PAPER.name, batch, "equal")
        ]
        return round(float(row[f"{other}_us"]) / float(row["recorded_us"]), 2)

    rates = {
        row["device"]: row["segments_per_s"]
        for row in worker_rows
        if (row["block"], row["load"]) == (PAPER.name, "small")
    }
    return {
        "recorded_vs_launched_b64": ratio("launched", 64),
        "recorded_vs_kernels_b1": ratio("kernels", 1),
        "recorded_vs_kernels_b64": ratio("kernels", 64),
        "recorded_vs_kernels_b256": ratio("kernels", 256),
        "worker_gpu_vs_cpu": round(rates["cuda"] / rates["cpu"], 2),
        "max_abs_error": max(row["max_abs_error"] for row in step_rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():  # `make bench` goes on
        print(json.dumps({"gpu": None, "reason": "torch sees no GPU"}))
        return
    torch.set_num_threads(1)
    step_rows: list[Row] = []
    worker_rows: list[Row] = []
    for block in BLOCKS.values():
        step_rows += steps(block, BATCHES, 0.1 if arguments.quick else 1.0)
        worker_rows += workers(block, LOADS[:1] if arguments.quick else LOADS, 3_000 if arguments.quick else 30_000)
    found = {"gpu": torch.cuda.get_device_name(), "steps": step_rows, "workers": worker_rows}
    conclude("gpu", summary(step_rows, worker_rows) | found, keep=arguments.keep)


if __name__ == "__main__":
    main()
