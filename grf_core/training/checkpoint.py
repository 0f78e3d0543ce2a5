"""A run on disk between two epochs, so that it can go on as if it had never stopped.

The file is replaced whole and read with `weights_only`: it holds tensors, numbers and text, and nothing is executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """A file that a run cannot go on from; the text says why."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        torch.save({"format_version": FORMAT_VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(path: Path, fields: frozenset[str]) -> dict[str, Any]:
    """All tensors on the CPU. CheckpointError for what is no checkpoint with these fields."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no checkpoint to go on from") from None
    except OSError:
        raise
    except Exception as error:  # torch does not say what it raises for bytes that are no checkpoint, and it varies
        raise CheckpointError(f"{path}: not a checkpoint: {error!s:.200}") from None
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path}: not a checkpoint of format version {FORMAT_VERSION}")
    missing = fields - state.keys()
    if missing:
        raise CheckpointError(f"{path}: {', '.join(sorted(missing))} missing")
    return state


def rng_text(rng: np.random.Generator) -> str:
    """The state of a numpy generator; its numbers have 128 bits, which tensors do not."""
    return json.dumps(rng.bit_generator.state)


def restore_rng(rng: np.random.Generator, text: str) -> None:
    rng.bit_generator.state = json.loads(text)
