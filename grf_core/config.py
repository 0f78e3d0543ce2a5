"""What a GRF model is made of, apart from its weights.

Every value is checked when the object is made, so a config that exists can be built. A `ConfigError` names the field
as the JSON form spells it (`modalities[1].width`). The bounds are for untrusted bundles; no real model is near them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, get_args

from grf_core.step import HeadKind

Carry = Literal["enriched", "context"]
DropoutBy = Literal["frame", "segment"]

MAX_MODALITIES = 64
MAX_HEADS_OF_OUTPUT = 16
MAX_WIDTH = 16_384
MAX_FRAMES = 4_096
MAX_OUTPUTS = 4_096
MAX_D_MODEL = 2_048
MAX_LAYERS = 32
MAX_CONTEXT_SLOTS = 64
MAX_NAME_CHARS = 128


class ConfigError(ValueError):
    """A model configuration that cannot work. `field` is its path in the JSON form."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str]]:
        """It may be raised in another process."""
        return type(self), (self.field, self.reason)

    def inside(self, parent: str) -> ConfigError:
        return ConfigError(f"{parent}.{self.field}", self.reason)


@dataclass(frozen=True, slots=True)
class ModalityConfig:
    name: str
    width: int  # features per frame
    max_frames: int  # longest segment the model takes

    def __post_init__(self) -> None:
        _check_name("name", self.name)
        _check_int("width", self.width, 1, MAX_WIDTH)
        _check_int("max_frames", self.max_frames, 1, MAX_FRAMES)


@dataclass(frozen=True, slots=True)
class HeadConfig:
    name: str
    kind: HeadKind
    outputs: int  # classes, or values
    labels: tuple[str, ...] = ()  # one for each output, or none

    def __post_init__(self) -> None:
        _check_name("name", self.name)
        _check_choice("kind", self.kind, get_args(HeadKind))
        _check_int("outputs", self.outputs, 2 if self.kind == "classification" else 1, MAX_OUTPUTS)
        _check_tuple("labels", self.labels)
        for position, label in enumerate(self.labels):
            _check_name(f"labels[{position}]", label)
        if self.labels and len(self.labels) != self.outputs:
            raise ConfigError("labels", f"{len(self.labels)} labels for {self.outputs} outputs")
        _check_distinct("labels", self.labels)


@dataclass(frozen=True, slots=True)
class GRFConfig:
    """The order of `modalities` is their rank: it breaks ties in the fusion order, and orders `GRF.forward`."""

    modalities: tuple[ModalityConfig, ...]
    heads: tuple[HeadConfig, ...]
    d_model: int = 64
    n_layers: int = 4  # decoder layers each way in the fusion block
    n_heads: int = 4  # attention heads
    d_ffn: int = 256
    dropout: float = 0.2
    dropout_by: DropoutBy = "frame"  # in the block: other features in every frame, or the same in all of a segment
    context_slots: int = 1  # K; 1 in the paper
    carry: Carry = "enriched"  # what a closed gate keeps: s' (author's code), or the context as it was
    gate_bias: float = 0.0  # initial b_z; negative starts with a gate that keeps
    ageing: bool = False  # the context fades with the seconds between segments
    shared_block: bool = True  # one block for all steps; false is an experiment and cannot stream
    auxiliary_heads: bool = True  # second set of heads, on the first fused state, for whole-sample training

    def __post_init__(self) -> None:
        _check_tuple("modalities", self.modalities, MAX_MODALITIES, at_least=1)
        _check_distinct("modalities", [modality.name for modality in self.modalities])
        _check_tuple("heads", self.heads, MAX_HEADS_OF_OUTPUT, at_least=1)
        _check_distinct("heads", [head.name for head in self.heads])
        _check_int("d_model", self.d_model, 2, MAX_D_MODEL)
        _check_int("n_layers", self.n_layers, 1, MAX_LAYERS)
        _check_int("n_heads", self.n_heads, 1, self.d_model)
        _check_int("d_ffn", self.d_ffn, 1, 8 * MAX_D_MODEL)
        _check_float("dropout", self.dropout, 0.0, 0.95)
        _check_choice("dropout_by", self.dropout_by, get_args(DropoutBy))
        _check_int("context_slots", self.context_slots, 1, MAX_CONTEXT_SLOTS)
        _check_choice("carry", self.carry, get_args(Carry))
        _check_float("gate_bias", self.gate_bias, -20.0, 20.0)
        for name in ("ageing", "shared_block", "auxiliary_heads"):
            _check_bool(name, getattr(self, name))
        if self.d_model % 2:
            raise ConfigError("d_model", f"{self.d_model} is odd; the position table pairs sines with cosines")
        if self.d_model % self.n_heads:
            raise ConfigError("n_heads", f"{self.n_heads} does not divide d_model = {self.d_model}")
        if not self.shared_block and len(self.modalities) < 2:
            raise ConfigError("shared_block", "separate blocks need at least two modalities")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> GRFConfig:
        """The config of a parsed JSON value; ConfigError names an unknown, missing or unworkable field."""
        given = _known_fields(cls, value)
        for name, item in (("modalities", ModalityConfig), ("heads", HeadConfig)):
            listed = _listed(name, given[name])
            given[name] = tuple(_from_json_item(item, f"{name}[{i}]", entry) for i, entry in enumerate(listed))
        return cls(**given)


def _from_json_item(item: type[ModalityConfig] | type[HeadConfig], path: str, value: object) -> object:
    try:
        given = _known_fields(item, value)
        if "labels" in given:
            given["labels"] = tuple(_listed("labels", given["labels"]))
        return item(**given)
    except ConfigError as error:
        raise error.inside(path) from None


def _known_fields(cls: type[GRFConfig] | type[ModalityConfig] | type[HeadConfig], value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(cls.__name__, f"an object is expected, not {type(value).__name__}")
    known = {field.name: field for field in fields(cls)}
    for name in value:
        if name not in known:
            raise ConfigError(str(name)[:MAX_NAME_CHARS], f"unknown field of {cls.__name__}")
    for name, field in known.items():
        if name not in value and field.default is MISSING:
            raise ConfigError(name, "missing")
    return dict(value)


def _listed(name: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise ConfigError(name, f"a list is expected, not {type(value).__name__}")
    return value


def _check_tuple(field: str, value: object, at_most: int = MAX_OUTPUTS, at_least: int = 0) -> None:
    if not isinstance(value, tuple):
        raise ConfigError(field, f"a tuple is expected, not {type(value).__name__}")
    if not at_least <= len(value) <= at_most:
        raise ConfigError(field, f"{len(value)} entries; from {at_least} to {at_most} are possible")


def _check_name(field: str, value: object) -> None:
    if not isinstance(value, str) or not value.isprintable() or not 1 <= len(value) <= MAX_NAME_CHARS:
        raise ConfigError(field, f"{value!r:.60} is not a printable name of 1 to {MAX_NAME_CHARS} characters")


def _check_distinct(field: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(field, f"{name!r} stands there twice")


def _check_int(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(field, f"{value!r:.60} is not a whole number from {low} to {high}")


def _check_float(field: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(field, f"{value!r:.60} is not a finite number")
    if not low <= value <= high:
        raise ConfigError(field, f"{value} is not from {low} to {high}")


def _check_bool(field: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(field, f"{value!r:.60} is not true or false")


def _check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(field, f"{value!r:.60} is not one of {', '.join(choices)}")
