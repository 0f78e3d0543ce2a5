"""A recipe: a dataset, a model and a schedule. All that a training run depends on besides its seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grf_core.config import GRFConfig
from grf_core.data.sessions import Cutting, Dataset


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What a session may suffer while it is trained on. Nothing of it happens in validation."""

    arrival_jitter_s: float = 0.0  # standard deviation of the lateness by which segments change places
    drop_stream: float = 0.0  # probability that a stream is silent throughout; one always speaks
    drop_segment: float = 0.0  # probability that a segment is lost
    crop: float = 0.0  # largest share of a session cut away at its beginning
    noise: float = 0.0  # standard deviation added to every feature, after normalisation
    scale: float = 0.0  # standard deviation of a factor around 1, one for each stream
    mix: float = 0.0  # how much of each feature leaks into the others, drawn for each stream: a sensor worn askew


CALM = Augmentation()


@dataclass(frozen=True, slots=True)
class Schedule:
    epochs: int = 100
    batch_sessions: int = 32
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    weight_decay: float = 1e-2
    warmup_epochs: int = 5
    patience: int = 20  # epochs without a better validation loss
    gradient_norm: float = 1.0
    truncate_steps: int = 64  # steps through which gradients flow back
    late_weight: float = 2.0  # the loss after step k of n counts ((k + 1) / n) ** late_weight
    validation_share: float = 0.2  # of the training half


@dataclass(frozen=True, slots=True)
class Condition:
    """Circumstances under which the test half is played; `repeats` draws them anew."""

    name: str
    cutting: Cutting
    augmentation: Augmentation = CALM
    silent: tuple[str, ...] = ()  # modalities that are never heard
    until_s: float = math.inf  # event seconds heard, from the start of the session
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    config: GRFConfig
    schedule: Schedule
    cutting: Cutting
    augmentation: Augmentation
    load: Callable[[Path | None], Dataset]
    """The dataset in a folder, or wherever it is found by default."""
    conditions: tuple[Condition, ...]
    """What the model card reports; the first is the headline."""
    limits: str
    """What the model must not be taken for: a paragraph of its card."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "model": self.config.to_json(),
            "schedule": asdict(self.schedule),
            "cutting": asdict(self.cutting),
            "augmentation": asdict(self.augmentation),
        }
