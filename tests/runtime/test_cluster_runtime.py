"""What commands to a cluster say where its controller does not do what it is asked."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from runtime import cluster_runtime
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
