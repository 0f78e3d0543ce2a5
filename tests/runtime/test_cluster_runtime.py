"""What commands to a cluster say where its controller does not do what it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from runtime import cluster_runtime, controller_actor
from runtime.settings import load_settings
from runtime.state_dir import StartError
from runtime.store.base import StoreUnavailable


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (ray.exceptions.RayTaskError("scale", "a long traceback", StoreUnavailable("Redis is away")), "Redis is away$"),
        (ray.exceptions.GetTimeoutError(), "the controller has not answered within 30 s"),
    ],
)
def test_a_controller_that_cannot_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, text: str
) -> None:
    class Controller:
        def __getattr__(self, name: str) -> Any:
            return type("Method", (), {"remote": lambda *arguments: None})

    def get(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(cluster_runtime, "find_controller", Controller)
    monkeypatch.setattr(ray, "get", get)
    for ask in (lambda: cluster_runtime.scale(2), lambda: cluster_runtime.drain("worker-0")):
        with pytest.raises(StartError, match=text) as told:
            ask()
        assert "\n" not in str(told.value)


def test_settings_that_keep_the_controller_waiting_are_told_before_it_is_started(tmp_path: Path) -> None:
    none_there, no_file = "runtime.store=redis://127.0.0.1:1", f"runtime.tokens_file={tmp_path / 'nowhere'}"
    said = [cluster_runtime._what_is_wrong(load_settings([flag], environment={})) for flag in (none_there, no_file)]
    assert ["127.0.0.1:1" in said[0], "nowhere" in said[1]] == [True, True], said
    fine = load_settings([f"runtime.state_dir={tmp_path}"], environment={})
    assert cluster_runtime._what_is_wrong(fine) == ""


class Remote:
    """What is asked of an actor, and its answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def remote(self, *_: Any) -> Any:
        return self.answer


def test_who_starts_it_again_is_told_which_settings_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = load_settings(["cluster.workers=2"], environment={})
    controller = type("Controller", (), {"settings": Remote(kept)})
    monkeypatch.setattr(cluster_runtime, "find_controller", controller)
    monkeypatch.setattr(ray, "get", lambda asked, timeout: asked)
    asked = load_settings(["cluster.workers=3", "gateway.replicas=2", "order.lateness_s=1"], environment={})
    assert cluster_runtime._ignored(asked) == ["order.lateness_s", "cluster.workers"]
    assert cluster_runtime._ignored(kept) == []


def test_who_starts_it_beside_one_of_an_older_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_runtime, "find_controller", object)  # which knows no `settings`
    with pytest.raises(StartError, match="an older version is there"):
        cluster_runtime._ignored(load_settings([], environment={}))


def test_a_controller_that_answers_nobody_is_ended_with_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    def get(*_: Any, **__: Any) -> None:
        raise ray.exceptions.GetTimeoutError

    def stop_workers(names: list[str], drain_s: float) -> bool:
        done.append(("stop", names, drain_s))
        return False

    controller = type("Controller", (), {"stop": Remote(None)})()
    monkeypatch.setattr(cluster_runtime, "find_controller", lambda: controller)
    monkeypatch.setattr(controller_actor, "worker_names", lambda: ["worker-0"])
    monkeypatch.setattr(controller_actor, "stop_workers", stop_workers)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda actor: done.append(("kill", actor)))
    monkeypatch.setattr(serve, "delete", lambda name: done.append(("delete", name)))
    assert cluster_runtime.stop(5.0) is False
    assert done == [("kill", controller), ("stop", ["worker-0"], 5.0), ("delete", "grf")]


def cluster_of(monkeypatch: pytest.MonkeyPatch, *workers: str, fails: Exception | None = None) -> list[str]:
    """Those of `workers` who have not ended; each ends as it stops, one whose name is in capitals by failing."""
    there = list(workers)

    def actor(name: str, namespace: str) -> Any:
        if name not in there:
            raise ValueError(name)
        return type("Actor", (), {"stop": Remote(name), "name": name})

    def get(asked: Any, timeout: float | None = None) -> Any:
        if asked is None and fails is not None:
            there.remove(workers[0])
            raise fails
        if any(name.isupper() for name in asked):
            raise ray.exceptions.RayActorError
        return [True for _ in asked]

    controller = type("Controller", (), {"stop": Remote(None)})()
    monkeypatch.setattr(cluster_runtime, "find_controller", lambda: controller)
    monkeypatch.setattr(controller_actor, "worker_names", lambda: [*there, "worker-9"])  # which has ended just now
    monkeypatch.setattr(ray, "get_actor", actor)
    monkeypatch.setattr(ray, "wait", lambda asked, num_returns, timeout: (asked, []))
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda actor: there.remove(actor.name) if actor is not controller else None)
    monkeypatch.setattr(serve, "delete", lambda name: there.append("no gateway"))
    return there


def test_of_a_worker_that_ends_as_it_is_to_save_it_is_not_said_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    there = cluster_of(monkeypatch, "worker-0", "WORKER-1")
    assert controller_actor.stop_workers(["worker-0"], 0.0)
    assert there == []
    there[:] = ["worker-0", "WORKER-1"]
    assert not controller_actor.stop_workers(["worker-0", "WORKER-1"], 0.0)
    assert there == []


def test_after_a_controller_that_fails_while_it_stops_all_is_ended_and_not_said_to_be_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = cluster_of(monkeypatch, "worker-0", "worker-1", fails=ray.exceptions.RayActorError())
    assert not cluster_runtime.stop(0.0)
    assert there == ["no gateway"]
