"""A client that nobody closed and nobody has any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.client import Publisher, StateClient
from runtime.engine.policies import EnginePolicy, OrderPolicy
from tests.runtime.worker_harness import LIMIT_S, RunningWorker


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[RunningWorker]:
    with RunningWorker(tmp_path, engine=EnginePolicy(OrderPolicy(idle_timeout_s=0.02))) as running:
        yield running


def thread_named(name: str) -> threading.Thread:
    (thread,) = [thread for thread in threading.enumerate() if thread.name == name]
    return thread


def test_a_reader_ends_with_its_thread(worker: RunningWorker) -> None:
    reader = StateClient(worker.endpoint, client="forgotten")
    assert reader.sessions() == ([], False)
    thread, kept = thread_named("forgotten"), [reader]
    del reader
    with pytest.warns(ResourceWarning, match="unclosed <runtime.client.sync_clients.StateClient"):
        kept.clear()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


def test_a_publisher_sends_what_it_holds_and_ends_then(worker: RunningWorker) -> None:
    publisher = Publisher(worker.endpoint, client="forgotten")
    publisher.publish("s", "mic", "audio", np.ones((2, 3), np.float32), 1.0)
    thread, kept = thread_named("forgotten"), [publisher]
    del publisher
    with pytest.warns(ResourceWarning, match="unclosed <runtime.client.sync_clients.Publisher"):
        kept.clear()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    with StateClient(worker.endpoint) as reader:
        assert reader.state("s")["durable_version"] == 1


@pytest.mark.filterwarnings("error::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_ends_also_where_warnings_are_errors(worker: RunningWorker) -> None:
    kept = [StateClient(worker.endpoint, client="forgotten")]
    thread = thread_named("forgotten")
    kept.clear()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
