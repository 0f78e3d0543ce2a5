"""The paper's table on CMU-MOSI: GRF in all six orders, MulT beside it, by every metric of the field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grf_core.data.mosi import HEAD
from grf_core.experiments.comparison import answer, condition_bars, failures
from grf_core.experiments.experiment import Setup
from grf_core.experiments.mult import MulT
from grf_core.experiments.questions.orders import every_order
from grf_core.experiments.report import Findings, json_rows, score_table
from grf_core.experiments.results import Metric, Row, rows_of
from grf_core.experiments.runner import Arm, Measured
from grf_core.experiments.trained import EVERYTHING, Trained
from grf_core.metrics import mosi_scores
from grf_core.training.recipe import Recipe, Schedule

PAPER: dict[str, Any] = {"d_model": 64, "n_layers": 4, "n_heads": 4, "d_ffn": 256, "dropout": 0.2}
PAPER_SCHEDULE = Schedule(
    epochs=100,
    batch_sessions=32,
    learning_rate=1e-3,
    weight_decay=1e-2,
    final_learning_rate=1e-6,
    warmup_epochs=5,
    patience=20,
    gradient_norm=1.0,
)
SHOWN = ("mae", "corr", "acc2_nonneg", "acc2_pos", "acc7", "f1_nonneg", "f1_pos", "macro_f1_round", "macro_f1_sign")
FIRST = "GRF: text, audio, vision"


def mosi(setup: Setup) -> Findings:
    recipe = _paper(setup).fitted(setup.dataset())
    arms = [Arm(f"GRF: {name}", ordered, measure=measure) for name, ordered in every_order(recipe).items()]
    arms.insert(1, Arm("MulT", recipe, MulT, measure))
    rows = rows_of(setup.run(arms))
    metric = Metric.named("mae")
    groups = {arm.name: 1 if arm.name == "MulT" else 0 for arm in arms}
    data = setup.dataset().name
    return Findings(
        tables=[score_table(rows, SHOWN)],
        answer=[*answer(rows, metric, "MulT"), *_parameters(rows)],
        settings=setup.settings(recipe),
        rows=json_rows(rows),
        plots=[
            *condition_bars(rows, metric, data, groups),
            *(
                replace(plot, name=f"{plot.name}-f1")
                for plot in condition_bars(rows, Metric.named("f1_nonneg"), data, groups)
            ),
        ],
        values={"metric": metric.name},
        remarks=[
            "acc2 and f1 (weighted): *_nonneg is negative against the rest, *_pos is negative against positive without"
            " zeros; macro_f1_* are what the author of GRF reports.",
            "MulT has the same sizes and schedule as GRF, not those of its own paper.",
            *failures(rows),
        ],
    )


def measure(trained: Trained) -> Measured:
    told, true = trained.answers()
    return Measured({EVERYTHING.name: {**mosi_scores(told[HEAD][:, 0], true[HEAD]), "n": len(true[HEAD])}})


def _paper(setup: Setup) -> Recipe:
    reference = replace(setup.recipe, schedule=PAPER_SCHEDULE)
    recipe = replace(setup, recipe=reference).whole()
    return replace(recipe, config=replace(recipe.config, **PAPER))


def _parameters(rows: Sequence[Row]) -> list[str]:
    ours, theirs = (next(r.parameters for r in rows if r.arm == name) for name in (FIRST, "MulT"))
    return [f"MulT has {theirs:,} parameters, GRF {ours:,}: {theirs / ours:.2f} times as many."]
