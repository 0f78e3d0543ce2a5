"""A trained model on disk.

    config.json            format version, name, GRFConfig, normalisation, digest of the weights, how it was trained
    weights.safetensors    every tensor of the model, float32, nothing else
    README.md              the model card; for people, never read here

A bundle is untrusted input. Nothing is unpickled, nothing outside the directory is opened, sizes are bounded before
they are allocated, and whatever does not fit is refused with a `BundleError` naming the file and the field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as format_safetensors
from torch import Tensor

from grf_core.config import MAX_NAME_CHARS, ConfigError, GRFConfig
from grf_core.folded import FoldedStepModel
from grf_core.folding import MAX_FOLDED_NUMBERS, numbers_of
from grf_core.graphed import GraphedStepModel
from grf_core.inference import GRFStepModel
from grf_core.kernels.library import KernelsMissing
from grf_core.model import GRF
from grf_core.native import NativeStepModel, kernels_here
from grf_core.normalisation import Normalisation, Statistics
from grf_core.step import StepModel

FORMAT = "grf-bundle"
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "README.md"
MAX_CONFIG_BYTES = 4 << 20
MAX_WEIGHTS_BYTES = 1 << 30
MAX_TENSOR_INDEX_BYTES = 1 << 20
"""What a weights file may hold beside its tensors."""
DIGEST_BYTES = 16


class BundleError(ValueError):
    """A directory that is not a bundle we can run. `file` and `field` say where."""

    def __init__(self, file: str, field: str, reason: str) -> None:
        super().__init__(f"{file}: {field}: {reason}" if field else f"{file}: {reason}")
        self.file = file
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[BundleError], tuple[str, str, str]]:
        """It may be raised in another process."""
        return type(self), (self.file, self.field, self.reason)


@dataclass(frozen=True, slots=True)
class Bundle:
    name: str
    config: GRFConfig
    normalisation: Normalisation
    weights: Mapping[str, Tensor]
    """float32, on the CPU."""
    training: Mapping[str, Any]
    """Provenance as JSON values: recipe, seed, data, split, metrics. Nothing depends on it."""

    @classmethod
    def of(cls, name: str, model: GRF, normalisation: Normalisation, training: Mapping[str, Any]) -> Bundle:
        """A bundle with a copy of a model's weights."""
        weights = {key: value.detach().to("cpu", torch.float32, copy=True) for key, value in model.state_dict().items()}
        return cls(name, model.config, normalisation, weights, training)

    @property
    def digest(self) -> str:
        """Changes with anything that changes an answer: weights, config, normalisation."""
        config = self.config.to_json()
        del config["dropout_by"]  # of training only, and younger than digests that stores hold
        described = {"config": config, "normalisation": asdict(self.normalisation)}
        text = json.dumps(described, sort_keys=True, separators=(",", ":"))
        return _blake2b(text.encode(), _weights_digest(self.weights).encode())

    def model(self) -> GRF:
        """The readable model, on the CPU, in evaluation mode."""
        with torch.device("meta"):
            model = GRF(self.config)
        model.load_state_dict({name: tensor.clone() for name, tensor in self.weights.items()}, assign=True)
        model.reset_positions()
        return model.eval()

    def step_model(self, device: str | torch.device = "cpu") -> StepModel:
        """What the runtime drives: the folded form, compiled on a CPU where it can be, recorded on a GPU.

        Where folding would take too much memory, the readable form. BundleError for a model with separate blocks,
        which has no recurrent step.
        """
        self._check_it_can_stream()
        place, own = torch.device(device), (self.model(), self.normalisation, self.name, self.digest)
        if numbers_of(self.config) > MAX_FOLDED_NUMBERS:
            return GRFStepModel(*own, place)
        if place.type == "cpu":
            with suppress(KernelsMissing):
                return NativeStepModel(*own, kernels_here())
        if place.type == "cuda":
            return GraphedStepModel(*own, place)
        return FoldedStepModel(*own, place)

    def readable_step_model(self, device: str | torch.device = "cpu") -> GRFStepModel:
        """The same function as the paper has it, two to three times as slow: what the folded form is tested against."""
        self._check_it_can_stream()
        return GRFStepModel(self.model(), self.normalisation, self.name, self.digest, torch.device(device))

    def _check_it_can_stream(self) -> None:
        if not self.config.shared_block:
            raise BundleError(CONFIG_FILE, "model.shared_block", "a model with separate blocks cannot stream")


def save_bundle(path: Path | str, bundle: Bundle, card: str) -> None:
    """Write a bundle and its model card into a directory, which may hold an older one.

    The config is replaced last and names the digest of its weights: a directory whose writing was cut short is refused
    at loading, never half believed.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": bundle.name,
        "weights_digest": _weights_digest(bundle.weights),
        "model": bundle.config.to_json(),
        "normalisation": asdict(bundle.normalisation),
        "training": dict(bundle.training),
    }
    _replace(directory / WEIGHTS_FILE, format_safetensors(dict(bundle.weights)))
    _replace(directory / CARD_FILE, card.encode())
    _replace(directory / CONFIG_FILE, (json.dumps(description, indent=2, allow_nan=False) + "\n").encode())


def load_bundle(path: Path | str) -> Bundle:
    """Read and check a bundle; BundleError names the file and the field that does not fit."""
    directory = Path(path)
    described = _parse_description(_read_bounded(directory, CONFIG_FILE, MAX_CONFIG_BYTES))
    config = _parse_config(described["model"])
    normalisation = _parse_normalisation(described["normalisation"], config)
    weights = _parse_weights(directory, config)
    if described["weights_digest"] != _weights_digest(weights):
        raise BundleError(CONFIG_FILE, "weights_digest", f"{WEIGHTS_FILE} is not the file this config was written with")
    return Bundle(described["name"], config, normalisation, weights, described["training"])


def _parse_description(text: bytes) -> dict[str, Any]:
    try:
        described = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct_keys)
    except (ValueError, RecursionError) as error:
        raise BundleError(CONFIG_FILE, "", f"not JSON: {error}") from None
    if not isinstance(described, dict):
        raise BundleError(CONFIG_FILE, "", "an object is expected")
    if described.get("format") != FORMAT:
        raise BundleError(CONFIG_FILE, "format", f"{FORMAT!r} is expected")
    if described.get("format_version") != FORMAT_VERSION:
        version = described.get("format_version")
        raise BundleError(CONFIG_FILE, "format_version", f"{version!r:.20}, and {FORMAT_VERSION} is what we read")
    expected = {
        "format": str,
        "format_version": int,
        "name": str,
        "weights_digest": str,
        "model": dict,
        "normalisation": dict,
        "training": dict,
    }
    _check_keys("", described, expected)
    for field, kind in expected.items():
        if not isinstance(described[field], kind):
            raise BundleError(CONFIG_FILE, field, f"{type(described[field]).__name__}, not {kind.__name__}")
    name = described["name"]
    if not name.isprintable() or not 1 <= len(name) <= MAX_NAME_CHARS:
        raise BundleError(CONFIG_FILE, "name", f"{name!r:.60} is no printable name of 1 to {MAX_NAME_CHARS} characters")
    return described


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _check_keys(field: str, value: Mapping[str, object], expected: Mapping[str, object]) -> None:
    prefix = f"{field}." if field else ""
    for key in value.keys() - expected.keys():
        raise BundleError(CONFIG_FILE, f"{prefix}{key:.80}", "unknown field")
    for key in expected.keys() - value.keys():
        raise BundleError(CONFIG_FILE, f"{prefix}{key}", "missing")


def _parse_config(value: object) -> GRFConfig:
    try:
        return GRFConfig.from_json(value)
    except ConfigError as error:
        raise BundleError(CONFIG_FILE, f"model.{error.field}", error.reason) from None


def _parse_normalisation(value: dict[str, Any], config: GRFConfig) -> Normalisation:
    _check_keys("normalisation", value, {"modalities": None, "heads": None})
    regression = {head.name: head.outputs for head in config.heads if head.kind == "regression"}
    return Normalisation(
        modalities=_parse_group("modalities", value, {modality.name: modality.width for modality in config.modalities}),
        heads=_parse_group("heads", value, regression),
    )


def _parse_group(group: str, value: dict[str, Any], widths: dict[str, int]) -> dict[str, Statistics]:
    field = f"normalisation.{group}"
    if not isinstance(value[group], dict):
        raise BundleError(CONFIG_FILE, field, "an object is expected")
    _check_keys(field, value[group], widths)
    return {name: _parse_statistics(f"{field}.{name}", value[group][name], width) for name, width in widths.items()}


def _parse_statistics(field: str, value: object, width: int) -> Statistics:
    if not isinstance(value, dict):
        raise BundleError(CONFIG_FILE, field, "an object is expected")
    _check_keys(field, value, {"mean": None, "std": None})
    for name, numbers in value.items():
        if not isinstance(numbers, list) or not all(type(number) in (int, float) for number in numbers):
            raise BundleError(CONFIG_FILE, f"{field}.{name}", "a list of numbers is expected")
        if len(numbers) != width:
            raise BundleError(CONFIG_FILE, f"{field}.{name}", f"{len(numbers)} numbers for a width of {width}")
    try:
        return Statistics(tuple(map(float, value["mean"])), tuple(map(float, value["std"])))
    except (ValueError, OverflowError) as error:
        raise BundleError(CONFIG_FILE, field, str(error)) from None


def _parse_weights(directory: Path, config: GRFConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        expected = GRF(config).state_dict()
    expected_bytes = sum(4 * tensor.numel() for tensor in expected.values())
    limit = min(expected_bytes + MAX_TENSOR_INDEX_BYTES, MAX_WEIGHTS_BYTES)
    data = _read_bounded(directory, WEIGHTS_FILE, limit)
    try:
        weights = parse_safetensors(data)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise BundleError(WEIGHTS_FILE, "", f"not a safetensors file: {error!s:.200}") from None
    for key in weights.keys() - expected.keys():
        raise BundleError(WEIGHTS_FILE, f"{key:.80}", "the config has no such tensor")
    for key, tensor in expected.items():
        _check_tensor(key, weights.get(key), tensor.shape)
    return weights


def _check_tensor(key: str, tensor: Tensor | None, shape: torch.Size) -> None:
    if tensor is None:
        raise BundleError(WEIGHTS_FILE, key, "missing")
    if tensor.dtype != torch.float32:
        raise BundleError(WEIGHTS_FILE, key, f"{tensor.dtype}, not float32")
    if tensor.shape != shape:
        raise BundleError(WEIGHTS_FILE, key, f"shape {list(tensor.shape)}, and the config makes it {list(shape)}")
    if not tensor.isfinite().all():
        raise BundleError(WEIGHTS_FILE, key, "not all finite")


def _read_bounded(directory: Path, name: str, limit_bytes: int) -> bytes:
    """A regular file that really lies in the directory, of at most `limit_bytes`."""
    try:
        root, path = directory.resolve(strict=True), (directory / name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise BundleError(name, "", "a link that leads out of the bundle")
        if not path.is_file():
            raise BundleError(name, "", "not a regular file")
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except FileNotFoundError:
        raise BundleError(name, "", f"no such file in {directory}") from None
    except (OSError, RuntimeError) as error:
        raise BundleError(name, "", f"cannot be read: {error}") from None
    if len(data) > limit_bytes:
        raise BundleError(name, "", f"longer than {limit_bytes} bytes")
    return data


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def _weights_digest(weights: Mapping[str, Tensor]) -> str:
    parts = []
    for key in sorted(weights):
        parts += [f"{key}{list(weights[key].shape)}".encode(), weights[key].numpy().tobytes()]
    return _blake2b(*parts)


def _blake2b(*parts: bytes) -> str:
    digest = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
