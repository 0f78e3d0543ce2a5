"""From single runs to what is told of them: mean and spread over the seeds, and who is better than whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grf_core.experiments.runner import Finished
from grf_core.training.recipe import Recipe
from grf_core.training.run import SMALLER_IS_BETTER

COUNTS = ("n", "segments")
"""What scores hold beside metrics."""


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    smaller_is_better: bool

    @classmethod
    def named(cls, name: str) -> Metric:
        return cls(name, name.rpartition("/")[2] in SMALLER_IS_BETTER)

    def better(self, one: float, other: float) -> bool:
        return one < other if self.smaller_is_better else one > other


def headline(recipe: Recipe) -> Metric:
    """What a recipe is judged by: the metric that chooses its epoch, or else the plainest of its first head."""
    if recipe.schedule.stop_on != "loss":
        return Metric.named(recipe.schedule.stop_on)
    return Metric.named("accuracy" if recipe.config.heads[0].kind == "classification" else "mae")


@dataclass(frozen=True, slots=True)
class Row:
    """One arm under one condition, over the seeds whose training came to an end."""

    arm: str
    condition: str
    mean: Mapping[str, float]
    std: Mapping[str, float | None]
    """Of the sample of seeds; none for one seed."""
    values: Mapping[str, tuple[float, ...]]
    """Seed by seed."""
    seeds: tuple[int, ...]
    failed_seeds: tuple[int, ...]
    n: int
    """Seeds that count."""
    sessions: int
    seconds: float
    """Of one training, on average."""
    parameters: int
    best_epoch: float


def rows_of(results: Sequence[Finished]) -> list[Row]:
    """In the order of the arms and of their conditions. An arm that never came to an end has a row without figures."""
    rows: list[Row] = []
    for arm in dict.fromkeys(finished.arm for finished in results):
        of_arm = [finished for finished in results if finished.arm == arm]
        ended = [finished for finished in of_arm if finished.failed is None]
        conditions = list(ended[0].scores) if ended else [""]
        rows += [_row(arm, condition, of_arm, ended) for condition in conditions]
    return rows


def row(rows: Sequence[Row], arm: str, condition: str | None = None) -> Row:
    """The first condition of an arm, where none is named."""
    return next(found for found in rows if found.arm == arm and condition in (None, found.condition))


def _row(arm: str, condition: str, of_arm: Sequence[Finished], ended: Sequence[Finished]) -> Row:
    scores = [finished.scores[condition] for finished in ended]
    names = [name for name in (scores[0] if scores else {}) if name not in COUNTS]
    names = [name for name in names if all(name in of_seed for of_seed in scores)]
    values = {name: tuple(of_seed[name] for of_seed in scores) for name in names}
    return Row(
        arm=arm,
        condition=condition,
        mean={name: float(np.mean(of_name)) for name, of_name in values.items()},
        std={name: spread(of_name) for name, of_name in values.items()},
        values=values,
        seeds=tuple(finished.seed for finished in ended),
        failed_seeds=tuple(finished.seed for finished in of_arm if finished.failed is not None),
        n=len(ended),
        sessions=int(scores[0].get("n", 0)) if scores else 0,
        seconds=float(np.mean([finished.seconds for finished in of_arm])),
        parameters=of_arm[0].parameters,
        best_epoch=float(np.mean([finished.best_epoch for finished in of_arm])),
    )


def spread(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def figure_text(row: Row, metric: str) -> str:
    """`0.873 ± 0.012`"""
    if metric not in row.mean:
        return "-"
    deviation = row.std[metric]
    return f"{row.mean[metric]:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


def ranking(rows: Sequence[Row], metric: Metric) -> list[Row]:
    """The best first; rows without the metric are left out."""
    told = [row for row in rows if metric.name in row.mean]
    return sorted(told, key=lambda row: row.mean[metric.name] * (1 if metric.smaller_is_better else -1))


def against(row: Row, baseline: Row, metric: Metric) -> str:
    """A sentence on the two, seed by seed: the same seed means the same split. With few seeds nothing stronger than
    "in every seed" is claimed."""
    mine, theirs = _paired(row, baseline, metric.name)
    if not mine:
        return f"{row.arm} and {baseline.arm} have no seed in common to compare."
    difference = np.subtract(mine, theirs)
    wins = sum(metric.better(a, b) for a, b in zip(mine, theirs, strict=True))
    losses = sum(metric.better(b, a) for a, b in zip(mine, theirs, strict=True))
    deviation = spread(difference.tolist())
    amount = f"{difference.mean():+.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
    return f"{row.arm} {_verdict(wins, losses, len(mine))} {baseline.arm} ({metric.name} {amount})."


def _verdict(wins: int, losses: int, seeds: int) -> str:
    if seeds == 1:
        return "is, with one seed only, " + ("better than" if wins else "worse than" if losses else "as good as")
    if wins == seeds:
        return f"is better in all {seeds} seeds than"
    if losses == seeds:
        return f"is worse in all {seeds} seeds than"
    return f"is not told apart ({wins} of {seeds} seeds better, {losses} worse) from"


def _paired(row: Row, baseline: Row, metric: str) -> tuple[list[float], list[float]]:
    if metric not in row.values or metric not in baseline.values:
        return [], []
    mine = dict(zip(row.seeds, row.values[metric], strict=True))
    theirs = dict(zip(baseline.seeds, baseline.values[metric], strict=True))
    common = [seed for seed in mine if seed in theirs]
    return [mine[seed] for seed in common], [theirs[seed] for seed in common]
