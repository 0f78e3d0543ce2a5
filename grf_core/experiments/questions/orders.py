"""Does the order in which the modalities are fused matter, and which of them gain from an early or a late place?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np

from grf_core.experiments.comparison import compare_arms
from grf_core.experiments.experiment import ExperimentError, Setup, with_every_modality
from grf_core.experiments.report import Findings, Table
from grf_core.experiments.results import Metric, headline
from grf_core.experiments.runner import Arm
from grf_core.training.recipe import Recipe

MOST_MODALITIES = 4


def orders(setup: Setup) -> Findings:
    recipe = setup.whole().fitted(setup.dataset())
    if len(recipe.config.modalities) < 3:
        recipe = with_every_modality(recipe, setup.dataset())
    arms = [Arm(name, ordered) for name, ordered in every_order(recipe).items()]
    findings = compare_arms(setup, recipe, arms, "the order of fusion")
    metric = headline(recipe)
    placed = [r for r in findings.rows if metric.name in r["mean"]]
    table, sentences = _places(placed, [m.name for m in recipe.config.modalities], metric)
    swing = _swing(placed, metric)
    return replace(
        findings,
        tables=[*findings.tables, table],
        answer=[*findings.answer[:1], *swing, *sentences],
        remarks=[*findings.remarks, "Each order is trained anew, from the same seeds and on the same splits."],
    )


def every_order(recipe: Recipe) -> dict[str, Recipe]:
    count = len(recipe.config.modalities)
    if not 2 <= count <= MOST_MODALITIES:
        raise ExperimentError(f"{count} modalities have no reasonable number of orders to train")
    return {
        ", ".join(m.name for m in order): replace(recipe, config=replace(recipe.config, modalities=order))
        for order in permutations(recipe.config.modalities)
    }


def _swing(rows: Sequence[Mapping[str, Any]], metric: Metric) -> list[str]:
    if len(rows) < 2:
        return []
    means = [found["mean"][metric.name] for found in rows]
    spreads = [found["std"][metric.name] for found in rows if found["std"][metric.name] is not None]
    swing = max(means) - min(means)
    if not spreads:
        return [f"From the best order to the worst it is {swing:.3f}; one seed says nothing of how much of it is luck."]
    typical = float(np.mean(spreads))
    small = "less than twice" if swing < 2 * typical else "more than twice"
    return [
        f"From the best order to the worst it is {swing:.3f}, {small} the typical spread over seeds ({typical:.3f})."
    ]


def _places(rows: Sequence[Mapping[str, Any]], names: Sequence[str], metric: Metric) -> tuple[Table, list[str]]:
    """The mean over the orders in which a modality has a place."""
    cells, sentences = [], []
    for name in names:
        at = [
            [found["mean"][metric.name] for found in rows if found["arm"].split(", ")[place] == name]
            for place in range(len(names))
        ]
        cells.append([name, *(f"{np.mean(values):.3f}" if values else "-" for values in at)])
        if at[0] and at[-1]:
            first, last = float(np.mean(at[0])), float(np.mean(at[-1]))
            where = "first" if metric.better(first, last) else "last"
            sentences.append(f"{name} does better {where}, on average by {abs(first - last):.3f}.")
    header = ["modality", *(f"place {place + 1}" for place in range(len(names)))]
    return Table(header, cells, f"Mean {metric.name} with a modality in each place"), sentences
