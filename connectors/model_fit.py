"""Would the model take it? A dry run's segments, and the routes they came by, beside what the runtime tells of it.

The texts are the runtime's own, for the same faults (`runtime.engine.admission`): what is told here is what would be
in the log later. Only a worker sees all there is to see; what depends on other segments (late ones, say) is not told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connectors.config import RuntimeOptions
from connectors.dry_run import Trial
from connectors.errors import ConfigError
from connectors.routes import RouteOptions, pattern_names
from runtime.client import AsyncStateClient, Refused, RequestTimeout

ASK_WITHIN_S = 2.0

Modalities = Mapping[str, Mapping[str, Any]]
"""by name, as in Welcome: width and max_frames of each"""


async def ask_for_modalities(runtime: RuntimeOptions) -> Modalities | None:
    """Of the model that the runtime serves; None if none answers. Raises ConfigError if it wants nothing of us."""
    client = AsyncStateClient(runtime.address, tenant=runtime.tenant, token=runtime.token, client=runtime.client)
    try:
        async with client:
            await client.check(ASK_WITHIN_S)
            return {modality["name"]: modality for modality in client.signature()["modalities"]}
    except RequestTimeout:
        return None
    except Refused as error:
        raise ConfigError(f"runtime: {runtime.address} refuses this connector: {error}") from None


def faults(trial: Trial, routes: Sequence[RouteOptions], modalities: Modalities) -> list[str]:
    """What the runtime would refuse, each fault once: with how many segments it was seen in, if any came."""
    found: dict[str, list[str]] = {}
    for (session, stream, name), segments in trial.streams.items():
        for segment in segments:
            frames, width = segment.frames.shape
            fault = _fault(name, frames, width, modalities)
            if fault:
                found.setdefault(fault, []).append(f"{session}/{stream}")
    told = [f"{fault}; seen in {len(names)} segments, the first of {names[0]}" for fault, names in found.items()]
    return told + [fault for fault in _faults_of(routes, modalities) if fault not in found]


def _faults_of(routes: Sequence[RouteOptions], modalities: Modalities) -> list[str]:
    """What is certain of routes, though nothing came by them."""
    faults = []
    for route in routes:
        if not pattern_names(route.modality):
            width = modalities.get(route.modality, {}).get("width", 0)  # the right one: a route does not tell it
            faults.append(_fault(route.modality, route.window.frames or 1, width, modalities))
    return [fault for fault in dict.fromkeys(faults) if fault]


def _fault(name: str, frames: int, width: int, modalities: Modalities) -> str:
    modality = modalities.get(name)
    if modality is None:
        return f"unknown modality {name!r}; the model has {', '.join(modalities)}"
    if frames > modality["max_frames"]:
        return f"segment has {frames} frames, {name} takes 1 to {modality['max_frames']}"
    if width != modality["width"]:
        return f"frames have width {width}, {name} has {modality['width']}"
    return ""
