"""A recipe: a dataset, a model and a schedule. All that a training run depends on besides its seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from grf_core.config import GRFConfig
from grf_core.data.sessions import Cutting, Dataset, LabelledSession, StreamFrames
from grf_core.training.checks import RecipeError, check_choice, check_float, check_int, check_positive

RegimeName = Literal["streaming", "whole"]
"""Sessions of segments step by step, or one whole segment of each modality as in the paper."""
Overlong = Literal["subsample", "window"]
"""Of more than `max_frames` frames, a whole-sample model gets as many, evenly spread; or as many that follow each
other: anywhere in training, from the middle otherwise."""
Spoil = Callable[[StreamFrames, np.random.Generator], StreamFrames]
"""A stream, raw, into what a worse sensor or a worse place would have given."""
RegressionLoss = Literal["l1", "l2", "huber"]
Balanced = Literal["balanced"]


MOST_STRETCH = 2.0
"""seven times as fast or as slow is common then; with more, some sessions last for years"""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What a session may suffer while it is trained on. Nothing of it happens in validation."""

    arrival_jitter_s: float = 0.0  # standard deviation of the lateness by which segments change places
    drop_stream: float = 0.0  # probability that a stream is silent throughout; one always speaks
    drop_segment: float = 0.0  # probability that a segment is lost
    crop: float = 0.0  # largest share of a session cut away at its beginning
    noise: float = 0.0  # standard deviation added to every feature, after normalisation
    shift: float = (
        0.0  # standard deviation of what is added to each feature of a stream throughout, after normalisation
    )
    scale: float = 0.0  # standard deviation of a factor around 1, one for each stream
    mix: float = 0.0  # how much of each feature leaks into the others, drawn for each stream: a sensor worn askew
    stretch: float = 0.0  # standard deviation of the logarithm of a factor on all durations: done faster or slower

    def __post_init__(self) -> None:
        for name in ("drop_stream", "drop_segment", "crop"):
            check_float(name, getattr(self, name), 0.0, 1.0)
        for name in ("arrival_jitter_s", "noise", "shift", "scale", "mix"):
            check_float(name, getattr(self, name), 0.0)
        check_float("stretch", self.stretch, 0.0, MOST_STRETCH)


CALM = Augmentation()


@dataclass(frozen=True, slots=True)
class Schedule:
    epochs: int = 100
    batch_sessions: int = 32
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    weight_decay: float = 1e-2
    warmup_epochs: int = 5
    patience: int = 20  # epochs without a better `stop_on`
    stop_on: str = "loss"  # of the validation part: the loss, or a metric by its name in the metrics file
    gradient_norm: float = 1.0
    truncate_steps: int = 64  # steps through which gradients flow back
    late_weight: float = 2.0  # the loss after step k of n counts ((k + 1) / n) ** late_weight
    averaging: float = 0.0  # of the weights kept: how much of their running mean an optimizer step leaves
    validation_share: float = 0.2  # of the training half; 0 trains on all of it and keeps the last epoch

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_sessions", "patience", "truncate_steps"):
            check_int(name, getattr(self, name), 1)
        check_int("warmup_epochs", self.warmup_epochs, 0)
        for name in ("learning_rate", "gradient_norm"):
            check_positive(name, getattr(self, name))
        for name in ("final_learning_rate", "weight_decay", "late_weight"):
            check_float(name, getattr(self, name), 0.0)
        check_float("averaging", self.averaging, 0.0, 1.0)
        if self.averaging == 1:
            raise RecipeError("averaging", "1 is not less than 1")
        check_float("validation_share", self.validation_share, 0.0, 1.0)
        if not isinstance(self.stop_on, str):
            raise RecipeError("stop_on", f"{self.stop_on!r:.60} is not the name of a metric")


@dataclass(frozen=True, slots=True)
class Objective:
    """What a wrong answer costs."""

    regression: RegressionLoss = "l1"  # on normalised values
    class_weights: Mapping[str, Balanced | tuple[float, ...]] = field(default_factory=dict)  # by classification head
    head_weights: Mapping[str, float] = field(default_factory=dict)  # a head's share of the loss; 1 if not named
    label_smoothing: float = 0.0  # share of a class label that is spread over all classes
    auxiliary_weight: float = 0.4  # of the same loss on the first fused state, in whole-sample training

    def __post_init__(self) -> None:
        check_choice("regression", self.regression, get_args(RegressionLoss))
        for head, weights in self.class_weights.items():
            for weight in () if weights == "balanced" else weights:
                check_float(f"class_weights.{head}", weight, 0.0)
        for head, weight in self.head_weights.items():
            check_float(f"head_weights.{head}", weight, 0.0)
        check_float("label_smoothing", self.label_smoothing, 0.0, 1.0)
        check_float("auxiliary_weight", self.auxiliary_weight, 0.0)


@dataclass(frozen=True, slots=True)
class Condition:
    """Circumstances under which the test half is played; `repeats` draws them anew."""

    name: str
    cutting: Cutting
    augmentation: Augmentation = CALM
    silent: tuple[str, ...] = ()  # modalities that are never heard
    until_s: float = math.inf  # event seconds heard, from the start of the session
    repeats: int = 1
    spoil: Spoil | None = None  # what befalls the raw frames of a stream


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
    read: Callable[[Path], Sequence[LabelledSession]] | None = None
    """Every session under a path of the layout of `load`, whatever its cases: for evaluation."""
    spoiled: Spoil | None = None
    """Each training session is also there a second time, spoiled so, drawn once; never one that validates."""
    varied: Spoil | None = None
    """What befalls the raw streams of a training session, drawn anew in every epoch: another build, another sensor."""
    std_floor: Mapping[str, float] = field(default_factory=dict)
    """By modality whose features have one unit: none is divided by less than this share of their common deviation, or
    one that hardly ever moved in training would explode with the first who moves it."""
    objective: Objective = field(default_factory=Objective)
    regime: RegimeName = "streaming"
    overlong: Overlong = "subsample"
    group_of: Callable[[LabelledSession], str] | None = None
    """Whom a session is of: no group is in both the training and the validation part."""
    validates: Callable[[LabelledSession], bool] | None = None
    """Where the dataset has a validation part of its own: which sessions of the training half are in it."""
    fit_config: Callable[[GRFConfig, Dataset], GRFConfig] | None = None
    """Where files of one dataset differ in their features: the config with their widths."""

    def fitted(self, dataset: Dataset) -> Recipe:
        """The recipe with the config that this dataset needs; done once after loading."""
        return self if self.fit_config is None else replace(self, config=self.fit_config(self.config, dataset))

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "regime": self.regime,
            "overlong": self.overlong,
            "model": self.config.to_json(),
            "schedule": asdict(self.schedule),
            "objective": asdict(self.objective),
            "cutting": asdict(self.cutting),
            "augmentation": asdict(self.augmentation),
            "std_floor": dict(self.std_floor),
            "spoiled": self.spoiled is not None,
            "varied": self.varied is not None,
        }
