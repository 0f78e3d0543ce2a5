"""grf status."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click
import httpx

from runtime.cli.common import FAILED, NO_RUNTIME, NOT_AS_IT_SHOULD_BE, client_options

SHOWN_EVENTS = 10


@click.command()
@client_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def status(address: str, tenant: str, token: str, as_json: bool) -> None:
    """Show the workers: role, process, key groups, load, when they were last heard of; and what has happened lately.

    The exit code is 4 while too few workers are there, one cannot save, or another runtime has the store.
    """
    try:
        answer = httpx.get(f"{address}/v1/cluster", headers={"Authorization": f"Bearer {token}"} if token else {})
        if reason := _refusal(answer):
            click.echo(f"grf: {reason}", err=True)
            sys.exit(FAILED)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        click.echo(f"grf: no runtime answers at {address}: {error}", err=True)
        sys.exit(NO_RUNTIME)
    cluster = answer.json()
    if as_json:
        click.echo(answer.text)
    else:
        _show(cluster)
    sys.exit(0 if is_as_it_should_be(cluster) else NOT_AS_IT_SHOULD_BE)


def is_as_it_should_be(cluster: Mapping[str, Any]) -> bool:
    """Are all workers there that are wanted, and does each serve and save?

    One that is silent beyond its lease is not there, though its role is what it was.
    """
    workers = [worker for worker in cluster["workers"] if worker["heard_s_ago"] < cluster["lease_s"]]
    serving = sum(worker["role"] == "serving" for worker in workers)
    return (
        serving >= cluster["workers_wanted"]
        and len(workers) >= cluster["workers_wanted"] + cluster["standbys_wanted"]
        and not cluster.get("taken_by")
        and not cluster.get("store_error")
        and not any(worker.get("fenced") or worker.get("store_error") for worker in workers)
    )


def _refusal(answer: httpx.Response) -> str:
    """What a gateway that answers says against it; nothing of any other server."""
    if answer.is_success:
        return ""
    try:
        error = answer.json()["error"]
        return f"{error['code']}: {error['message']}"
    except (ValueError, LookupError, TypeError):
        return ""


def _show(cluster: Mapping[str, Any]) -> None:
    for worker in cluster["workers"]:
        for line in _lines(worker):
            click.echo(line)
    click.echo(f"wanted: {cluster['workers_wanted']} serving, {cluster['standbys_wanted']} standing by")
    if taken_by := cluster.get("taken_by"):
        click.echo(f"another runtime uses the same store, and has taken key groups: {', '.join(taken_by)}")
    if error := cluster.get("store_error"):
        click.echo(f"the store does not answer: {error}")
    for event in cluster["events"][-SHOWN_EVENTS:]:
        click.echo(f"{event['ago_s']:8.1f} s ago  {event['kind']}: {event['text']}")


def _lines(worker: Mapping[str, Any]) -> tuple[str, ...]:
    """Of one worker, short enough for a terminal of 80 characters."""
    role = worker["role"] + (", leaves" if worker.get("leaves") else "") + (", fenced" if worker.get("fenced") else "")
    load = f"{worker.get('load', 0):.0f} segments/s, {worker['busy']:.0%} busy"
    return (
        f"{worker['name']}: {role}, process {worker['pid']}, heard of {worker['heard_s_ago']:.1f} s ago",
        f"    {worker['endpoint']} on node {worker.get('node', '')[:12]}",
        f"    {worker['groups']} key groups (epoch {worker.get('newest_epoch', 0)}), {worker['sessions']} sessions",
        f"    {load}, {worker['pending_bytes']} bytes pending",
        *((f"    the store cannot be written: {worker['store_error']}",) if worker.get("store_error") else ()),
    )
