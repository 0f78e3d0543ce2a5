"""grf up, grf down, grf scale, grf drain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

import click

from runtime import cluster_runtime
from runtime.cli.common import (
    FAILED,
    NO_RUNTIME,
    ray_option,
    read_settings,
    settings_options,
    stop_on_signal,
)
from runtime.keys import KEY_GROUPS
from runtime.local_runtime import DRAIN_S, LocalRuntime
from runtime.settings import Settings
from runtime.state_dir import LOG_FILE, PRIVATE, StartError, has_left_note, is_held, who_runs

DOWN_WITHIN_S = 40.0
LOOK_EVERY_S = 0.1


@click.command()
@settings_options
@click.option(
    "--detach", is_flag=True, help="Return once it is ready, and leave it running with its log in the state directory."
)
@click.option("--quiet", is_flag=True, help="Do not show the processes' logs.")
@ray_option
def up(config: str | None, flags: tuple[str, ...], detach: bool, quiet: bool, ray_address: str) -> None:
    """Start the runtime on this machine: a local Ray, one worker, SQLite, the gateway. Ctrl-C stops it.

    With --address it is deployed on a Ray cluster that runs already, and stays when this command ends.
    """
    settings = read_settings(config, flags)
    if ray_address:
        with cluster_runtime.connected(ray_address):
            cluster_runtime.deploy(settings, lambda text: click.echo(f"grf: {text}", err=True))
        click.echo(f"grf is ready on {ray_address}, gateway at port {settings.runtime.http_port}")
        return
    if detach:
        sys.exit(_start_detached(settings, config, flags, quiet))
    runtime = LocalRuntime(settings, show_logs=not quiet)
    with stop_on_signal() as stopped:
        runtime.start(lambda text: click.echo(f"grf: {text}", err=True))
        click.echo(f"grf is ready: {runtime.address}  (dashboard at /, API at /docs)")
        stopped.wait()
        with suppress(OSError):  # who read it may have been told to stop as well, as `tee` is
            click.echo("grf: stopping", err=True)
        saved = runtime.stop()
    click.echo("grf: all that was settled is saved" if saved else "grf: not everything settled was saved", err=True)
    sys.exit(0 if saved else FAILED)


def _start_detached(settings: Settings, config: str | None, flags: tuple[str, ...], quiet: bool) -> int:
    """Start it in a terminal session of its own, and wait until it is ready; the exit code."""
    arguments = [sys.executable, "-m", "runtime.cli.run", "up", *(["--quiet"] if quiet else [])]
    arguments += ["--config", config] if config else []
    arguments += [part for flag in flags for part in ("--set", flag)]
    directory = Path(settings.runtime.state_dir)
    directory.mkdir(PRIVATE, parents=True, exist_ok=True)
    path = directory / LOG_FILE
    with path.open("ab") as log, path.open("rb") as written:
        began = written.seek(0, os.SEEK_END)
        # Nothing of ours: who reads what we say to its end would wait for the runtime's end.
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        while (code := process.poll()) is None and not _is_ready(directory, process.pid):
            _tell_progress(written)
            time.sleep(LOOK_EVERY_S)
        _tell_progress(written)
        if code is not None and written.tell() == began:
            click.echo("grf: it has ended and could not say why (a full disk?); without --detach it does", err=True)
    ready = f"grf is ready: http://{settings.runtime.host}:{settings.runtime.http_port}; " if code is None else "grf: "
    click.echo(f"{ready}its log is {path}", err=code is not None)
    return code or 0


def _is_ready(directory: Path, pid: int) -> bool:
    running = who_runs(directory)
    return running is not None and running.pid == pid and bool(running.ray)


def _tell_progress(written: IO[bytes]) -> None:
    """What the command itself has said since, without the logs of its processes."""
    for line in written.read().decode(errors="replace").splitlines():
        if line.startswith("grf: "):
            click.echo(line, err=True)


@click.command()
@settings_options
@ray_option
def down(config: str | None, flags: tuple[str, ...], ray_address: str) -> None:
    """Stop the runtime of this state directory, or of a Ray cluster; what is settled is saved first."""
    settings = read_settings(config, flags)
    if ray_address:
        with cluster_runtime.connected(ray_address):
            saved = cluster_runtime.stop(DRAIN_S)
        _tell_it_is_down(saved)
    directory = Path(settings.runtime.state_dir)
    running = who_runs(directory)
    if running is None:
        click.echo(f"grf: nothing runs on {directory}", err=True)
        sys.exit(NO_RUNTIME)
    os.kill(running.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + DOWN_WITHIN_S
    while is_held(directory):
        if time.monotonic() > deadline_s:
            click.echo(f"grf: process {running.pid} has not stopped after {DOWN_WITHIN_S:g} s", err=True)
            sys.exit(FAILED)
        time.sleep(LOOK_EVERY_S)
    _tell_it_is_down(not has_left_note(directory, running.pid))


def _tell_it_is_down(saved: bool) -> NoReturn:
    click.echo("grf is down" if saved else "grf is down; not everything settled was saved")
    sys.exit(0 if saved else FAILED)


@click.command()
@click.argument("workers", type=click.IntRange(1, KEY_GROUPS))
@settings_options
@ray_option
def scale(workers: int, config: str | None, flags: tuple[str, ...], ray_address: str) -> None:
    """Let WORKERS workers serve, while streams flow. Key groups move; nothing is lost and nobody is told an error."""
    with cluster_runtime.connected(_ray_of(config, flags, ray_address)):
        cluster_runtime.scale(workers)
    click.echo(f"{workers} workers are to serve: `grf status` shows them come and go")


@click.command()
@click.argument("name")
@settings_options
@ray_option
def drain(name: str, config: str | None, flags: tuple[str, ...], ray_address: str) -> None:
    """Empty and end the worker NAME, or all workers of the node NAME; others take over what they have."""
    with cluster_runtime.connected(_ray_of(config, flags, ray_address)):
        names = cluster_runtime.drain(name)
    if not names:
        click.echo(f"grf: there is no worker and no node {name!r}: see `grf status`", err=True)
        sys.exit(FAILED)
    click.echo(f"{', '.join(names)}: being drained")


def _ray_of(config: str | None, flags: tuple[str, ...], ray_address: str) -> str:
    """Of the runtime that is meant: the cluster that was named, or the Ray that `grf up` has started here."""
    if ray_address:
        return ray_address
    directory = Path(read_settings(config, flags).runtime.state_dir)
    running = who_runs(directory)
    if running is None:
        raise StartError(f"nothing runs on {directory}; --address names a Ray cluster")
    if not running.ray:
        raise StartError(f"process {running.pid} on {directory} is not ready yet")
    if running.ray_auth:  # Ray does not find out by itself where it is given an address
        os.environ.setdefault("RAY_AUTH_MODE", running.ray_auth)
    return running.ray
