"""grf query, grf sessions, grf watch."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from runtime.cli.common import client_options, stop_on_signal
from runtime.client import StateClient
from runtime.demo.board import prediction, share_bar

SHOWN_SESSIONS = 30
WAIT_S = 0.25


@click.command()
@click.argument("session")
@client_options
@click.option("--after", "after_version", default=0, help="Wait for a live version of at least this.")
@click.option("--wait", "wait_s", default=0.0, help="How long to wait for it, in seconds.")
@click.option("--context", is_flag=True, help="Include the raw context.")
def query(
    session: str, address: str, tenant: str, token: str, after_version: int, wait_s: float, context: bool
) -> None:
    """Print one session's live and settled state as JSON."""
    with StateClient(address, tenant=tenant, token=token) as client:
        state = client.state(session, after_version=after_version, wait_s=wait_s, include_context=context)
    click.echo(json.dumps(state, indent=2, ensure_ascii=False))


@click.command()
@client_options
def sessions(address: str, tenant: str, token: str) -> None:
    """Print the ids of all sessions, one a line."""
    after, more = "", True
    with StateClient(address, tenant=tenant, token=token) as client:
        while more:
            page, more = client.sessions(after=after, limit=1000)
            for session in page:
                click.echo(session)
            after = page[-1] if page else ""


@click.command()
@click.argument("session", default="")
@client_options
@click.option("--lines", is_flag=True, help="One JSON object a line for each update, instead of a table.")
def watch(session: str, address: str, tenant: str, token: str, lines: bool) -> None:
    """Follow one session, or all, as their state changes. Ctrl-C ends it."""
    with stop_on_signal() as stopped, StateClient(address, tenant=tenant, token=token) as client:
        client.check(timeout_s=5.0)
        if lines:
            while not stopped.is_set():
                for update in client.subscribe(session, timeout_s=WAIT_S):
                    click.echo(json.dumps(update.state | {"correction": update.correction, "missed": update.missed}))
                    if stopped.is_set():
                        break
            return
        states: OrderedDict[str, dict[str, Any]] = OrderedDict()
        with Live(console=Console(), refresh_per_second=8, transient=False) as live:
            while not stopped.is_set():
                for update in client.subscribe(session, timeout_s=WAIT_S):
                    name = update.state["session"]
                    states[name] = update.state
                    states.move_to_end(name)
                    if not update.state["version"]:  # it was deleted
                        del states[name]
                    while len(states) > SHOWN_SESSIONS:
                        states.popitem(last=False)
                    live.update(_table(states))
                    if stopped.is_set():
                        break


def _table(states: OrderedDict[str, dict[str, Any]]) -> Table:
    table = Table()
    for name in ("session", "live", "settled", "watermark", "share in the context", "version", "pending"):
        table.add_column(name, no_wrap=True)
    for name in sorted(states):
        state = states[name]
        live, live_confidence = prediction(state["live"])
        settled, settled_confidence = prediction(state["settled"])
        watermark_s = state["watermark_s"]
        table.add_row(
            name,
            f"{live} {live_confidence:4.0%}",
            f"{settled} {settled_confidence:4.0%}",
            "-" if watermark_s is None else f"{watermark_s:.2f} s",
            share_bar((state["live"] or {}).get("shares", {})),
            str(state["version"]),
            str(state["pending"]),
        )
    return table
