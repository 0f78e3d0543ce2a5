"""Is GRF better than MulT, the plain ways to fuse, and one modality alone; and what does each cost?"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from grf_core.config import GRFConfig
from grf_core.experiments.baselines import Concatenation, LateFusion, single_modality
from grf_core.experiments.comparison import compare_arms
from grf_core.experiments.cost import SampleModel, flops, measured_time_s
from grf_core.experiments.experiment import Setup
from grf_core.experiments.mult import MulT
from grf_core.experiments.report import Findings, Table
from grf_core.experiments.runner import Arm, UnderConditions
from grf_core.experiments.trained import EVERYTHING, WHOLE
from grf_core.model import GRF
from grf_core.training.recipe import Condition, Recipe
from grf_core.training.run import ModelFactory

MODELS: dict[str, ModelFactory] = {
    "GRF": GRF,
    "MulT": MulT,
    "late fusion": LateFusion,
    "concatenation": Concatenation,
}


def compare(setup: Setup) -> Findings:
    recipe = setup.whole().fitted(setup.dataset())
    names = [modality.name for modality in recipe.config.modalities]
    missing = tuple(Condition(f"without {name}", WHOLE, silent=(name,)) for name in names if len(names) > 1)
    measure = UnderConditions((EVERYTHING, *missing))
    arms = [Arm(name, recipe, factory, measure) for name, factory in MODELS.items()]
    for name in names:
        # GRF of one modality is a mean over frames: the encoder of the baselines is the fair model of it.
        alone = replace(recipe, config=single_modality(recipe.config, name))
        arms.append(Arm(f"{name} alone", alone, Concatenation))
    groups = {arm.name: 0 if arm.name == "GRF" else 1 if arm.name in MODELS else 2 for arm in arms}
    findings = compare_arms(setup, recipe, arms, "the model", "GRF", groups)
    costs = {arm.name: _cost(arm.factory, arm.recipe.config, setup) for arm in arms}
    cells = [[name, f"{cost['flops'] / 1e6:,.1f}", f"{1e3 * cost['seconds']:.2f}"] for name, cost in costs.items()]
    cost_table = Table(["arm", "MFLOPs", "ms"], cells, "One sample of the longest frames, one CPU thread")
    return replace(
        findings,
        tables=[*findings.tables, cost_table],
        values={**findings.values, "cost": costs},
        remarks=[*findings.remarks, *_remarks(recipe)],
    )


def _cost(factory: ModelFactory, config: GRFConfig, setup: Setup) -> dict[str, float]:
    model = cast(SampleModel, factory(config))
    frames = {modality.name: modality.max_frames for modality in config.modalities}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": flops(model, frames),
        "seconds": measured_time_s(model, frames, repeats=3 if setup.quick else 20),
    }


def _remarks(recipe: Recipe) -> list[str]:
    return [
        f"All arms have the sizes, the schedule and the augmentation of the recipe {recipe.name}; none was tuned here.",
        "A modality alone has the encoder that late fusion and concatenation give each of theirs.",
        "GRF has the loss of its auxiliary heads besides, as in the paper; the other models have none.",
    ]
