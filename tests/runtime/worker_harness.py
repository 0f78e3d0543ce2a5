"""A real worker loop in this process: real socket, real SQLite, a toy model; started again after a crash.

    with RunningWorker(tmp_path) as worker:
        ...  # speak to worker.endpoint
        worker.crash()
        worker.start()

Nothing here waits without a limit: what hangs fails the test and shows the stack of every thread.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import pytest

from grf_core.step import StepModel
from runtime.dispatch.dispatcher import Dispatcher
from runtime.dispatch.policy import DispatchPolicy
from runtime.engine.engine import Engine
from runtime.engine.policies import EnginePolicy
from runtime.keys import KEY_GROUPS
from runtime.security import Tokens
from runtime.store.sqlite import SqliteStore
from runtime.worker_loop import WorkerLoop
from tests.runtime.toy_model import ToyModel

HOST = "127.0.0.1"
LIMIT_S = 15.0
"""for whatever should take milliseconds"""

T = TypeVar("T")


class RunningWorker:
    """One worker that owns every key group. Each start is a new incarnation on the same port and store."""

    def __init__(
        self,
        directory: Path,
        *,
        model: Callable[[], StepModel] = ToyModel,
        engine: EnginePolicy | None = None,
        dispatch: DispatchPolicy | None = None,
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        self.path = directory / "grf.db"
        self.port = 0
        self.incarnation = ""
        self._model = model
        self._engine_policy = engine or EnginePolicy()
        self._dispatch_policy = dispatch or DispatchPolicy()
        self._tokens = Tokens(tokens or {})
        self._starts = 0
        self._loop: WorkerLoop | None = None

    @property
    def endpoint(self) -> str:
        return f"tcp://{HOST}:{self.port}"

    @property
    def dispatcher(self) -> Dispatcher:
        """Belongs to the loop's thread: look at it inside `call`."""
        return self._running.dispatcher

    @property
    def is_alive(self) -> bool:
        return self._loop is not None and self._loop.is_alive

    def start(self) -> None:
        assert self._loop is None, "it runs already"
        self._starts += 1
        self.incarnation = f"life-{self._starts}"
        dispatcher = Dispatcher(
            Engine(self._model(), self._engine_policy), "w0", self.incarnation, self._tokens, self._dispatch_policy
        )
        dispatcher.own(self._claim())
        self._loop = WorkerLoop(dispatcher, self._open_store)
        port = self._loop.bind(HOST, self.port)
        assert self.port in (0, port), f"port {self.port} was taken by another process"
        self.port = port
        self._loop.start()

    def _open_store(self) -> SqliteStore:
        return SqliteStore(self.path)

    def _claim(self) -> dict[int, int]:
        """Every key group, at the epoch after the last."""
        store = self._open_store()
        try:
            owned = store.ownership()
            expected = {group: owned[group].epoch if group in owned else 0 for group in range(KEY_GROUPS)}
            return store.claim(f"w0/{self.incarnation}", expected)
        finally:
            store.close()

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the loop's thread, between two turns."""
        return self._running.call(function).result(timeout=LIMIT_S)

    def take_refusals(self) -> dict[str, int]:
        """How many refusals the worker has counted since this was last called, by code."""
        return dict(self.call(self.dispatcher.outbox.take_refusals))

    def crash(self) -> None:
        """Stop at once; nothing more is saved or sent."""
        within_limit("the worker does not die", self._running.kill)
        self._loop = None

    def stop(self) -> None:
        """Stop in good order, with everything settled saved."""
        clean = within_limit("the worker does not stop", self._running.stop)
        self._loop = None
        assert clean, "the worker stopped before everything settled was saved"

    @property
    def _running(self) -> WorkerLoop:
        assert self._loop is not None, "it does not run"
        return self._loop

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._loop is None:
            return
        died = not self._loop.is_alive
        within_limit("the worker does not die", self._running.kill)
        self._loop = None
        if error is None:
            assert not died, "the worker's loop has failed: its log says why"


def within_limit(complaint: str, function: Callable[[], T]) -> T:
    """The result of a call that might hang; if it does the test fails and shows where."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="within-limit", daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    if thread.is_alive():
        assert sys.__stderr__ is not None
        faulthandler.dump_traceback(file=sys.__stderr__)
        pytest.fail(f"{complaint} within {LIMIT_S:g} s")
    if errors:
        raise errors[0]
    return results[0]
