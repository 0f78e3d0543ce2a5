"""What does each part of GRF contribute? One part exchanged at a time, in the paper's setting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from grf_core.experiments.comparison import compare_arms
from grf_core.experiments.experiment import Setup, with_every_modality
from grf_core.experiments.report import Findings
from grf_core.experiments.runner import Arm
from grf_core.experiments.variants import Variant, VariantFactory
from grf_core.training.recipe import Recipe

EXCHANGED = {
    "linear in place of the GFU": Variant(fusion="linear"),
    "only the context attends": Variant(cross="context_only"),
    "only the modality attends": Variant(cross="modality_only"),
    "first modality as a sequence": Variant(first="sequence"),
    "linear attention": Variant(attention="linear"),
    "pre-norm": Variant(norm="pre"),
}
LAYERS = (1, 2, 4, 6)


def ablations(setup: Setup) -> Findings:
    recipe = setup.whole().fitted(setup.dataset())
    if len(recipe.config.modalities) < 3:
        recipe = with_every_modality(recipe, setup.dataset())  # with two there is one step, and nothing to share
    own = recipe.config.n_layers
    arms = [Arm(f"GRF, L = {own}", recipe)]
    arms += [Arm(name, recipe, VariantFactory(variant)) for name, variant in EXCHANGED.items()]
    arms.append(Arm("separate blocks", _with(recipe, shared_block=False)))
    arms += [Arm(f"L = {layers}", _with(recipe, n_layers=layers)) for layers in LAYERS if layers != own]
    groups = {arm.name: 0 if arm.name.startswith("GRF") else 2 if arm.name.startswith("L =") else 1 for arm in arms}
    return compare_arms(setup, recipe, arms, "one part exchanged", groups=groups)


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, config=replace(recipe.config, **changes))
