from __future__ import annotations

from pathlib import Path

import pytest

from grf_core.bundle import Bundle, load_bundle
from grf_core.data.motion import motion_dataset, write_motion_recording
from grf_core.data.sessions import Cutting
from grf_core.training.evaluation import evaluate, evaluate_recording
from grf_core.training.recipe import Condition
from grf_core.training.recipes import MOTION, RECIPES

ONE_RECORDING = 1 / 40
"""38 of 40 are right; rounding on another machine may tip one."""
MOTION_BUNDLE = Path(__file__).parents[3] / "bundles" / "motion"


@pytest.fixture(scope="module")
def motion() -> Bundle:
    return load_bundle(MOTION_BUNDLE)


def test_recipes_are_found_by_their_names() -> None:
    assert all(name == recipe.name for name, recipe in RECIPES.items())


def test_the_motion_bundle_is_what_its_recipe_makes(motion: Bundle) -> None:
    assert (motion.name, motion.config) == ("motion", MOTION.config)
    assert sum(file.stat().st_size for file in MOTION_BUNDLE.iterdir()) < 1 << 20


def test_the_motion_bundle_knows_unseen_recordings_after_ten_seconds(motion: Bundle, tmp_path: Path) -> None:
    write_motion_recording(tmp_path / "motion.grfrec", "test")
    result = evaluate_recording(motion, tmp_path / "motion.grfrec")
    assert result["n"] == 40
    assert result["accuracy"] >= 0.95 - ONE_RECORDING


def test_the_motion_bundle_does_not_depend_on_how_recordings_are_cut(motion: Bundle) -> None:
    random = Condition("random", Cutting(0.2, 2.0, vary=0.5), repeats=3)
    assert evaluate(motion, motion_dataset().test, random, seed=7)["accuracy"] >= 0.9


def test_the_model_card_of_the_motion_bundle_says_what_was_measured(motion: Bundle) -> None:
    card = (MOTION_BUNDLE / "README.md").read_text()
    for condition, figures in motion.training["test"].items():
        assert f"| {condition} | {figures['accuracy']:.3f} |" in card
