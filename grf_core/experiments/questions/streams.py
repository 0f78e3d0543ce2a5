"""What the recurrence needs to be fit for streams: one choice of the model at a time, trained and tested on streams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from grf_core.experiments.comparison import compare_arms
from grf_core.experiments.experiment import Setup
from grf_core.experiments.report import Findings
from grf_core.experiments.runner import Arm, UnderConditions
from grf_core.experiments.variants import Variant, VariantFactory
from grf_core.training.recipe import Recipe
from grf_core.training.run import ModelFactory

BIASES = (0.0, -1.0, -2.0)
SLOTS = (1, 2, 4, 8)


def gate(setup: Setup) -> Findings:
    recipe = _recipe(setup)
    arms = [
        _arm(f"{what} carried, bias {bias:g}", recipe, carry=carry, gate_bias=bias)
        for carry, what in (("enriched", "s'"), ("context", "h"))
        for bias in BIASES
    ]
    groups = {arm.name: int(arm.name.startswith("h")) for arm in arms}
    return compare_arms(setup, recipe, arms, "what a closed gate keeps, and how it begins", groups=groups)


def norm(setup: Setup) -> Findings:
    recipe = _recipe(setup)
    pre: ModelFactory = VariantFactory(Variant(norm="pre"))
    arms = [_arm("post-norm", recipe), replace(_arm("pre-norm", recipe), factory=pre)]
    return compare_arms(setup, recipe, arms, "where the block normalises")


def slots(setup: Setup) -> Findings:
    recipe = _recipe(setup)
    arms = [_arm(f"K = {count}", recipe, context_slots=count) for count in SLOTS]
    return compare_arms(setup, recipe, arms, "slots of the context")


def ageing(setup: Setup) -> Findings:
    recipe = _recipe(setup)
    arms = [_arm("without ageing", recipe, ageing=False), _arm("with ageing", recipe, ageing=True)]
    return compare_arms(setup, recipe, arms, "ageing of the context")


def _recipe(setup: Setup) -> Recipe:
    return setup.streaming().fitted(setup.dataset())


def _arm(name: str, recipe: Recipe, **changes: Any) -> Arm:
    """Measured under every condition of the recipe."""
    changed = replace(recipe, config=replace(recipe.config, **changes))
    return Arm(name, changed, measure=UnderConditions(recipe.conditions))
