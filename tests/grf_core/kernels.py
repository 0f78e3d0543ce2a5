"""The compiled kernels, for tests."""

from __future__ import annotations

import os

import pytest
import torch

from grf_core.kernels.library import Kernels, KernelsMissing, load


def kernels(instruction_set: str | None = None) -> Kernels:
    """Those of an instruction set, or the best of this processor. Without them the test is skipped, but in CI."""
    here = torch.backends.cpu.get_cpu_capability()
    if instruction_set == "AVX512" and here != "AVX512":
        pytest.skip("this processor has no AVX-512")
    try:
        return load(instruction_set or here)
    except KernelsMissing as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))
