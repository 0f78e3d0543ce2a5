"""grf up, grf down, grf status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import click
import httpx
from rich.console import Console
from rich.table import Table

from runtime.cli.common import FAILED, NO_RUNTIME, client_options, read_settings, settings_options, stop_on_signal
from runtime.local_runtime import LocalRuntime, read_pid_file
from runtime.settings import Settings

DOWN_WITHIN_S = 40.0
UP_WITHIN_S = 180.0


@click.command()
@settings_options
@click.option("--detach", is_flag=True, help="Return once the runtime is ready, and leave it running.")
@click.option("--quiet", is_flag=True, help="Do not show the processes' logs.")
def up(config: str | None, flags: tuple[str, ...], detach: bool, quiet: bool) -> None:
    """Start the runtime on this machine: a local Ray, one worker, SQLite, the gateway. Ctrl-C stops it."""
    settings = read_settings(config, flags)
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
def down(config: str | None, flags: tuple[str, ...]) -> None:
    """Stop the runtime that runs on this state directory; what is settled is saved first."""
    settings = read_settings(config, flags)
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
@client_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def status(address: str, tenant: str, token: str, as_json: bool) -> None:
    """Show the workers: role, sessions, pending bytes, when they were last heard of."""
    try:
        answer = httpx.get(f"{address}/v1/cluster", headers={"Authorization": f"Bearer {token}"} if token else {})
        answer.raise_for_status()
    except httpx.HTTPError as error:
        click.echo(f"grf: no runtime answers at {address}: {error}", err=True)
        sys.exit(NO_RUNTIME)
    if as_json:
        click.echo(answer.text)
        return
    table = Table()
    for name in ("worker", "role", "pid", "endpoint", "key groups", "sessions", "pending bytes", "heard of"):
        table.add_column(name)
    for worker in answer.json()["workers"]:
        table.add_row(
            worker["name"],
            worker["role"],
            str(worker["pid"]),
            worker["endpoint"],
            str(worker["groups"]),
            str(worker["sessions"]),
            str(worker["pending_bytes"]),
            f"{worker['heard_s_ago']:.1f} s ago",
        )
    Console().print(table)
