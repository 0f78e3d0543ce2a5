"""Can a small policy choose the order better than the best fixed order? The paper's third open question.

Against it: each fixed order, a random order for every sample, and the fixed order that is best on the validation part,
which is what one would use without a policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import torch

from grf_core.experiments.comparison import condition_bars, failures
from grf_core.experiments.experiment import Setup, with_every_modality
from grf_core.experiments.ordering import OrderedGRF, OrderFactory
from grf_core.experiments.plots.bars import Bar, bars
from grf_core.experiments.questions.orders import every_order
from grf_core.experiments.report import Findings, Plot, json_rows, score_table
from grf_core.experiments.results import Metric, Row, against, figure_text, headline, row, rows_of
from grf_core.experiments.runner import Arm, Finished, Measured
from grf_core.experiments.trained import EVERYTHING, Trained
from grf_core.training.whole_sample import pad_sessions

LEARNED, RANDOM = "learned order", "random order"


def learned_order(setup: Setup) -> Findings:
    recipe = setup.whole().fitted(setup.dataset())
    if len(recipe.config.modalities) < 3:
        recipe = with_every_modality(recipe, setup.dataset())
    fixed_arms = [Arm(name, ordered) for name, ordered in every_order(recipe).items()]
    # The very arms of the experiment on orders: what that has trained is not trained again.
    beside = replace(setup.laboratory, work=setup.laboratory.work.parent / "orders")
    fixed = beside.run(fixed_arms)
    chosen = setup.run(
        [
            Arm(LEARNED, recipe, OrderFactory("learned"), measure_order),
            Arm(RANDOM, recipe, OrderFactory("random"), measure_order),
        ]
    )
    rows = rows_of([*chosen, *fixed])
    metric, names = headline(recipe), [arm.name for arm in fixed_arms]
    best = best_on_validation(fixed, names)
    plots = condition_bars(
        rows, metric, f"{recipe.name}: who chooses the order", {LEARNED: 0, RANDOM: 1} | dict.fromkeys(names, 2)
    )
    return Findings(
        tables=[score_table(rows)],
        answer=_answer(rows, metric, best, names),
        settings=setup.settings(recipe),
        rows=json_rows(rows),
        plots=[*plots, *_order_plots(chosen, [m.name for m in recipe.config.modalities])],
        values={"metric": metric.name, "best_fixed_on_validation": best},
        remarks=[
            "A whole sample has as few decisions as modalities; in a stream more segments would wait.",
            "The random order is drawn anew for every sample, in training and in the test.",
            *failures(rows),
        ],
    )


def measure_order(trained: Trained) -> Measured:
    """Scores, and how often each order was chosen in the test part."""
    assert isinstance(trained.model, OrderedGRF)
    batch = pad_sessions(trained.test, trained.config, trained.recipe.overlong)
    with torch.no_grad():
        _, chosen_Bn = trained.model.eval().fuse(batch.inputs, batch.lengths)
    names = [modality.name for modality in trained.config.modalities]
    counted = Counter(", ".join(names[rank] for rank in order if rank >= 0) for order in chosen_Bn.tolist())
    return Measured({EVERYTHING.name: trained.scores(EVERYTHING)}, {"orders": dict(counted)})


def best_on_validation(fixed: Sequence[Finished], names: Sequence[str]) -> str | None:
    """The order with the best mean figure on the validation part; no test figure has a say."""
    figures = {
        name: [f.validation_figure for f in fixed if f.arm == name and f.validation_figure is not None]
        for name in names
    }
    means = {name: float(np.mean(values)) for name, values in figures.items() if values}
    return min(means, key=lambda name: means[name]) if means else None


def _answer(rows: Sequence[Row], metric: Metric, best: str | None, names: Sequence[str]) -> list[str]:
    learned = row(rows, LEARNED)
    if best is None or metric.name not in learned.mean:
        return []
    told = [found.mean[metric.name] for found in rows if found.arm in names and metric.name in found.mean]
    return [
        f"The fixed order chosen on validation is {best}: {metric.name} {figure_text(row(rows, best), metric.name)}.",
        against(learned, row(rows, best), metric),
        against(learned, row(rows, RANDOM), metric),
        f"The average of the fixed orders is {np.mean(told):.3f}, the learned order's {learned.mean[metric.name]:.3f}.",
    ]


def _order_plots(chosen: Sequence[Finished], names: Sequence[str]) -> list[Plot]:
    """How often the policy chose each complete order, seed by seed."""
    of_seed = [f.shown["orders"] for f in chosen if f.arm == LEARNED and f.failed is None]
    if not of_seed:
        return []
    every = [", ".join(order) for order in permutations(names)]
    shares = {o: [counts.get(o, 0) / max(1, sum(counts.values())) for counts in of_seed] for o in every}
    figure = bars([Bar(o, s) for o, s in shares.items()], "Orders the policy chose", "share of the test samples")
    return [Plot("chosen-orders", "How often each order was chosen, each seed a dot.", figure)]
