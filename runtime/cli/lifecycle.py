"""grf up, grf down, grf scale, grf drain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import click

from runtime import cluster_runtime
from runtime.cli.common import (
    FAILED,
    NO_RUNTIME,
    ray_option,
    read_settings,
    settings_options,
    stop_on_signal,
)  # fmt: skip
from runtime.keys import KEY_GROUPS
from runtime.local_runtime import DRAIN_S, LocalRuntime, StartError, read_pid_file
from runtime.settings import Settings

DOWN_WITHIN_S = 40.0
UP_WITHIN_S = 180.0


@click.command()
@settings_options
@click.option("--detach", is_flag=True, help="Return once the runtime is ready, and leave it running.")
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
        _start_detached(settings, config, flags)
        return
    runtime = LocalRuntime(settings, show_logs=not quiet)
    with stop_on_signal() as stopped:
        runtime.start(lambda text: click.echo(f"grf: {text}", err=True))
        click.echo(f"grf is ready: {runtime.address}  (dashboard at /, API at /docs)")
        stopped.wait()
        click.echo("grf: stopping", err=True)
        saved = runtime.stop()
    click.echo("grf: all that was settled is saved" if saved else "grf: not everything settled was saved", err=True)
    sys.exit(0 if saved else FAILED)


def _start_detached(settings: Settings, config: str | None, flags: tuple[str, ...]) -> None:
    arguments = [sys.executable, "-m", "runtime.cli.run", "up", "--quiet"]
    arguments += ["--config", config] if config else []
    arguments += [part for flag in flags for part in ("--set", flag)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True)
    assert process.stdout is not None
    line = process.stdout.readline().decode().strip()
    if not line:
        sys.exit(process.wait(UP_WITHIN_S))
    click.echo(line)


@click.command()
@settings_options
@ray_option
def down(config: str | None, flags: tuple[str, ...], ray_address: str) -> None:
    """Stop the runtime of this state directory, or of a Ray cluster; what is settled is saved first."""
    settings = read_settings(config, flags)
    if ray_address:
        with cluster_runtime.connected(ray_address):
            saved = cluster_runtime.stop(DRAIN_S)
        click.echo("grf is down" if saved else "grf is down; not everything settled was saved")
        sys.exit(0 if saved else FAILED)
    running = read_pid_file(settings)
    if running is None:
        click.echo(f"grf: nothing runs on {settings.runtime.state_dir}", err=True)
        sys.exit(NO_RUNTIME)
    pid = running["pid"]
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        click.echo(f"grf: process {pid} is gone already", err=True)
        return
    deadline_s = time.monotonic() + DOWN_WITHIN_S
    while time.monotonic() < deadline_s:
        if read_pid_file(settings) is None:
            click.echo("grf is down")
            return
        time.sleep(0.1)
    click.echo(f"grf: process {pid} has not stopped after {DOWN_WITHIN_S:g} s", err=True)
    sys.exit(FAILED)


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
    settings = read_settings(config, flags)
    running = read_pid_file(settings)
    if running is None:
        raise StartError(f"nothing runs on {settings.runtime.state_dir}; --address names a Ray cluster")
    return str(running["ray"])
