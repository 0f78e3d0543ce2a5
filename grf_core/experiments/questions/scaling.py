"""What do GRF and MulT cost as the modalities grow from 2 to 32, and the frames from 16 to 1,024? Nothing is trained.

Two sizes: the paper's, and a light one in which MulT with 32 modalities still fits a small machine. FLOPs and
parameters are counted without memory for the weights, so every point has them; time and memory are measured below the
limits `MAX_FLOPS` and `MAX_PARAMETERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from grf_core.config import GRFConfig, HeadConfig, ModalityConfig
from grf_core.experiments.cost import SampleModel, flops, measured_time_s, parameters, peak_memory_bytes
from grf_core.experiments.experiment import Setup
from grf_core.experiments.mult import MulT
from grf_core.experiments.plots.curves import Curve, Panel, panels
from grf_core.experiments.report import Findings, Plot, Table
from grf_core.experiments.runner import one_thread
from grf_core.experiments.variants import Variant, VariantFactory
from grf_core.model import GRF
from grf_core.training.run import ModelFactory

MODALITIES = (2, 3, 4, 8, 16, 24, 32)
FRAMES = (16, 64, 256, 1024)
FRAMES_WHILE_MODALITIES_GROW = 32
MODALITIES_WHILE_FRAMES_GROW = 3
QUICK_MODALITIES = (2, 3, 4, 8)
QUICK_FRAMES = (16, 32, 64)
MOST_OF_MULT = {"paper": 8}
"""Modalities by size: with 16 of the paper's size MulT has a billion parameters, and even counting it takes minutes."""
WIDTH = 32
MAX_FLOPS = 1e10
MAX_PARAMETERS = 3e8
MODELS: dict[str, ModelFactory] = {
    "GRF": GRF,
    "GRF, linear attention": VariantFactory(Variant(attention="linear")),
    "MulT": MulT,
}
SIZES: dict[str, dict[str, Any]] = {
    "paper": {"d_model": 64, "n_layers": 4, "n_heads": 4, "d_ffn": 256},
    "light": {"d_model": 8, "n_layers": 1, "n_heads": 2, "d_ffn": 32},
}
QUANTITIES: dict[str, tuple[str, float]] = {
    "seconds": ("ms", 1e3),
    "flops": ("MFLOPs", 1e-6),
    "peak_bytes": ("MB", 1e-6),
    "parameters": ("thousand", 1e-3),
}


@dataclass(frozen=True, slots=True)
class Point:
    model: str
    size: str
    modalities: int
    frames: int
    parameters: int
    flops: int
    seconds: float | None
    """None above the limits."""
    peak_bytes: int | None


def scaling(setup: Setup) -> Findings:
    counts, frames = (QUICK_MODALITIES, QUICK_FRAMES) if setup.quick else (MODALITIES, FRAMES)
    sizes = ("light",) if setup.quick else tuple(SIZES)
    repeats = 3 if setup.quick else 9
    points: dict[str, list[Point]] = {"modalities": [], "frames": []}
    with one_thread():
        for size in sizes:
            for model in MODELS:
                tell = setup.laboratory.tell
                for count in counts:
                    if model == "MulT" and count > MOST_OF_MULT.get(size, count):
                        continue
                    points["modalities"].append(measure(model, size, count, FRAMES_WHILE_MODALITIES_GROW, repeats))
                    tell(_told(points["modalities"][-1]))
                for length in frames:
                    points["frames"].append(measure(model, size, MODALITIES_WHILE_FRAMES_GROW, length, repeats))
                    tell(_told(points["frames"][-1]))
    values = summary(points["modalities"], points["frames"])
    return Findings(
        tables=[
            _table(points["modalities"], f"Modalities, {FRAMES_WHILE_MODALITIES_GROW} frames each"),
            _table(points["frames"], f"Frames of each of {MODALITIES_WHILE_FRAMES_GROW} modalities"),
        ],
        answer=_answer(values, points["modalities"]),
        settings={
            "sizes": {size: SIZES[size] for size in sizes},
            "features per frame": WIDTH,
            "batch": 1,
            "threads": 1,
            "repeats": repeats,
            "limit of FLOPs": MAX_FLOPS,
            "limit of parameters": MAX_PARAMETERS,
            "most modalities of MulT": MOST_OF_MULT,
            "seeds": 1,
        },
        rows=[{"grows": grows, **asdict(point)} for grows, of_sweep in points.items() for point in of_sweep],
        plots=[
            _plot(sweep, size, f"{sweep}-{size}", [p for p in points[sweep] if p.size == size])
            for sweep in points
            for size in sizes
        ],
        values=values,
        remarks=[
            f"Models above {MAX_FLOPS:.0e} FLOPs a sample or {MAX_PARAMETERS:.0e} parameters are not run: their time"
            " and memory are left empty, their FLOPs and parameters are exact.",
            "Time is that of one sample on one CPU thread, where a small model mostly waits for the calls to be made.",
            "Norms and activations are not in the FLOPs.",
        ],
    )


def measure(model: str, size: str, count: int, frames: int, repeats: int) -> Point:
    config = _config(size, count, frames)
    with torch.device("meta"):
        counted = MODELS[model](config)
    weights, operations = parameters(counted), flops(cast(SampleModel, counted), frames)
    del counted
    seconds = peak_bytes = None
    if operations <= MAX_FLOPS and weights <= MAX_PARAMETERS:
        made = cast(SampleModel, _made(MODELS[model], config))
        seconds = measured_time_s(made, frames, repeats=repeats)
        peak_bytes = peak_memory_bytes(made, frames)
    return Point(model, size, count, frames, weights, operations, seconds, peak_bytes)


def summary(by_count: Sequence[Point], by_frames: Sequence[Point]) -> dict[str, Any]:
    """Ratios are MulT over GRF. Where no size is named it is the largest that was measured there."""
    values: dict[str, Any] = {}
    for size in dict.fromkeys(point.size for point in by_count):
        ours, theirs = (_of(by_count, model, size) for model in ("GRF", "MulT"))
        most = max(ours)
        for quantity in ("seconds", "flops"):
            get = _getter(quantity)
            fit = {count: get(point) for count, point in ours.items() if get(point) is not None}
            mult = {count: get(point) for count, point in theirs.items() if get(point) is not None}
            values[f"grf_{quantity}_r2_{size}"] = straightness(fit)
            values[f"mult_{quantity}_slope_{size}"] = log_slope(mult)
            if most in mult:
                values[f"mult_over_grf_{quantity}_at_{most}_{size}"] = round(mult[most] / fit[most], 2)
        mine, others = (_of(by_frames, model, size, "frames") for model in ("GRF", "MulT"))
        values[f"mult_over_grf_seconds_by_frames_{size}"] = {
            str(t): round(others[t].seconds / mine[t].seconds, 2)  # type: ignore[operator]  # neither is None, below
            for t in mine
            if mine[t].seconds and others[t].seconds
        }
        for quantity in ("seconds", "flops"):
            for model in MODELS:
                of_model = _of(by_frames, model, size, "frames")
                known = {t: _getter(quantity)(p) for t, p in of_model.items() if _getter(quantity)(p) is not None}
                name = model.lower().replace(", ", "_").replace(" ", "_")
                values[f"{name}_{quantity}_slope_in_frames_{size}"] = log_slope(known, last=3)
    first = next(iter(dict.fromkeys(point.size for point in by_count)))
    ours, theirs = (_of(by_count, model, first) for model in ("GRF", "MulT"))
    values["grf_r2"] = values[f"grf_seconds_r2_{first}"]
    values["params_ratio_n3"] = round(theirs[3].parameters / ours[3].parameters, 3)
    values["flops_ratio_n3"] = round(theirs[3].flops / ours[3].flops, 3)
    measured = [key for key in values if key.startswith("mult_over_grf_seconds_at_")]
    if measured:
        most = max(ours)
        values[f"mult_over_grf_at_{most}"] = values[measured[0]]
    return values


def straightness(y_of_x: dict[int, float]) -> float | None:
    """R squared of the best straight line."""
    if len(y_of_x) < 3:
        return None
    x, y = np.array(list(y_of_x)), np.array(list(y_of_x.values()))
    residual = y - np.polyval(np.polyfit(x, y, 1), x)
    return round(float(1 - (residual @ residual) / np.sum((y - y.mean()) ** 2)), 5)


def log_slope(y_of_x: dict[int, float], last: int = 5) -> float | None:
    """Of the last points in doubly logarithmic scales: the power with which y grows."""
    if len(y_of_x) < 2:
        return None
    x, y = np.log(list(y_of_x))[-last:], np.log(list(y_of_x.values()))[-last:]
    return round(float(np.polyfit(x, y, 1)[0]), 3)


def _config(size: str, count: int, frames: int) -> GRFConfig:
    modalities = tuple(ModalityConfig(f"m{rank}", WIDTH, frames) for rank in range(count))
    return GRFConfig(modalities, (HeadConfig("value", "regression", 1),), auxiliary_heads=False, **SIZES[size])


def _made(factory: ModelFactory, config: GRFConfig) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return factory(config).eval()


def _of(points: Sequence[Point], model: str, size: str, by: str = "modalities") -> dict[int, Point]:
    return {getattr(point, by): point for point in points if point.model == model and point.size == size}


def _getter(quantity: str) -> Callable[[Point], Any]:
    return lambda point: getattr(point, quantity)


def _answer(values: dict[str, Any], by_count: Sequence[Point]) -> list[str]:
    told = []
    for size in dict.fromkeys(point.size for point in by_count):
        most = max(_of(by_count, "GRF", size))
        told.append(
            f"Size {size}: a straight line in the modalities explains {values[f'grf_seconds_r2_{size}']:.1%} of GRF's"
            f" time; MulT's time grows with the power {values[f'mult_seconds_slope_{size}']}, its FLOPs with"
            f" {values[f'mult_flops_slope_{size}']}."
        )
        ratio = values.get(f"mult_over_grf_seconds_at_{most}_{size}")
        measured = "was not run" if ratio is None else f"takes {ratio:g} times as long"
        counted = values.get(f"mult_over_grf_flops_at_{most}_{size}")
        needs = "" if counted is None else f" and needs {counted:,.0f} times the FLOPs"
        told.append(f"Size {size}, {most} modalities: MulT {measured}{needs}.")
        by_frames = values[f"mult_over_grf_seconds_by_frames_{size}"]
        ratios = ", ".join(f"{ratio:g} at T = {t}" for t, ratio in by_frames.items())
        told.append(
            f"Size {size}, {MODALITIES_WHILE_FRAMES_GROW} modalities: MulT's time over GRF's is {ratios}"
            " (below 1, MulT is faster)."
        )
    return [
        *told,
        f"With 3 modalities MulT has {values['params_ratio_n3']:g} times the parameters of GRF and needs"
        f" {values['flops_ratio_n3']:g} times the FLOPs.",
    ]


def _table(points: Sequence[Point], title: str) -> Table:
    cells = [
        [
            point.size,
            point.model,
            str(point.modalities),
            str(point.frames),
            f"{point.parameters:,}",
            f"{point.flops / 1e6:,.1f}",
            "not run" if point.seconds is None else f"{1e3 * point.seconds:,.2f}",
            "not run" if point.peak_bytes is None else f"{point.peak_bytes / 1e6:,.2f}",
        ]
        for point in points
    ]
    return Table(["size", "model", "n", "T", "parameters", "MFLOPs", "ms", "peak MB"], cells, title)


def _plot(sweep: str, size: str, name: str, points: Sequence[Point]) -> Plot:
    label = "modalities" if sweep == "modalities" else "frames of each modality"
    drawn = []
    for quantity, (unit, scale) in QUANTITIES.items():
        curves = []
        for model in MODELS:
            known = {x: _getter(quantity)(p) for x, p in _of(points, model, size, sweep).items()}
            known = {x: scale * y for x, y in known.items() if y is not None}
            curves.append(Curve(model, list(known), list(known.values())))
        title = {"seconds": "Time", "flops": "FLOPs", "peak_bytes": "Peak memory", "parameters": "Parameters"}[quantity]
        drawn.append(Panel(title, label, unit, curves, logarithmic=True))
    return Plot(name, f"What one sample costs as the {label} grow, size {size}.", panels(drawn))


def _told(point: Point) -> str:
    time = "not run" if point.seconds is None else f"{1e3 * point.seconds:.2f} ms"
    return f"{point.size} {point.model}: n {point.modalities}, T {point.frames}: {time}, {point.flops / 1e6:.1f} MFLOPs"
