"""Small models and random segments for the tests of grf_core."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from grf_core.config import GRFConfig, HeadConfig, ModalityConfig
from grf_core.model import GRF, FusionBlock
from grf_core.step import Float32Array

MODALITIES = (ModalityConfig("text", 5, 12), ModalityConfig("audio", 3, 9), ModalityConfig("imu", 1, 12))
HEADS = (
    HeadConfig("mood", "classification", 3, ("low", "even", "high")),
    HeadConfig("effort", "regression", 1),
)

CHANGES = st.fixed_dictionaries(
    {
        "context_slots": st.sampled_from([1, 2, 4]),
        "n_layers": st.integers(1, 3),
        "carry": st.sampled_from(["enriched", "context"]),
        "ageing": st.booleans(),
    }
)
"""of a small model, for every path through its step"""


def small_config(**changes: Any) -> GRFConfig:
    settings: dict[str, Any] = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ffn": 24} | changes
    return GRFConfig(**{"modalities": MODALITIES, "heads": HEADS} | settings)


def small_model(seed: int = 0, **changes: Any) -> GRF:
    """In evaluation mode, with every weight drawn, biases and norms too, so that none is hidden by its start value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GRF(small_config(**changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def block_of(model: GRF) -> FusionBlock:
    """The first, which is the only one if blocks are shared."""
    block = model.blocks[0]
    assert isinstance(block, FusionBlock)
    return block


def random_segments(count: int, rng: np.random.Generator) -> list[tuple[int, Float32Array]]:
    """(rank, frames) of random modality and length."""
    ranks = rng.integers(len(MODALITIES), size=count)
    return [(int(rank), random_frames(int(rank), rng)) for rank in ranks]


def random_frames(rank: int, rng: np.random.Generator) -> Float32Array:
    modality = MODALITIES[rank]
    frames = int(rng.integers(1, modality.max_frames + 1))
    return rng.normal(size=(frames, modality.width)).astype(np.float32)
