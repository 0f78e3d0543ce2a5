from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.running import RunningRuntime


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRuntime]:
    """One running runtime for the tests of a module; nothing of it is left afterwards."""
    running = RunningRuntime(tmp_path_factory.mktemp("grf") / "state")
    running.start()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def motion_recording(tmp_path: Path) -> Path:
    """Two sessions of two streams, in the recording format, ten seconds of event time."""
    from tests.cluster.recorded import write_recording

    path = tmp_path / "two.grfrec"
    write_recording(path, ["recorded-a", "recorded-b"], segments=20)
    return path


def pause(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def resume(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)
