"""What a forward costs: parameters, FLOPs, seconds, bytes; of GRF, MulT and the baselines by one measure.

FLOPs are those of matrix products and convolutions (2 for a multiplication and its addition), counted while the model
runs on random frames; norms, softmax and activations are left out, as is customary, and padding counts like frames.
A model built under `torch.device("meta")` has parameters and FLOPs too, without memory for its weights.

Peak memory is what the forward holds at once on top of weights and inputs: on CUDA what the allocator reports, on the
CPU the highest running sum of the allocator's events that `torch.profiler` records, kernels' scratch included.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from grf_core.config import GRFConfig

Frames = int | Mapping[str, int]
"""Frames of each modality, by name; or one number for all."""

CPU_IN_TRACE = 0
"""The device type of host memory in a profiler trace."""


class SampleModel(Protocol):
    """An `nn.Module` that fuses whole samples as `GRF.forward` does."""

    @property
    def config(self) -> GRFConfig: ...
    @property
    def training(self) -> bool: ...
    def __call__(self, inputs: Mapping[str, Tensor], lengths: Mapping[str, Tensor], /) -> Any: ...
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def train(self, mode: bool = True, /) -> Any: ...


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: SampleModel, frames_per_modality: Frames, batch: int = 1) -> int:
    """Of one forward in evaluation mode."""
    counter = FlopCounterMode(display=False)
    with _forward(model, frames_per_modality, batch) as forward, _countable(), counter:
        forward()
    return int(counter.get_total_flops())


def measured_time_s(
    model: SampleModel,
    frames_per_modality: Frames,
    batch: int = 1,
    repeats: int = 20,
    warm_up: int = 3,
) -> float:
    """Median wall-clock seconds of one forward in evaluation mode, on the model's device."""
    durations_s = []
    with _forward(model, frames_per_modality, batch) as forward:
        for _ in range(warm_up):
            forward()
        for _ in range(repeats):
            _synchronise(model)
            begun_s = time.perf_counter()
            forward()
            _synchronise(model)
            durations_s.append(time.perf_counter() - begun_s)
    return statistics.median(durations_s)


def peak_memory_bytes(model: SampleModel, frames_per_modality: Frames, batch: int = 1) -> int:
    """The most that one forward in evaluation mode holds at once, beyond weights and inputs."""
    device = _device(model)
    with _forward(model, frames_per_modality, batch) as forward:
        forward()  # what is made once and kept is not of this forward
        return _peak_on_cuda_bytes(forward, device) if device.type == "cuda" else _peak_on_cpu_bytes(forward)


def _peak_on_cuda_bytes(forward: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before_bytes = torch.cuda.memory_allocated(device)
    forward()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before_bytes


def _peak_on_cpu_bytes(forward: Callable[[], Any]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        forward()
    with TemporaryDirectory() as directory:
        trace = Path(directory) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    held_bytes = peak_bytes = 0
    for change in sorted(changes, key=lambda event: event["ts"]):
        if change["args"]["Device Type"] == CPU_IN_TRACE:
            held_bytes += change["args"]["Bytes"]
            peak_bytes = max(peak_bytes, held_bytes)
    return peak_bytes


@contextmanager
def _forward(model: SampleModel, frames_per_modality: Frames, batch: int) -> Iterator[Callable[[], Any]]:
    """A forward on random frames without gradients; the model is in evaluation mode meanwhile."""
    inputs, lengths = {}, {}
    for modality in model.config.modalities:
        frames = frames_per_modality if isinstance(frames_per_modality, int) else frames_per_modality[modality.name]
        inputs[modality.name] = torch.randn(batch, frames, modality.width, device=_device(model))
        lengths[modality.name] = torch.full((batch,), frames, device=_device(model))
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            yield lambda: model(inputs, lengths)
    finally:
        model.train(was_training)


@contextmanager
def _countable() -> Iterator[None]:
    """Attention as plain matrix products: the counter does not know PyTorch's fused forms of it on every device."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _synchronise(model: SampleModel) -> None:
    if _device(model).type == "cuda":
        torch.cuda.synchronize(_device(model))


def _device(model: SampleModel) -> torch.device:
    return next(iter(model.parameters())).device
