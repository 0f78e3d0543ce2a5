"""The runtime on a Ray cluster that is there already: deploy it, find it again, stop it. Nothing here stays running."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runtime.first_service import wait_for_service
from runtime.settings import SettingError, Settings, differing
from runtime.state_dir import StartError
from runtime.store.base import StoreError
from runtime.store_source import open_store

ANSWER_WITHIN_S = 30.0


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to a Ray cluster: `auto`, `host:port` or `ray://host:port`. Raises StartError."""
    import ray

    from runtime.actor_names import NAMESPACE

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise StartError(f"no Ray cluster at {address!r}: {error}; {_what_helps()}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _what_helps() -> str:
    """Ray does not say that it was the token, and by itself sends one only where the address is `auto`."""
    if os.environ.get("RAY_AUTH_MODE"):
        return "`ray start --head` makes one"
    return "`ray start --head` makes one, and RAY_AUTH_MODE=token connects to one that asks for a token"


def deploy(settings: Settings, on_progress: Callable[[str], None]) -> None:
    """Start controller, workers and gateway, or find those that run, and wait until they serve. Raises StartError.

    Everything is detached: it outlives this process, and every driver.
    """
    import ray

    from runtime.controller_actor import start_controller
    from runtime.gateway.deployment import run_gateway

    if settings.runtime.store == "sqlite" and len([node for node in ray.nodes() if node["Alive"]]) > 1:
        raise StartError(
            "several machines need a store that all of them reach: set runtime.store to a redis:// address"
        )
    _check(settings)
    if ignored := _ignored(settings):
        on_progress(f"a runtime is there already, and keeps its {', '.join(ignored)}: `grf down --address` ends it")
    on_progress("starting the workers and the gateway")
    controller = start_controller(settings, detached=True)
    run_gateway(settings)  # while the workers load their model
    try:
        wait_for_service(lambda: _answer_of(controller.routes.remote()), on_progress, "`ray logs` says more")
    except StartError as error:
        raise StartError(f"{error}; it is tried again, until `grf down --address` ends it") from None


def _check(settings: Settings) -> None:
    """Where the controller will be, what it needs: one that waits for its store answers nobody. Raises StartError."""
    import ray

    from runtime.controller_actor import of_head

    wrong = ray.remote(_what_is_wrong).options(num_cpus=0, resources=of_head()).remote(settings)
    try:
        if text := ray.get(wrong, timeout=ANSWER_WITHIN_S):
            raise StartError(text)
    except ray.exceptions.GetTimeoutError:
        raise StartError(f"Ray's head node has not checked the settings within {ANSWER_WITHIN_S:g} s") from None


def _what_is_wrong(settings: Settings) -> str:
    try:
        settings.tokens()
        open_store(settings).close()
    except (SettingError, StoreError) as error:
        return str(error)
    return ""


def _ignored(settings: Settings) -> list[str]:
    """Settings that have no effect, for a runtime is there with others. Those of the gateway count: it is replaced."""
    try:
        kept: Settings = _answer_of(find_controller().settings.remote(), "`grf down --address` ends it")
    except NotThere:
        return []
    except AttributeError:
        raise StartError("a runtime of an older version is there: `grf down --address` ends it") from None
    return [name for name in differing(kept, settings) if not name.startswith("gateway.")]


def stop(drain_s: float) -> bool:
    """Save what is settled, then stop workers, controller and gateway; True if all that was settled is saved."""
    import ray
    from ray import serve

    from runtime.controller_actor import stop_workers, worker_names
    from runtime.gateway.deployment import APPLICATION

    controller, names = find_controller(), worker_names()
    try:
        saved = bool(ray.get(controller.stop.remote(drain_s), timeout=drain_s + ANSWER_WITHIN_S))
        ray.kill(controller)
    except ray.exceptions.RayError:  # it waits for its store, for example
        ray.kill(controller)
        saved = stop_workers(names, drain_s)  # those of before: who has ended meanwhile may not have saved
    serve.delete(APPLICATION)
    return saved


class NotThere(StartError):
    """No runtime is on the cluster."""


def find_controller() -> Any:
    """Raises NotThere if no runtime is on the cluster."""
    import ray

    from runtime.actor_names import CONTROLLER, NAMESPACE

    try:
        return ray.get_actor(CONTROLLER, NAMESPACE)
    except ValueError:
        raise NotThere("no runtime runs on this Ray cluster: `grf up --address` starts one") from None


def scale(workers: int) -> None:
    """Raises StartError, with what the controller says."""
    _answer_of(find_controller().scale.remote(workers))


def drain(name: str) -> list[str]:
    """Names of the workers that will be emptied and ended. Raises StartError likewise."""
    names: list[str] = _answer_of(find_controller().drain.remote(name))
    return names


def _answer_of(asked: Any, what_helps: str = "its log says more (`ray logs`)") -> Any:
    import ray

    try:
        return ray.get(asked, timeout=ANSWER_WITHIN_S)
    except ray.exceptions.RayTaskError as error:
        raise StartError(f"the controller: {error.cause}") from None
    except ray.exceptions.GetTimeoutError:
        raise StartError(f"the controller has not answered within {ANSWER_WITHIN_S:g} s; {what_helps}") from None
    except ray.exceptions.RayActorError as error:
        raise StartError(f"the controller has ended: {error}") from None
