"""The compiled kernels, for tests."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from grf_core.kernels.library import (
    BUILT_FOR,
    FLAGS,
    FOLDER,
    INSTRUCTION_SETS,
    SOURCES,
    Kernels,
    KernelsMissing,
    library_name,
    load,
    sources_digest,
)
from grf_core.native import best_instruction_set

IMITATION = "-mavx2", "-mfma"
"""flags with which the sources for NEON compute the same, bit by bit, on a processor of Intel's kind"""


def kernels(instruction_set: str | None = None) -> Kernels:
    """Those of an instruction set, or the best of this processor. Without them the test is skipped, but in CI."""
    here = best_instruction_set()
    wanted = instruction_set or here
    if (wanted == "AVX512" and here != "AVX512") or (wanted == "AVX2" and here == "NEON"):
        pytest.skip(f"this processor has no {wanted}")
    try:
        return _imitated() if wanted == "NEON" and here != "NEON" else load(wanted)
    except (KernelsMissing, FileNotFoundError) as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))


def build(instruction_set: str, folder: Path, *more_flags: str) -> None:
    """Compile the sources of `folder` there. FileNotFoundError without a compiler."""
    flags = (*FLAGS, *INSTRUCTION_SETS[instruction_set], *more_flags)
    if instruction_set not in BUILT_FOR[platform.machine()]:
        flags += IMITATION
    library = folder / (library_name(instruction_set) + EXTENSION_SUFFIXES[0])
    digest = f'-DGRF_SOURCES="{sources_digest(folder)}"'
    sources = [str(folder / source) for source in SOURCES]
    subprocess.run(["g++", "-shared", "-fPIC", *flags, digest, *sources, "-o", str(library)], check=True)


@cache
def _imitated() -> Kernels:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in [*FOLDER.glob("*.h"), *FOLDER.glob("*.cc")]:
            (folder / path.name).write_bytes(path.read_bytes())
        build("NEON", folder)
        return load("NEON", folder)  # stays loaded without its file
