"""How much faster is the folded form of GRF than the readable one, and how much of the processor does it use?

All forms of one model (d_model 64, 4 layers, 4 heads, d_ffn 256; with one layer too) step the same batches in turns:
the readable one, the folded one as torch computes it, and as compiled code does (`grf_core/kernels`), which is what a
worker runs. One thread, and its processor time, not the clock's: other work on the machine slows a clock, and it hardly
touches a ratio of processor times. Of all repetitions the fastest counts. `--threads 2 --clock` measures the other way.

    us                    of one step, from raw frames to answers on the host
    speedup               readable / compiled; `_torch`: readable / folded by torch
    useful_flops_per_s    of the folded form's matrix products, those over padding not counted
    useful_flops_vs_sgemm that, divided by a product of 2048 x 2048 matrices in turn with the steps
    max_abs_error         between the contexts of the readable and the compiled form

    python -m benchmarks.fusion_core            B in 1, 8, 64, 256; T in 8, 20, 50 and ragged (1 to 50)
    python -m benchmarks.fusion_core --quick    the four corners, a few seconds

The last line is one JSON object. What was tried and not adopted is in notes.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.harness.machine import conclude
from grf_core.config import GRFConfig, HeadConfig, ModalityConfig
from grf_core.folded import FoldedStepModel
from grf_core.inference import GRFStepModel
from grf_core.model import GRF
from grf_core.native import NativeStepModel, kernels_here
from grf_core.normalisation import Normalisation
from grf_core.step import StepBatch, StepModel

LONGEST = 50
RAGGED = 0
MODALITIES = (ModalityConfig("text", 32, LONGEST), ModalityConfig("audio", 80, LONGEST))
SGEMM = 2048
CPU = torch.device("cpu")

Row = dict[str, Any]


def forms_of(config: GRFConfig) -> tuple[GRFStepModel, FoldedStepModel, NativeStepModel]:
    torch.manual_seed(0)
    own = (GRF(config).eval(), Normalisation.identity(config), "bench", "")
    return GRFStepModel(*own, CPU), FoldedStepModel(*own, CPU), NativeStepModel(*own, kernels_here())


def make_batch(rows: int, frames: int, d_model: int = 64) -> StepBatch:
    rng = np.random.default_rng(rows * 100 + frames)
    lengths = rng.integers(1, LONGEST + 1, rows) if frames == RAGGED else np.full(rows, frames)
    ranks = rng.integers(len(MODALITIES), size=rows)
    return StepBatch(
        contexts=torch.from_numpy(rng.normal(size=(rows, 1, d_model))).float(),
        fresh=np.zeros(rows, bool),
        ranks=ranks,
        frames=[
            rng.normal(size=(length, MODALITIES[rank].width)).astype(np.float32)
            for length, rank in zip(lengths, ranks, strict=True)
        ],
        elapsed_s=np.zeros(rows, np.float32),
    )


def useful_flops(config: GRFConfig, batch: StepBatch) -> int:
    """Of the folded form, K = 1: two for each multiplication in a matrix product."""
    d, heads, ffn = config.d_model, config.n_heads, config.d_ffn
    total = 0
    for segment, rank in zip(batch.frames, batch.ranks, strict=True):
        frames = len(segment)
        # qkv and out; widen and narrow; scores and weighted sums
        frame_layer = 2 * frames * (4 * d * d + 2 * d * ffn + 2 * frames * d)
        # the lone slot; seek and take; widen and narrow; scores and weighted sums; the vector for the frames
        context_layer = 2 * (d * d + 2 * heads * d * d + 2 * d * ffn + 2 * heads * frames * d + d * d)
        gate_and_heads = 2 * (4 * d * d + d * d // 2 + d // 2 * 4)
        total += config.n_layers * (frame_layer + context_layer) + gate_and_heads
        total += 2 * frames * config.modalities[rank].width * d
    return total


def fastest_s(runs: Sequence[Callable[[], object]], clock: Callable[[], float], seconds: float) -> list[float]:
    """The least time of each, run in turns for so many seconds of the wall clock; if for any, three turns at least."""
    best = [float("inf")] * len(runs)
    turns, until_s = 0, time.monotonic() + seconds
    while turns < (3 if seconds else 1) or time.monotonic() < until_s:
        turns += 1
        for number, run in enumerate(runs):
            started_s = clock()
            run()
            best[number] = min(best[number], clock() - started_s)
    return best


def compare(
    forms: tuple[StepModel, StepModel, StepModel],
    config: GRFConfig,
    rows: int,
    frames: int,
    clock: Callable[[], float],
    seconds: float,
) -> Row:
    (readable, folded, native), batch = forms, make_batch(rows, frames)
    left, right = torch.randn(2, SGEMM, SGEMM)
    error = float((readable.step(batch).contexts - native.step(batch).contexts).abs().max())
    runs = [lambda: readable.step(batch), lambda: folded.step(batch), lambda: native.step(batch), lambda: left @ right]
    readable_s, folded_s, native_s, sgemm_s = fastest_s(runs, clock, seconds)
    flops, sgemm_flops_per_s = useful_flops(config, batch), 2 * SGEMM**3 / sgemm_s
    return {
        "layers": config.n_layers,
        "batch": rows,
        "frames": "ragged" if frames == RAGGED else frames,
        "readable_us": round(readable_s * 1e6),
        "folded_us": round(folded_s * 1e6),
        "native_us": round(native_s * 1e6),
        "speedup": round(readable_s / native_s, 2),
        "speedup_torch": round(readable_s / folded_s, 2),
        "segments_per_s": round(rows / native_s),
        "useful_flops_per_s": round(flops / native_s),
        "useful_flops_vs_sgemm": round(flops / native_s / sgemm_flops_per_s, 3),
        "useful_flops_vs_sgemm_torch": round(flops / folded_s / sgemm_flops_per_s, 3),
        "max_abs_error": error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", action="store_true", help="time by the wall clock")
    parser.add_argument("--keep", action="store_true", help="write the answer to results/")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.perf_counter if arguments.clock else time.thread_time
    seconds = 0.0 if arguments.quick else 4.0
    batches, lengths = ((1, 256), (50,)) if arguments.quick else ((1, 8, 64, 256), (8, 20, 50))
    rows: list[Row] = []
    for n_layers in (4,) if arguments.quick else (4, 1):
        config = GRFConfig(MODALITIES, (HeadConfig("activity", "classification", 4),), n_layers=n_layers)
        forms = forms_of(config)
        for count in batches:
            for frames in (*lengths, RAGGED):
                rows.append(compare(forms, config, count, frames, clock, seconds))
                print(json.dumps(rows[-1]), flush=True)
    conclude("fusion_core", summary(rows) | {"threads": arguments.threads, "table": rows}, keep=arguments.keep)


def summary(rows: Sequence[Row]) -> Row:
    def of(count: int, frames: int | str) -> Row:
        return next(row for row in rows if (row["layers"], row["batch"], row["frames"]) == (4, count, frames))

    return {
        "speedup_b1_t50": of(1, 50)["speedup"],
        "speedup_b256_t50": of(256, 50)["speedup"],
        "speedup_b256_ragged": of(256, "ragged")["speedup"],
        "speedup_torch_b1_t50": of(1, 50)["speedup_torch"],
        "speedup_torch_b256_t50": of(256, 50)["speedup_torch"],
        "useful_flops_vs_sgemm": of(256, 50)["useful_flops_vs_sgemm"],
        "useful_flops_vs_sgemm_ragged": of(256, "ragged")["useful_flops_vs_sgemm"],
        "useful_flops_vs_sgemm_torch": of(256, 50)["useful_flops_vs_sgemm_torch"],
        "max_abs_error": max(row["max_abs_error"] for row in rows),
    }


if __name__ == "__main__":
    main()
