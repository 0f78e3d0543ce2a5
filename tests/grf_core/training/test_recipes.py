from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from grf_core.bundle import Bundle, load_bundle
from grf_core.data.motion import motion_dataset, write_motion_recording
from grf_core.data.sessions import Cutting, Dataset, LabelledSession, StreamFrames
from grf_core.training.evaluation import evaluate, evaluate_recording
from grf_core.training.preparation import prepare
from grf_core.training.recipe import Condition
from grf_core.training.recipes import RECIPES
from grf_core.training.recipes.mosi import MOSI
from grf_core.training.recipes.motion import MOTION

ONE_RECORDING = 1 / 40
"""38 of 40 are right; rounding on another machine may tip one."""
MOTION_BUNDLE = Path(__file__).parents[3] / "bundles" / "motion"


@pytest.fixture(scope="module")
def motion() -> Bundle:
    return load_bundle(MOTION_BUNDLE)


def test_recipes_are_found_by_their_names() -> None:
    assert all(name == recipe.name for name, recipe in RECIPES.items())


def test_every_recipe_reads_what_it_is_evaluated_on_and_says_what_it_is_not() -> None:
    for recipe in RECIPES.values():
        assert recipe.read is not None
        assert recipe.limits
        assert recipe.conditions
        assert json.dumps(recipe.to_json(), allow_nan=False)


def test_no_condition_silences_every_modality_or_one_that_is_not_there() -> None:
    for recipe in RECIPES.values():
        names = {modality.name for modality in recipe.config.modalities}
        assert all(set(condition.silent) < names for condition in recipe.conditions)


def test_weights_are_of_heads_that_are_there() -> None:
    for recipe in RECIPES.values():
        heads = {head.name for head in recipe.config.heads}
        assert recipe.objective.class_weights.keys() | recipe.objective.head_weights.keys() <= heads


def test_mosi_takes_widths_and_lengths_from_the_file_and_its_validation_part() -> None:
    def session(name: str, frames: int) -> LabelledSession:
        widths = {"text": 7, "audio": 2, "vision": 3}
        times_s = np.arange(float(frames))
        streams = (StreamFrames(m, m, np.zeros((frames, w), np.float32), times_s) for m, w in widths.items())
        return LabelledSession(name, {"sentiment": 1.0}, tuple(streams))

    dataset = Dataset("", "", "", "", (session("train/a_1", 4), session("valid/b_1", 6)), (session("test/c_1", 5),))
    fitted = MOSI.fitted(dataset)
    assert [(m.name, m.width, m.max_frames) for m in fitted.config.modalities] == [
        ("text", 7, 6),
        ("audio", 2, 6),
        ("vision", 3, 6),
    ]
    data = prepare(fitted, dataset.train, np.random.default_rng(0))
    assert [s.session for s in data.validation] == ["valid/b_1"]


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
