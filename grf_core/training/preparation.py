"""From labelled sessions to what a run trains and validates on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from grf_core.config import GRFConfig
from grf_core.data.sessions import LabelledSession, LabelTrack
from grf_core.normalisation import Normalisation, Statistics
from grf_core.training.objective import class_weights
from grf_core.training.playback import heard_by, normalised, spoiled
from grf_core.training.recipe import Recipe
from grf_core.training.regime import TrainingData

Parts = tuple[list[LabelledSession], list[LabelledSession]]
"""(training, validation)"""


NO_FLOOR: Mapping[str, float] = MappingProxyType({})


class TrainingError(ValueError):
    """A run that cannot go on; the text says why."""


def prepare(recipe: Recipe, sessions: Sequence[LabelledSession], rng: np.random.Generator) -> TrainingData:
    """Split, normalised by the statistics of the training part, which also weighs the classes.

    Streams of modalities that the model does not have are left out, and sessions without a label or a stream.
    """
    share = recipe.schedule.validation_share
    heard = [heard_by(session, recipe.config) for session in sessions]
    sessions = [session for session in heard if session.streams and session.labels]
    if recipe.validates is not None:
        training, validation = split_named(sessions, recipe.validates)
    elif share == 0:
        training, validation = sessions, []
    elif recipe.group_of is None:
        training, validation = split_validation(sessions, recipe.config, share, rng)
    else:
        training, validation = split_groups(sessions, recipe.group_of, share, rng)
    if recipe.spoiled is not None:
        training = [*training, *(spoiled(session, recipe.spoiled, rng) for session in training)]
    normalisation = normalisation_of(training, recipe.config, recipe.std_floor)
    return TrainingData(
        training=training if recipe.varied else [normalised(session, normalisation) for session in training],
        validation=[normalised(session, normalisation) for session in validation],
        normalisation=normalisation,
        class_weights=class_weights(recipe.config, recipe.objective, training),
        vary=recipe.varied,
    )


def split_validation(
    sessions: Sequence[LabelledSession], config: GRFConfig, share: float, rng: np.random.Generator
) -> Parts:
    """At least one session each, the share taken from every class of the first classifier; some of the classes that are
    too small for it give one session, and keep another."""
    classifier = next((head.name for head in config.heads if head.kind == "classification"), "")
    classes: dict[str, list[LabelledSession]] = {}
    for position in rng.permutation(len(sessions)):
        classes.setdefault(_class_of(sessions[position], classifier), []).append(sessions[position])
    training: list[LabelledSession] = []
    validation: list[LabelledSession] = []
    cuts = {name: round(share * len(of_class)) for name, of_class in classes.items()}
    small = [name for name, of_class in classes.items() if cuts[name] == 0 and len(of_class) > 1]
    for name in small[: round(share * sum(len(classes[name]) for name in small))]:
        cuts[name] = 1
    for name, of_class in classes.items():
        validation += of_class[: cuts[name]]
        training += of_class[cuts[name] :]
    return _both_filled(training, validation, _SHARE_DECIDES)


def split_groups(
    sessions: Sequence[LabelledSession],
    group_of: Callable[[LabelledSession], str],
    share: float,
    rng: np.random.Generator,
) -> Parts:
    """Whole groups, in random order, go to validation as long as that brings it nearer to its share; at least one."""
    groups: dict[str, list[LabelledSession]] = {}
    for session in sessions:
        groups.setdefault(group_of(session), []).append(session)
    wanted = share * len(sessions)
    training: list[LabelledSession] = []
    validation: list[LabelledSession] = []
    names = sorted(groups)
    for position in rng.permutation(len(names)):
        group = groups[names[position]]
        nearer = abs(len(validation) + len(group) - wanted) < abs(len(validation) - wanted)
        (validation if nearer or not validation else training).extend(group)
    return _both_filled(training, validation, _SHARE_DECIDES)


def split_named(sessions: Sequence[LabelledSession], validates: Callable[[LabelledSession], bool]) -> Parts:
    """As the dataset has it."""
    validation = [session for session in sessions if validates(session)]
    return _both_filled([session for session in sessions if not validates(session)], validation)


def normalisation_of(
    sessions: Sequence[LabelledSession], config: GRFConfig, std_floor: Mapping[str, float] = NO_FLOOR
) -> Normalisation:
    """Statistics over all frames of each modality, and over all labels of each regression head."""
    frames: dict[str, list[Any]] = {modality.name: [] for modality in config.modalities}
    for session in sessions:
        for stream in session.streams:
            frames[stream.modality].append(stream.frames)
    for name, parts in frames.items():
        if not parts:
            raise TrainingError(f"no training session has a frame of modality {name!r}")
    heads: dict[str, list[Any]] = {}
    for head in config.heads:
        if head.kind == "regression":
            heads[head.name] = [[[value]] for session in sessions for value in _numbers(session, head.name)]
            if not heads[head.name]:
                raise TrainingError(f"no training session has a label for head {head.name!r}")
    return Normalisation(
        modalities={name: _floored(Statistics.of(parts), std_floor.get(name, 0.0)) for name, parts in frames.items()},
        heads={name: Statistics.of(parts) for name, parts in heads.items()},
    )


def _floored(statistics: Statistics, share: float) -> Statistics:
    """No deviation below a share of the common one of all features."""
    std_F = np.array(statistics.std)
    floor = share * math.sqrt(np.mean(std_F**2))
    return Statistics(statistics.mean, tuple(np.maximum(std_F, floor).tolist()))


def _numbers(session: LabelledSession, head: str) -> tuple[Any, ...]:
    label = session.labels.get(head)
    if isinstance(label, LabelTrack):
        return label.values
    return () if label is None else (label,)


def _class_of(session: LabelledSession, classifier: str) -> str:
    label = session.labels.get(classifier)
    return str(label.values[-1] if isinstance(label, LabelTrack) else label)


_SHARE_DECIDES = ": schedule.validation_share decides, 0 validates on none"


def _both_filled(training: list[LabelledSession], validation: list[LabelledSession], why: str = "") -> Parts:
    if not training or not validation:
        count = len(training) + len(validation)
        raise TrainingError(
            f"of {count} sessions, {len(training)} are to train on and {len(validation)} to validate on{why}"
        )
    return training, validation
