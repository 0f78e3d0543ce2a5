"""A recipe for a user's own recordings: what a recipe file says, and for the rest what the recordings hold.

`docs/training.md` describes the file. Here it is a parsed mapping; a `RecipeError` names the field that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from grf_core.config import GRFConfig, HeadConfig
from grf_core.data.recordings import Recordings
from grf_core.data.sessions import Cutting, Dataset, LabelledSession
from grf_core.training.checks import RecipeError, check_choice, check_float
from grf_core.training.objective import class_name
from grf_core.training.recipe import Augmentation, Condition, Objective, Overlong, Recipe, RegimeName, Schedule
from grf_core.training.recipes.custom_model import custom_config
from grf_core.training.recipes.custom_sessions import DEFAULT_SHARE, custom_sessions, split_test, typical_segment_s
from grf_core.training.recipes.fields import made, mapping, text

FIELDS = (
    "name",
    "modalities",
    "heads",
    "test",
    "group_pattern",
    "regime",
    "overlong",
    "model",
    "schedule",
    "objective",
    "cutting",
    "augmentation",
    "limits",
)
DEFAULT_LIMITS = "Nobody has written down what this model must not be taken for: `limits` of the recipe file does."

SHORTEST_S = 0.001
"""Of a segment in training: each window of a session costs memory, though it be empty."""


def custom_recipe(options: object, data: Path) -> Recipe:
    """`options` is None where the file is empty. RecordingsError or OSError if the recordings cannot be read,
    RecipeError for all else that does not fit."""
    given = mapping("recipe", {} if options is None else options, FIELDS)
    sessions = custom_sessions(data, given.get("group_pattern"))
    regime: RegimeName = given.get("regime", "streaming")
    check_choice("regime", regime, get_args(RegimeName))
    overlong: Overlong = given.get("overlong", "subsample")
    check_choice("overlong", overlong, get_args(Overlong))
    config = custom_config(given, sessions, regime)
    typical_s = typical_segment_s(sessions.recordings.sessions)
    train, test = split_test(given.get("test", {}), sessions, config)
    return Recipe(
        name=_folder_name(given.get("name", "custom")),
        config=config,
        schedule=made(Schedule, "schedule", given.get("schedule", {})),
        cutting=_cutting(given.get("cutting"), typical_s),
        augmentation=made(Augmentation, "augmentation", given.get("augmentation", {})),
        load=lambda _: _dataset(sessions.recordings, train, test, given),
        conditions=tuple(custom_conditions(config, typical_s, regime)),
        limits=text("limits", given.get("limits", DEFAULT_LIMITS)),
        objective=_objective(given.get("objective", {}), config),
        regime=regime,
        overlong=overlong,
        group_of=sessions.group_of,
    )


def _objective(options: object, config: GRFConfig) -> Objective:
    given = mapping("objective", options, tuple(field.name for field in fields(Objective)))
    classifiers = {head.name: head for head in config.heads if head.kind == "classification"}
    weights = given.get("class_weights", {})
    if weights == "balanced":
        weights = dict.fromkeys(classifiers, "balanced")
    weights = mapping("objective.class_weights", weights, tuple(classifiers))
    per_head = {name: _class_weights(classifiers[name], value) for name, value in weights.items()}
    mapping("objective.head_weights", given.get("head_weights", {}), tuple(head.name for head in config.heads))
    return made(Objective, "objective", {**given, "class_weights": per_head})


def _class_weights(head: HeadConfig, value: object) -> object:
    field = f"objective.class_weights.{head.name}"
    if value == "balanced":
        return value
    by_class = {class_name(label): weight for label, weight in mapping(field, value).items()}
    if by_class.keys() != set(head.labels):
        raise RecipeError(field, f"balanced, or a weight for each of {', '.join(head.labels)} is expected")
    return tuple(by_class[label] for label in head.labels)


def _cutting(options: object, typical_s: float) -> Cutting:
    if options is None:
        return Cutting(typical_s / 2, typical_s * 2, vary=0.5)
    given = mapping("cutting", options, tuple(field.name for field in fields(Cutting)))
    for name in ("shortest_s", "longest_s"):
        if name not in given:
            raise RecipeError(f"cutting.{name}", "missing")
        check_float(f"cutting.{name}", given[name], SHORTEST_S)
    check_float("cutting.vary", given.get("vary", 0.0), 0.0, 1.0)
    return made(Cutting, "cutting", given)


def _folder_name(value: object) -> str:
    name = text("name", value)
    if {"/", "\0"} & {*name} or name in (".", ".."):
        raise RecipeError("name", f"{name!r:.60} does not name a folder: the run's is called so")
    return name


def custom_conditions(config: GRFConfig, typical_s: float, regime: RegimeName) -> Iterator[Condition]:
    """Of a model that was trained on recordings; `typical_s` as `typical_segment_s` finds it in them."""
    cutting = Cutting(typical_s, typical_s)
    whole = regime == "whole"
    yield Condition("whole sessions" if whole else f"segments of {typical_s:.3g} s", cutting)
    if not whole:
        yield Condition("half of the segments lost", cutting, Augmentation(drop_segment=0.5), repeats=3)
    names = [modality.name for modality in config.modalities]
    for name in names if len(names) > 1 else []:
        yield Condition(f"{name} alone", cutting, silent=tuple(other for other in names if other != name))


def _dataset(
    recordings: Recordings,
    train: tuple[LabelledSession, ...],
    test: tuple[LabelledSession, ...],
    given: Mapping[str, Any],
) -> Dataset:
    head = recordings.head
    how = ", ".join(f"{name} {value}" for name, value in given.get("test", {"share": DEFAULT_SHARE}).items())
    return Dataset(head.title, head.source, head.licence, f"held out: {how}", train, test)
