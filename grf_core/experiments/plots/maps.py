"""Matrices as pictures: which class is taken for which, and how far each sample's gate opens at each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from grf_core.experiments.plots.style import COLOUR_MAP, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ANNOTATED = 12


@styled
def confusion(counts_CC: npt.ArrayLike, classes: Sequence[str], title: str) -> Figure:
    """Rows are the truth, and each is told as shares of its cases."""
    counts = np.asarray(counts_CC, np.float64)
    shares_CC = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.4, 1.6 + 0.27 * len(classes))
    figure, (axes,) = new_figure(side + 1.0, side)
    image = axes.imshow(shares_CC, cmap=COLOUR_MAP, vmin=0, vmax=1)
    size = 8 if len(classes) > MOST_ANNOTATED else 9.5
    axes.set_xticks(range(len(classes)), classes, rotation=90 if len(classes) > 4 else 0, fontsize=size)
    axes.set_yticks(range(len(classes)), classes, fontsize=size)
    for row, column in zip(*np.nonzero(counts), strict=True):
        if len(classes) <= MOST_ANNOTATED or row != column:
            tone = "black" if shares_CC[row, column] > 0.55 else "white"
            axes.text(column, row, f"{counts[row, column]:g}", color=tone, ha="center", va="center", fontsize=size - 1)
    axes.set(title=title, xlabel="answer", ylabel="truth")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.75, label="share of the true class")
    return figure


@styled
def gate_map(gates_NS: npt.ArrayLike, steps: Sequence[str], groups: Sequence[str], title: str) -> Figure:
    """Mean gate z of each sample (a row, grouped) at each step (a column); NaN where a sample has no such step."""
    gates = np.asarray(gates_NS, np.float64)
    figure, (axes,) = new_figure(max(4.2, min(9.0, 2.8 + 0.35 * len(steps))), 5.2)
    axes.set_facecolor("#eeeeee")
    image = axes.imshow(gates, cmap=COLOUR_MAP, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    edges = [row for row in range(1, len(groups)) if groups[row] != groups[row - 1]]
    for edge in edges:
        axes.axhline(edge - 0.5, color="white", linewidth=0.8)
    starts = [0, *edges]
    centres = [(start + stop - 1) / 2 for start, stop in zip(starts, [*edges, len(groups)], strict=True)]
    axes.set_yticks(centres, [groups[start] for start in starts], fontsize=7.5 if len(starts) > 12 else 9)
    rotation, side = (60, "right") if max(map(len, steps)) > 6 else (0, "center")
    shown = range(0, len(steps), max(1, len(steps) // 16))
    axes.set_xticks(list(shown), [steps[place] for place in shown], rotation=rotation, ha=side)
    axes.set(title=title, xlabel="fusion step")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="gate z: 0 keeps, 1 overwrites")
    return figure
