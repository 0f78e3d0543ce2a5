"""A dataset and a recipe that a test can train on in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from grf_core.config import GRFConfig, HeadConfig, ModalityConfig
from grf_core.data.sessions import Cutting, Dataset, LabelledSession, StreamFrames
from grf_core.training.recipe import Augmentation, Condition, Recipe, Schedule


def tiny_dataset(_: Path | None = None) -> Dataset:
    """Two classes, told apart by the sign of one feature in either stream; a value, the size of the other."""
    rng = np.random.default_rng(0)
    sessions = [_session(position, rng) for position in range(40)]
    return Dataset("tiny", "made up", "CC0-1.0", "first and second half", tuple(sessions[:24]), tuple(sessions[24:]))


def _session(position: int, rng: np.random.Generator) -> LabelledSession:
    sign, size, times_s = (-1) ** position, float(rng.uniform(0, 2)), np.arange(8.0) * 0.25
    frames = rng.normal(size=(8, 2)) * 0.1 + [sign, size]
    streams = tuple(StreamFrames(name, name, frames.astype(np.float32), times_s) for name in ("left", "right"))
    return LabelledSession(f"tiny-{position}", {"side": "up" if sign > 0 else "down", "size": size}, streams)


TINY = Recipe(
    name="tiny",
    config=GRFConfig(
        modalities=(ModalityConfig("left", 2, 8), ModalityConfig("right", 2, 8)),
        heads=(HeadConfig("side", "classification", 2, ("down", "up")), HeadConfig("size", "regression", 1)),
        d_model=8,
        n_layers=1,
        n_heads=2,
        d_ffn=16,
        dropout=0.0,
        auxiliary_heads=False,
    ),
    schedule=Schedule(epochs=20, batch_sessions=8, learning_rate=1e-2, warmup_epochs=2, patience=20),
    cutting=Cutting(1.0, 1.0),
    augmentation=Augmentation(arrival_jitter_s=0.3),
    load=tiny_dataset,
    conditions=(Condition("calm", Cutting(1.0, 1.0)), Condition("left alone", Cutting(0.5, 0.5), silent=("right",))),
    limits="It knows nothing.",
)

WHOLE = replace(
    TINY,
    regime="whole",
    config=replace(TINY.config, auxiliary_heads=True),
    schedule=replace(TINY.schedule, epochs=40, patience=40),
)
