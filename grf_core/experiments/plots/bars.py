"""Bars with the spread over the seeds, and each seed as a dot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grf_core.experiments.plots.style import HATCHES, Colour, colours, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ONE_SHADE: Colour = (0.55, 0.62, 0.74, 1.0)


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    values: Sequence[float]
    """One for each seed."""
    group: int = 0
    """Bars of one group look alike."""


@styled
def bars(bars_: Sequence[Bar], title: str, label: str, reference: float | None = None) -> Figure:
    """Horizontal, the first on top; `reference` is drawn as a line through all."""
    figure, (axes,) = new_figure(7.0, 1.1 + 0.36 * len(bars_))
    groups = sorted({bar.group for bar in bars_})
    shades = colours(len(groups) + 1)[1:] if len(groups) > 1 else [ONE_SHADE]
    means = [float(np.mean(bar.values)) for bar in bars_]
    for place, bar in enumerate(bars_):
        spread = float(np.std(bar.values, ddof=1)) if len(bar.values) > 1 else 0.0
        group = groups.index(bar.group)
        axes.barh(
            place,
            means[place],
            height=0.68,
            xerr=spread or None,
            color=shades[group],
            edgecolor="#333333",
            linewidth=0.6,
            hatch=HATCHES[group % len(HATCHES)],
            error_kw={"capsize": 3, "elinewidth": 1.2},
        )
        axes.plot(bar.values, [place] * len(bar.values), "o", color="white", markeredgecolor="black", markersize=4)
        farthest = max(*bar.values, means[place] + spread)
        axes.annotate(f"{means[place]:.3f}", (farthest, place), (6, 0), textcoords="offset points", va="center")
    if reference is not None:
        axes.axvline(reference, color="black", linewidth=1, linestyle="--")
    everything = [value for bar in bars_ for value in bar.values]
    _frame(axes, everything)
    axes.set_yticks(range(len(bars_)), [bar.name for bar in bars_])
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.set(title=title, xlabel=label)
    return figure


def _frame(axes: Axes, values: Sequence[float]) -> None:
    """From 0, with room for the figures at the ends of the bars."""
    low, high = min(values), max(values)
    room = 0.14 * (high - min(low, 0.0)) or 0.1
    axes.set_xlim(min(0.0, low * 1.1), high + room)
