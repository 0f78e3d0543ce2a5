"""What the model of a custom recipe is: its modalities, heads and sizes, from the file or else from the recordings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

from grf_core.config import MAX_FRAMES, ConfigError, GRFConfig, HeadConfig, ModalityConfig
from grf_core.data.sessions import Label, LabelledSession, LabelTrack
from grf_core.step import HeadKind
from grf_core.training.checks import RecipeError, check_choice, check_int
from grf_core.training.objective import class_name
from grf_core.training.recipe import RegimeName
from grf_core.training.recipes.custom_sessions import CustomSessions
from grf_core.training.recipes.fields import mapping

LONGEST_WHOLE = 512
"""Frames of a modality that a whole-sample model takes, if the file does not say: attention costs their square."""


def custom_config(given: Mapping[str, Any], sessions: CustomSessions, regime: RegimeName) -> GRFConfig:
    model = given.get("model", {})
    allowed = tuple(field.name for field in fields(GRFConfig) if field.name not in ("modalities", "heads"))
    try:
        return GRFConfig(
            modalities=tuple(_modalities(given.get("modalities"), sessions, regime)),
            heads=tuple(_heads(given.get("heads"), sessions.labelled)),
            **{**_defaults(regime), **mapping("model", model, allowed)},
        )
    except ConfigError as error:
        raise RecipeError(f"model.{error.field}", error.reason) from None


def _modalities(given: object, sessions: CustomSessions, regime: RegimeName) -> Iterator[ModalityConfig]:
    widths = sessions.recordings.head.modalities
    chosen = mapping("modalities", dict.fromkeys(widths) if given is None else given, tuple(widths))
    for name, options in chosen.items():
        field = f"modalities.{name}"
        longest = mapping(field, options or {}, ("max_frames",)).get("max_frames")
        if longest is None:
            longest = _longest(name, sessions, regime)
        check_int(f"{field}.max_frames", longest, 1)
        yield ModalityConfig(name, widths[name], longest)


def _longest(modality: str, sessions: CustomSessions, regime: RegimeName) -> int:
    """Of the recorded segments, which the model then takes as they are; of whole sessions in the other regime."""
    if regime == "streaming":
        lengths = [
            len(segment.frames)
            for session in sessions.recordings.sessions
            for segment in session.segments
            if segment.modality == modality
        ]
        return min(max(lengths, default=1), MAX_FRAMES)
    whole = [sum(len(x.frames) for x in session.streams if x.modality == modality) for session in sessions.labelled]
    return min(max(1, *whole), LONGEST_WHOLE)


def _heads(given: object, sessions: Sequence[LabelledSession]) -> Iterator[HeadConfig]:
    found: dict[str, set[Label]] = {}
    for session in sessions:
        for name, label in session.labels.items():
            values = label.values if isinstance(label, LabelTrack) else (label,)
            found.setdefault(name, set()).update(values)
    chosen = mapping("heads", dict.fromkeys(sorted(found)) if given is None else given, tuple(found))
    for name, options in chosen.items():
        yield _head(name, options or {}, found[name])


def _head(name: str, options: object, found: set[Label]) -> HeadConfig:
    field = f"heads.{name}"
    given = mapping(field, options, ("kind", "labels"))
    has_text = any(isinstance(value, str) for value in found)
    kind = given.get("kind", "classification" if has_text or "labels" in given else "regression")
    check_choice(f"{field}.kind", kind, get_args(HeadKind))
    if kind == "regression":
        if has_text or "labels" in given:
            raise RecipeError(field, "a regression head has values, and these are class labels")
        return HeadConfig(name, kind, 1)
    in_data = {class_name(value) for value in found}
    labels = given.get("labels", sorted(in_data))
    if not isinstance(labels, list) or not all(isinstance(label, str | int | float) for label in labels):
        raise RecipeError(f"{field}.labels", "a list of class labels is expected")
    if any(isinstance(label, bool) for label in labels):
        raise RecipeError(f"{field}.labels", "true and false are no class labels; as text they stand in quotes")
    classes = tuple(class_name(label) for label in labels)
    if in_data - set(classes):
        raise RecipeError(f"{field}.labels", f"the recordings also have {', '.join(sorted(in_data - set(classes)))}")
    if len(classes) < 2:
        raise RecipeError(f"{field}.labels", f"only {', '.join(classes)}: there is nothing to tell apart")
    return HeadConfig(name, kind, len(classes), classes)


def _defaults(regime: RegimeName) -> dict[str, Any]:
    """A small model; in a stream a closed gate keeps the context itself, or nothing is ever really retained."""
    if regime == "whole":
        return {"n_layers": 1}
    return {"n_layers": 1, "auxiliary_heads": False, "carry": "context", "gate_bias": -1.0}
