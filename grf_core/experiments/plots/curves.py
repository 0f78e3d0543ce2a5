"""Something as a function of something else, with the spread over the seeds as a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grf_core.experiments.plots.style import HATCHES, LINES, MARKERS, colours, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    logarithmic: bool = False
    note: str = ""
    bottom: float | None = None


@styled
def panels(panels_: Sequence[Panel], columns: int = 2) -> Figure:
    columns = min(columns, len(panels_))
    rows = -(-len(panels_) // columns)
    figure, axes = new_figure(4.4 * columns + (1.2 if columns == 1 else 0), 3.3 * rows, rows, columns)
    for place, panel in zip(axes, panels_, strict=False):
        draw(place, panel)
    for place in axes[len(panels_) :]:
        place.set_visible(False)
    return figure


def draw(axes: Axes, panel: Panel) -> None:
    for place, (curve, colour) in enumerate(zip(panel.curves, colours(len(panel.curves)), strict=True)):
        axes.plot(
            curve.x,
            curve.y,
            linestyle=LINES[place % len(LINES)],
            marker=MARKERS[place % len(MARKERS)],
            color=colour,
            markersize=5,
            linewidth=1.6,
            label=curve.name,
        )
        if curve.spread is not None and any(curve.spread):
            y, spread = np.asarray(curve.y), np.asarray(curve.spread)
            axes.fill_between(curve.x, y - spread, y + spread, color=colour, alpha=0.16, linewidth=0)
    if panel.logarithmic:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if panel.bottom is not None:
        axes.set_ylim(bottom=panel.bottom)
    axes.grid(visible=True)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.note:
        axes.annotate(panel.note, (0.98, 0.03), xycoords="axes fraction", ha="right", fontsize=8.5)
    if len(panel.curves) > 1:
        axes.legend(fontsize=8.5, handlelength=3.2)


@styled
def shares(x: Sequence[float], of_modality: dict[str, Sequence[float]], title: str, x_label: str) -> Figure:
    """How much each modality has in the context, stacked to 1."""
    figure, (axes,) = new_figure(7.0, 3.2)
    shades = [(red, green, blue, 0.75) for red, green, blue, _ in colours(len(of_modality) + 1)[1:]]
    drawn = axes.stackplot(x, *of_modality.values(), labels=list(of_modality), colors=shades, edgecolor="#222222")
    for place, layer in enumerate(drawn):
        layer.set_hatch(HATCHES[(place + 1) % len(HATCHES)])
        layer.set_linewidth(0.7)
    axes.set(title=title, xlabel=x_label, ylabel="share of the context", ylim=(0, 1), xlim=(x[0], x[-1]))
    figure.legend(loc="outside right upper", handlelength=2.5, handleheight=1.6)
    return figure
