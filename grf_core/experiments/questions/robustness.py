"""How does the answer suffer when a stream is missing, late, lost or noisy, or has only begun; and does it help to have
trained with that?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from grf_core.data.sessions import Cutting, Dataset
from grf_core.experiments.comparison import failures
from grf_core.experiments.experiment import Setup
from grf_core.experiments.plots.bars import Bar, bars
from grf_core.experiments.plots.curves import Curve, Panel, panels
from grf_core.experiments.report import Findings, Plot, Table, json_rows
from grf_core.experiments.results import Metric, Row, figure_text, headline, row, rows_of
from grf_core.experiments.runner import Arm, UnderConditions
from grf_core.training.recipe import CALM, Augmentation, Condition, Recipe

PLAIN, AUGMENTED = "trained plain", "trained with augmentation"
LATENESS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Standard deviation of the arrival, in segments."""
LOSSES = (0.0, 0.2, 0.4, 0.6, 0.8)
NOISES = (0.0, 0.25, 0.5, 1.0, 2.0)
"""In standard deviations of each feature."""
PARTS = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Of the median session."""
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Sweep:
    title: str
    label: str
    points: tuple[tuple[float, Condition], ...]


def robustness(setup: Setup) -> Findings:
    recipe = setup.streaming().fitted(setup.dataset())
    cutting = setup.first_condition().cutting
    missing = missing_modalities(recipe, cutting)
    sweeps = every_sweep(cutting, _median_s(setup.dataset()), 1 if setup.quick else REPEATS)
    conditions = (*missing, *(condition for sweep in sweeps for _, condition in sweep.points))
    measure = UnderConditions(conditions)
    plain = replace(recipe, augmentation=CALM)
    arms = [Arm(PLAIN, plain, measure=measure), Arm(AUGMENTED, recipe, measure=measure)]
    rows = rows_of(setup.run(arms))
    metric = headline(recipe)
    return Findings(
        tables=[_table(rows, metric, conditions)],
        answer=_answer(rows, metric, missing, sweeps),
        settings=setup.settings(recipe),
        rows=json_rows(rows),
        plots=_plots(rows, metric, recipe, missing, sweeps),
        values={"metric": metric.name, "sweeps": {s.title: [x for x, _ in s.points] for s in sweeps}},
        remarks=[
            "A condition draws its accidents anew for each repetition, with the same seed for both arms.",
            *failures(rows),
        ],
    )


def missing_modalities(recipe: Recipe, cutting: Cutting) -> list[Condition]:
    """Nothing missing, each modality, each pair; something is always heard."""
    names = [modality.name for modality in recipe.config.modalities]
    silent = [c for size in (1, 2) if size < len(names) for c in combinations(names, size)]
    everything = Condition("everything heard", cutting)
    return [everything, *(Condition(f"without {' and '.join(c)}", cutting, silent=c) for c in silent)]


def every_sweep(cutting: Cutting, median_s: float, repeats: int) -> list[Sweep]:
    segment_s = cutting.shortest_s

    def disturbed(name: str, **how: Any) -> Condition:
        return Condition(name, cutting, Augmentation(**how), repeats=repeats)

    return [
        Sweep(
            "Late segments",
            "deviation of the arrival, segments",
            tuple(
                (x, disturbed(f"arrival disturbed by {x:g} segments", arrival_jitter_s=x * segment_s)) for x in LATENESS
            ),
        ),
        Sweep(
            "Lost segments",
            "share lost",
            tuple((x, disturbed(f"{x:.0%} of the segments lost", drop_segment=x)) for x in LOSSES),
        ),
        Sweep(
            "Noise",
            "standard deviations added",
            tuple((x, disturbed(f"noise of {x:g} deviations", noise=x)) for x in NOISES),
        ),
        Sweep(
            "Time",
            f"part of the median session ({_duration(median_s)})",
            tuple((x, Condition(f"first {_duration(x * median_s)}", cutting, until_s=x * median_s)) for x in PARTS),
        ),
    ]


def _median_s(dataset: Dataset) -> float:
    starts = [min(float(stream.times_s[0]) for stream in session.streams) for session in dataset.test]
    return float(np.median([s.end_s - start for s, start in zip(dataset.test, starts, strict=True)]))


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h" if seconds >= 7200 else f"{seconds:.3g} s"


def _known(rows: Sequence[Row], arm: str, condition: Condition, metric: Metric) -> Row | None:
    found = [r for r in rows if r.arm == arm and r.condition == condition.name and metric.name in r.mean]
    return found[0] if found else None


def _answer(rows: Sequence[Row], metric: Metric, missing: Sequence[Condition], sweeps: Sequence[Sweep]) -> list[str]:
    """For each accident: what its worst degree costs each arm, from the mean over the seeds."""
    if any(_known(rows, arm, missing[0], metric) is None for arm in (PLAIN, AUGMENTED)):
        return []
    told = []
    worst = [(s.title.lower(), s.points[0 if s.title == "Time" else -1][1]) for s in sweeps]
    for title, condition in [*(("missing", c) for c in missing[1:]), *worst]:
        changes = []
        for arm in (PLAIN, AUGMENTED):
            under = _known(rows, arm, condition, metric)
            if under is not None:
                before = row(rows, arm, missing[0].name).mean[metric.name]
                changes.append(f"{under.mean[metric.name]:.3f} {arm} ({under.mean[metric.name] - before:+.3f})")
        if changes:
            told.append(f"{title.capitalize()}, {condition.name}: {metric.name} {' and '.join(changes)}.")
    return told


def _table(rows: Sequence[Row], metric: Metric, conditions: Sequence[Condition]) -> Table:
    cells = []
    for condition in conditions:
        found = [_known(rows, arm, condition, metric) for arm in (PLAIN, AUGMENTED)]
        cells.append([condition.name, *("-" if r is None else figure_text(r, metric.name) for r in found)])
    return Table(["condition", PLAIN, AUGMENTED], cells, metric.name)


def _plots(
    rows: Sequence[Row], metric: Metric, recipe: Recipe, missing: Sequence[Condition], sweeps: Sequence[Sweep]
) -> list[Plot]:
    drawn = []
    for sweep in sweeps:
        curves = []
        for arm in (PLAIN, AUGMENTED):
            known = [(x, _known(rows, arm, condition, metric)) for x, condition in sweep.points]
            told = [(x, r) for x, r in known if r is not None]
            if told:
                means = [r.mean[metric.name] for _, r in told]
                deviations = [r.std[metric.name] or 0.0 for _, r in told]
                curves.append(Curve(arm, [x for x, _ in told], means, deviations))
        if curves:
            drawn.append(Panel(sweep.title, sweep.label, metric.name, curves, bottom=0.0))
    plots = [Plot("curves", f"{recipe.name}: {metric.name} under growing accidents.", panels(drawn))] if drawn else []
    beside = [
        Bar(f"{condition.name}, {arm.removeprefix('trained ')}", found.values[metric.name], group)
        for condition in missing
        for group, arm in enumerate((PLAIN, AUGMENTED))
        if (found := _known(rows, arm, condition, metric)) is not None
    ]
    if beside:
        caption = f"{recipe.name}: {metric.name} when modalities are missing"
        plots.append(Plot("missing", f"{caption}.", bars(beside, caption, metric.name)))
    return plots
