"""An experiment: a question, and a function that answers it with what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grf_core.config import ModalityConfig
from grf_core.data.sessions import Dataset, LabelledSession, LabelTrack
from grf_core.experiments.report import Findings
from grf_core.experiments.runner import Arm, Finished, Laboratory, loaded
from grf_core.training.recipe import Condition, Recipe

QUICK_EPOCHS = 2
VALIDATION_SHARE = 0.2
"""For a recipe that ships a model trained on all there is."""


class ExperimentError(ValueError):
    """An experiment that cannot be made with this recipe or these data; the text says why."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the command was given."""

    laboratory: Laboratory
    recipe: Recipe
    epochs: int | None = None
    """Instead of the recipe's."""

    @property
    def quick(self) -> bool:
        return self.laboratory.quick

    def run(self, arms: Sequence[Arm]) -> list[Finished]:
        return self.laboratory.run(arms)

    def dataset(self) -> Dataset:
        return loaded(self.recipe, self.laboratory.data, self.quick)

    def scheduled(self, recipe: Recipe) -> Recipe:
        """With the epochs that were asked for, and always with a validation part, which chooses among them."""
        schedule = recipe.schedule
        epochs = QUICK_EPOCHS if self.quick else self.epochs or schedule.epochs
        share = schedule.validation_share or VALIDATION_SHARE
        return replace(recipe, schedule=replace(schedule, epochs=epochs, validation_share=share))

    def whole(self) -> Recipe:
        """The recipe in the paper's setting: whole samples, and the model as the paper has it, of the recipe's size."""
        recipe = self.scheduled(self.recipe)
        config = replace(
            recipe.config,
            carry="enriched",
            gate_bias=0.0,
            context_slots=1,
            ageing=False,
            shared_block=True,
            auxiliary_heads=True,
        )
        return replace(recipe, regime="whole", config=config)

    def streaming(self) -> Recipe:
        recipe = self.scheduled(self.recipe)
        config = replace(recipe.config, shared_block=True, auxiliary_heads=False)
        return replace(recipe, regime="streaming", config=config)

    def first_condition(self) -> Condition:
        """The headline of the recipe."""
        return self.recipe.conditions[0]

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        dataset = self.dataset()
        described = recipe.to_json()
        for head in described["model"]["heads"]:
            del head["labels"]
        return {
            "recipe": recipe.name,
            "regime": recipe.regime,
            "data": dataset.name,
            "sessions": {"train and validation": len(dataset.train), "test": len(dataset.test)},
            "seeds": self.laboratory.seeds,
            "quick": self.quick,
            "model": described["model"],
            "schedule": described["schedule"],
            "augmentation": described["augmentation"],
            "cutting": described["cutting"],
        }


Ask = Callable[[Setup], Findings]


@dataclass(frozen=True, slots=True)
class Experiment:
    name: str
    question: str
    recipe: str
    """By default."""
    ask: Ask


def with_every_modality(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe with the modalities of the data that it leaves out, behind its own; such a one takes as many frames
    as the shortest of its own does."""
    known = {modality.name for modality in recipe.config.modalities}
    shortest = min(modality.max_frames for modality in recipe.config.modalities)
    more: dict[str, ModalityConfig] = {}
    for session in (*dataset.train, *dataset.test):
        for stream in session.streams:
            if stream.modality not in known:
                more[stream.modality] = ModalityConfig(stream.modality, stream.frames.shape[1], shortest)
    modalities = (*recipe.config.modalities, *(more[name] for name in sorted(more)))
    return replace(recipe, config=replace(recipe.config, modalities=modalities))


def labels_of(recipe: Recipe, sessions: Sequence[LabelledSession]) -> list[str]:
    """The class of each session by the first classifier; what it ends with, where it changes along the session."""
    classifier = next((head.name for head in recipe.config.heads if head.kind == "classification"), None)
    if classifier is None:
        raise ExperimentError(f"recipe {recipe.name!r} has no classifier")
    labels = [session.labels.get(classifier) for session in sessions]
    return [str(label.values[-1] if isinstance(label, LabelTrack) else label) for label in labels]
