"""Workers that were asked for and may never come: one fails for good whose bundle is not on its node, for example, or
where a model of the operator's own raises. It is asked for again, for ever, so somebody has to be told."""

from __future__ import annotations

import threading
from typing import Any

import ray


class StartingWorkers:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        """a call that is answered once the worker is made, by name"""
        self._failed: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, name: str, handle: Any) -> None:
        with self._lock:
            self._made[name] = handle.process.remote()
            self._failed.pop(name, None)  # it may come this time

    @property
    def failed(self) -> dict[str, str]:
        """Why, of those that have failed and were not asked for again since."""
        with self._lock:
            return dict(self._failed)

    def look(self) -> dict[str, str]:
        """Why, of those that have failed since the last look."""
        with self._lock:
            done = [name for name, made in self._made.items() if ray.wait([made], timeout=0)[0]]
            news = {name: reason for name in done if (reason := _why(self._made.pop(name)))}
            self._failed |= news
            return news


def _why(made: Any) -> str:
    """The last line of why there is none: what its constructor raised, or why Ray cannot start one. "" if it was made,
    or died in another way: Ray starts it again."""
    try:
        ray.get(made)
    except (ray.exceptions.RuntimeEnvSetupError, ray.exceptions.ActorUnschedulableError) as error:
        return _last_line(error)
    except ray.exceptions.RayError as error:
        return _last_line(error) if getattr(error, "actor_init_failed", False) else ""
    return ""


def _last_line(error: ray.exceptions.RayError) -> str:
    return str(error).strip().splitlines()[-1]
