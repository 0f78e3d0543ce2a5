"""The commonest form of an experiment: some arms, one of which the others are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grf_core.experiments.experiment import Setup
from grf_core.experiments.plots.bars import Bar, bars
from grf_core.experiments.report import Findings, Plot, json_rows, score_table
from grf_core.experiments.results import Metric, Row, against, headline, ranking, row, rows_of
from grf_core.experiments.runner import Arm
from grf_core.training.recipe import Recipe


def compare_arms(
    setup: Setup,
    recipe: Recipe,
    arms: Sequence[Arm],
    title: str,
    baseline: str | None = None,
    groups: Mapping[str, int] | None = None,
    remarks: Sequence[str] = (),
) -> Findings:
    """Run the arms; a table of all, bars of each condition, and a sentence on each arm against the baseline."""
    rows = rows_of(setup.run(arms))
    metric = headline(recipe)
    return Findings(
        tables=[score_table(rows)],
        answer=answer(rows, metric, baseline or arms[0].name),
        settings=setup.settings(recipe),
        rows=json_rows(rows),
        plots=condition_bars(rows, metric, f"{recipe.name}: {title}", groups),
        values={"metric": metric.name, "best_arm": best_arm(rows, metric)},
        remarks=[*remarks, *failures(rows)],
    )


def answer(rows: Sequence[Row], metric: Metric, baseline: str) -> list[str]:
    """On the first condition of each arm."""
    firsts = first_rows(rows)
    base = row(firsts, baseline)
    best = best_arm(firsts, metric)
    if best is None or metric.name not in base.mean:
        return []
    told = f"The best mean {metric.name} is that of {best}, {row(firsts, best).mean[metric.name]:.3f}."
    return [told, *(against(other, base, metric) for other in firsts if other.arm != baseline and other.mean)]


def first_rows(rows: Sequence[Row]) -> list[Row]:
    """Each arm under its first condition."""
    return list({found.arm: found for found in reversed(rows)}.values())[::-1]


def best_arm(rows: Sequence[Row], metric: Metric) -> str | None:
    ranked = ranking(first_rows(rows), metric)
    return ranked[0].arm if ranked else None


def condition_bars(
    rows: Sequence[Row], metric: Metric, title: str, groups: Mapping[str, int] | None = None
) -> list[Plot]:
    """One plot for each condition that several arms share."""
    plots = []
    for number, condition in enumerate(dict.fromkeys(found.condition for found in rows)):
        told = [found for found in rows if found.condition == condition and metric.name in found.values]
        if len(told) < 2:
            continue
        drawn = [Bar(found.arm, found.values[metric.name], (groups or {}).get(found.arm, 0)) for found in told]
        name = "comparison" if number == 0 else f"comparison-{number}"
        figure = bars(drawn, f"{title}\n{condition}", f"{metric.name}, test part")
        plots.append(Plot(name, f"{title}, {condition}: {metric.name} with its spread over the seeds (dots).", figure))
    return plots


def failures(rows: Sequence[Row]) -> list[str]:
    return [
        f"{found.arm} diverged with seed {', '.join(map(str, found.failed_seeds))}; the figures leave that out."
        for found in first_rows(rows)
        if found.failed_seeds
    ]
