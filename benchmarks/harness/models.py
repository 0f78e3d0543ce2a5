"""The models of the blocks: the readable GRF, its bundle, and one that does no arithmetic at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness.blocks import D_MODEL, LABELS, LIGHT, MODALITIES, PAPER, Block
from grf_core.bundle import Bundle, save_bundle
from grf_core.config import GRFConfig, HeadConfig, ModalityConfig
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.step import (
    Float32Array,
    HeadSignature,
    ModalitySignature,
    ModelSignature,
    RowStep,
    StepBatch,
    StepModel,
    StepResult,
)

NULL_LIGHT = "python:benchmarks.harness.models:null_light"
NULL_PAPER = "python:benchmarks.harness.models:null_paper"


def bundle_of(block: Block) -> Bundle:
    """With random weights, always the same ones."""
    torch.manual_seed(0)
    modalities = tuple(ModalityConfig(name, block.width, block.frames) for name in MODALITIES)
    heads = (HeadConfig("activity", "classification", len(LABELS), LABELS),)
    config = GRFConfig(modalities, heads, d_model=D_MODEL, n_layers=block.n_layers)
    return Bundle.of(block.name, GRF(config).eval(), Normalisation.identity(config), {})


def save_block(block: Block, folder: Path) -> str:
    """Write the block's bundle there; what `runtime.bundle` takes."""
    path = folder / block.name
    save_bundle(path, bundle_of(block), f"Random weights, for benchmarks: {block.name}\n")
    return str(path)


def batch_of(block: Block, rows: int) -> StepBatch:
    """One segment for each of so many sessions that are under way, modalities in turn."""
    segments = block.segments(min(rows, 64))
    return StepBatch(
        contexts=torch.zeros(rows, 1, D_MODEL),
        fresh=np.zeros(rows, bool),
        ranks=np.arange(rows) % len(MODALITIES),
        frames=[segments[row % len(segments)] for row in range(rows)],
        elapsed_s=np.zeros(rows, np.float32),
    )


def stream_of(block: Block, rows: int, segments: int) -> list[StepBatch]:
    """At least so many segments in batches of `rows`, each in memory of its own, as those that arrive are: one batch
    over and over would be read from the cache."""
    batch = batch_of(block, rows)
    return [replace(batch, frames=[frames.copy() for frames in batch.frames]) for _ in range(-(-segments // rows))]


class NullModel:
    """A StepModel that gives back the contexts it was given: what is left is the runtime.

    It is asked as GRF is on a CPU, by `step_rows`.
    """

    def __init__(self, block: Block) -> None:
        modalities = tuple(ModalitySignature(name, block.width, block.frames) for name in MODALITIES)
        heads = (HeadSignature("activity", "classification", 0, len(LABELS), LABELS),)
        self.signature = ModelSignature("null", "null", modalities, heads, (1, D_MODEL))
        self.device = torch.device("cpu")

    def step(self, batch: StepBatch) -> StepResult:
        rows = len(batch.frames)
        return StepResult(batch.contexts, np.zeros((rows, len(LABELS)), np.float32), np.full(rows, 0.5, np.float32))

    def step_rows(self, steps: Sequence[RowStep], contexts: torch.Tensor, host: Float32Array) -> npt.NDArray[np.bool_]:
        known, places = contexts.numpy(), [step.out_slot for step in steps]
        known[places] = known[[max(step.in_slot, 0) for step in steps]]
        host[places, -1] = 0.5
        return np.ones(len(steps), bool)


def null_light(device: str) -> StepModel:
    return NullModel(LIGHT)


def null_paper(device: str) -> StepModel:
    return NullModel(PAPER)
