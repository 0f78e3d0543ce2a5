"""Where the worker's model comes from: a bundle, or code of the operator's own.

    runtime.bundle=bundles/motion               a folder written by `grf train`; untrusted, nothing in it is run
    runtime.bundle=python:my_models:wave        the function `wave` of the module `my_models` makes the model

The function is given the device as text (`cpu`, `cuda:0`) and returns a `grf_core.step.StepModel`. Its module must be
installed or on PYTHONPATH. Whoever sets the setting runs the code: it is trusted as the setting is.
"""

from __future__ import annotations

import importlib
import logging
import traceback
from collections.abc import Callable, Collection
from typing import Any

import torch

from grf_core.bundle import load_bundle
from grf_core.native import steps_here
from grf_core.step import ModelSignature, StepModel

log = logging.getLogger(__name__)

PYTHON = "python:"


class ModelError(ValueError):
    """A model of the operator's own that cannot be had; the text says why."""


def check_model(reference: str, device: str = "auto", modalities: Collection[str] = ()) -> None:
    """Fail early: is there such a bundle or such a function, and such a device, and has the bundle these modalities?

    Raises BundleError or ModelError. What a function returns is seen in the worker alone.
    """
    _check_device(device)
    if reference.startswith(PYTHON):
        _factory(reference)
        return
    known = [modality.name for modality in load_bundle(reference).config.modalities]
    if unknown := sorted(set(modalities) - {*known}):
        text = f"{reference} has no modality {', '.join(unknown)}; it has {', '.join(known)}"
        raise ModelError(f"order.lateness_by_modality_s: {text}")


def _check_device(name: str) -> None:
    if name == "auto":
        return
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"runtime.device: {name!r} is none: {str(error).splitlines()[0]}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"runtime.device: {name} is not here: torch sees {torch.cuda.device_count()} CUDA devices")


def open_model(reference: str, device: str) -> StepModel:
    """The model on a device (`auto`: the first GPU, or the CPU).

    Raises BundleError, ModelError, or RuntimeError for a device that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not reference.startswith(PYTHON):
        if device == "cpu":
            log.info("steps are computed by %s", steps_here())
        elif device.startswith("cuda"):
            log.info("steps are recorded on %s", torch.cuda.get_device_name(device))
        return load_bundle(reference).step_model(device)
    model: StepModel = _factory(reference)(device)
    if not isinstance(getattr(model, "signature", None), ModelSignature) or not callable(getattr(model, "step", None)):
        raise ModelError(f"{reference} returned {type(model).__name__}, which is no StepModel")
    if not isinstance(getattr(model, "device", None), torch.device):
        own = getattr(model, "device", None)
        raise ModelError(
            f"{reference}: the device of its model is {own!r}, no torch.device: the function is given text"
        )
    return model


def _factory(reference: str) -> Callable[[str], Any]:
    module_name, colon, name = reference.removeprefix(PYTHON).partition(":")
    if not (module_name and colon and name):
        raise ModelError(f"{reference}: expected python:module:function")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(f"{reference}: {error}; the module must be installed or on PYTHONPATH") from error
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
        raise ModelError(f"{reference}: importing {module_name} fails: {told}") from error
    factory: Callable[[str], Any] | None = getattr(module, name, None)
    if not callable(factory):
        raise ModelError(f"{reference}: {module_name} has no function {name}")
    return factory
