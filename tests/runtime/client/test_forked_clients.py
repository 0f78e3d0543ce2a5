"""A client in a process that was forked from the one that made it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import pytest

from runtime.client import ClientClosed, Publisher, StateClient
from runtime.engine.policies import EnginePolicy, OrderPolicy
from tests.runtime.worker_harness import LIMIT_S, RunningWorker

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # which is what this is about
FORK = multiprocessing.get_context("fork")
STREAM = ("s", "mic", "audio")
FRAMES = np.ones((2, 3), np.float32)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[RunningWorker]:
    with RunningWorker(tmp_path, engine=EnginePolicy(OrderPolicy(idle_timeout_s=0.02))) as running:
        yield running


def attempt(use: Callable[[], object], told: Queue[str]) -> None:
    try:
        told.put(repr(use()))
    except ClientClosed as error:
        told.put(str(error))


def in_a_fork(use: Callable[[], object]) -> str:
    """What comes of it there."""
    told: Queue[str] = FORK.Queue()
    process = FORK.Process(target=attempt, args=(use, told))
    process.start()
    text = told.get(timeout=LIMIT_S)
    process.join(LIMIT_S)
    assert process.exitcode == 0
    return text


def test_a_forked_process_is_told_that_the_client_is_not_its_own(worker: RunningWorker) -> None:
    with Publisher(worker.endpoint) as publisher, StateClient(worker.endpoint) as reader:
        publisher.wait(publisher.publish(*STREAM, FRAMES, 1.0), timeout_s=LIMIT_S)
        with publisher._driver.changed, reader._driver.changed:  # as another thread may, in the moment of the fork
            for use in (lambda: publisher.publish(*STREAM, FRAMES, 2.0), lambda: reader.state("s")):
                assert "make another one here" in in_a_fork(use)
            assert in_a_fork(publisher.close) == "None"
        publisher.wait(publisher.publish(*STREAM, FRAMES, 3.0), timeout_s=LIMIT_S)
        assert reader.state("s")["version"] == 2, "the one it was forked from goes on"


def test_a_forked_process_may_have_a_client_of_its_own(worker: RunningWorker) -> None:
    def publish() -> int:
        with Publisher(worker.endpoint) as own:
            own.publish(*STREAM, FRAMES, 2.0)
            own.flush(LIMIT_S)
            return own.stats.durable

    with Publisher(worker.endpoint) as publisher:
        publisher.check(LIMIT_S)
        assert in_a_fork(publish) == "1"
