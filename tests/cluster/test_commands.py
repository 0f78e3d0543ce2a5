"""A runtime that is started, changed and ended by commands alone, as scripts and service managers do."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from runtime.client import Publisher, StateClient
from runtime.state_dir import LOG_FILE, NOTE_FILE, is_held, who_runs
from tests.cluster.running import ROOT, RunningRuntime, descendants, grf, kill, wait_until

pytestmark = pytest.mark.cluster


@pytest.fixture
def detached(tmp_path: Path) -> Iterator[RunningRuntime]:
    """`grf up --detach` has said that it is ready."""
    runtime = RunningRuntime(tmp_path / "state")
    done = grf("up", "--detach", *runtime.set_flags())  # which is read to the end of all it says
    try:
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"grf is ready: {runtime.address}; its log is {runtime.state_dir / LOG_FILE}\n"
        assert "grf: starting Ray" in done.stderr
        yield runtime
    finally:
        running = who_runs(runtime.state_dir)
        for pid in descendants(running.pid) if running else ():
            kill(pid)


def on_state_dir(runtime: RunningRuntime, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that is told nothing but where the runtime keeps its state."""
    command = [sys.executable, "-m", "runtime.cli.run", *arguments]
    environment = {**os.environ, "GRF_RUNTIME_STATE_DIR": str(runtime.state_dir)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120, check=False)


def publish(runtime: RunningRuntime) -> None:
    """A segment that is fused and not settled: its stream may go on."""
    with Publisher(runtime.address) as publisher:
        receipt = publisher.publish("s", "wrist", "accelerometer", np.ones((2, 3)), 1.0)
        publisher.wait(receipt, until="fused", timeout_s=30.0)


def test_it_is_scaled_and_brought_down_with_all_saved(detached: RunningRuntime) -> None:
    publish(detached)
    assert "1 serving" in on_state_dir(detached, "status").stdout
    scaled = on_state_dir(detached, "scale", "2")
    assert (scaled.returncode, "2 workers are to serve" in scaled.stdout) == (0, True), scaled.stderr
    wait_until(lambda: len([one for one in detached.cluster() if one["groups"]]) == 2, 60.0, "two workers serve")
    with StateClient(detached.address) as client:
        assert client.state("s")["version"] == 1
    down = on_state_dir(detached, "down")
    assert (down.returncode, down.stdout) == (0, "grf is down\n"), down.stderr
    assert not is_held(detached.state_dir)
    assert not (detached.state_dir / NOTE_FILE).exists()
    assert [file.name for file in detached.state_dir.glob("grf.db*")] == ["grf.db"], "whole, and nothing beside it"
    said = (detached.state_dir / LOG_FILE).read_text()
    assert "grf: all that was settled is saved" in said
    assert "joined as" in said, "and what its processes log"
    assert on_state_dir(detached, "down").returncode == 3, "nothing runs"


def test_a_runtime_that_cannot_start_says_why_to_whoever_detaches_it(tmp_path: Path) -> None:
    runtime = RunningRuntime(tmp_path / "state", "runtime.store=redis://127.0.0.1:1")
    done = grf("up", "--detach", *runtime.set_flags())
    assert done.returncode == 1
    assert "redis" in done.stderr
    assert not is_held(runtime.state_dir)


def test_a_detached_runtime_that_can_write_no_log_is_not_silent(tmp_path: Path) -> None:
    """As on a full disk."""
    runtime = RunningRuntime(tmp_path / "state")
    command = [sys.executable, "-m", "runtime.cli.run", "up", "--detach", *runtime.set_flags()]
    no_files = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0))
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False, preexec_fn=no_files
    )
    assert done.returncode != 0
    assert "could not say why (a full disk?)" in done.stderr


def test_a_runtime_told_to_stop_while_ray_starts_ends_in_order(tmp_path: Path) -> None:
    runtime = RunningRuntime(tmp_path / "state")
    arguments = [sys.executable, "-m", "runtime.cli.run", "up", "--quiet", *runtime.set_flags()]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as up:
        try:
            assert up.stderr is not None
            assert up.stderr.readline() == "grf: starting Ray\n"
            up.send_signal(signal.SIGTERM)
            said, code = up.stderr.read(), up.wait(120)
        finally:
            for pid in descendants(up.pid):
                kill(pid)
    assert (code, said.splitlines()[-1]) == (0, "grf: all that was settled is saved")
    assert not is_held(runtime.state_dir)


def test_a_runtime_whose_terminal_closes_saves_first(tmp_path: Path, hang_up_is_told: None) -> None:
    """Ray's processes are told as well, and there is nowhere to write to."""
    runtime = RunningRuntime(tmp_path / "state")
    arguments = [sys.executable, "-m", "runtime.cli.run", "up", *runtime.set_flags()]
    ours, theirs = os.openpty()
    take_terminal = partial(fcntl.ioctl, theirs, termios.TIOCSCTTY, 0)
    with subprocess.Popen(
        arguments,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=take_terminal,
    ) as up:
        try:
            os.close(theirs)
            with os.fdopen(ours, errors="replace") as terminal:
                assert any("grf is ready" in line for line in terminal)
                publish(runtime)
            assert up.wait(60) == 0, "not everything settled was saved"
        finally:
            for pid in descendants(up.pid):
                kill(pid)
    assert not is_held(runtime.state_dir)


def test_a_model_of_the_operators_own_that_raises_is_told_at_once(tmp_path: Path) -> None:
    runtime = RunningRuntime(tmp_path / "state", "runtime.bundle=python:json:loads")  # which takes no device
    done = grf("up", "--detach", *runtime.set_flags())
    assert done.returncode == 1
    assert "no worker starts: json.decoder.JSONDecodeError: Expecting value" in done.stderr
    assert not is_held(runtime.state_dir)
