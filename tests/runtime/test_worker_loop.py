"""Other threads speak to the worker's loop while it comes to its end."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path

import pytest

from runtime.dispatch.dispatcher import Dispatcher
from runtime.dispatch.policy import DispatchPolicy
from runtime.engine.engine import Engine, EnginePolicy
from runtime.security import Tokens
from runtime.store.sqlite import SqliteStore
from runtime.worker_loop import WorkerLoop
from tests.runtime.toy_model import ToyModel
from tests.runtime.worker_harness import LIMIT_S


@pytest.fixture
def loop(tmp_path: Path) -> WorkerLoop:
    dispatcher = Dispatcher(Engine(ToyModel(), EnginePolicy()), "w0", "life-1", Tokens({}), DispatchPolicy())
    loop = WorkerLoop(dispatcher, lambda: SqliteStore(tmp_path / "grf.db"))
    loop.start()
    return loop


def test_a_loop_that_has_ended_cancels_what_it_is_asked(loop: WorkerLoop) -> None:
    assert loop.call(lambda: 7).result(LIMIT_S) == 7
    assert loop.stop()
    with pytest.raises(CancelledError):
        loop.call(lambda: 7).result(LIMIT_S)
    assert not loop.stop()


def test_whoever_asks_while_it_ends_is_answered_or_cancelled(loop: WorkerLoop) -> None:
    """Before, the bell was closed under them, or they waited for ever."""
    futures: list[Future[int]] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            while loop.is_alive or len(futures) < 100:
                futures.append(loop.call(lambda: 7))
        except BaseException as error:
            errors.append(error)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    loop.kill()
    for asker in askers:
        asker.join(LIMIT_S)
    assert not errors
    assert not wait(futures, LIMIT_S).not_done
    assert all(future.cancelled() or future.result() == 7 for future in futures)
