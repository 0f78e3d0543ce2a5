"""grf connect."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.table import Table

from runtime.cli.common import FAILED, NOT_AS_IT_SHOULD_BE

if TYPE_CHECKING:
    from connectors.config import ConnectOptions
    from connectors.dry_run import Trial


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Open the sources, show what would be published, publish nothing.")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="How long, for --dry-run."
)
def connect(file: Path, dry_run: bool, seconds: float) -> None:
    """Publish what the sources of FILE (YAML, docs/connectors.md) tell: brokers, recordings, devices.

    Ends when all of them have ended. At Ctrl-C what was published becomes durable first. Exits with 4 if one broke, if
    segments were refused or dropped (with --dry-run: if the model would refuse some), or if nothing came of what a
    source gave.
    """
    from connectors.config import load_config
    from connectors.process import find_beside, run_until_stopped

    find_beside(file)
    options = load_config(file)
    if dry_run:
        sys.exit(asyncio.run(_dry_run(options, seconds)))
    sys.exit(run_until_stopped(options))


async def _dry_run(options: ConnectOptions, seconds: float) -> int:
    from connectors.dry_run import try_out
    from connectors.model_fit import ask_for_modalities, faults

    # All of them before the first is opened: one that cannot be made is told by itself.
    sources = [(entry.from_.for_a_look().build(), entry) for entry in options.sources.values()]
    looks = [try_out(source, entry, seconds) for source, entry in sources]
    modalities, trials = await asyncio.gather(ask_for_modalities(options.runtime), asyncio.gather(*looks))
    console, n_faults = Console(), 0
    for (name, entry), trial in zip(options.sources.items(), trials, strict=True):
        console.print(f"[bold]{name}[/]")
        if trial.streams:
            console.print(_table(trial))
        elif not trial.error:
            console.print(f"no segment came of it within {seconds:g} s")
        for line in _remarks(trial):
            _print_whole(console, line)
        for fault in faults(trial, entry.routes, modalities) if modalities is not None else ():
            _print_whole(console, f"the model would refuse: {fault}")
            n_faults += 1
    if modalities is None:
        address = options.runtime.address
        _print_whole(console, f"no runtime answers at {address}: what its model takes was not compared with this")
    if any(trial.error for trial in trials):
        return FAILED
    return NOT_AS_IT_SHOULD_BE if n_faults else 0


def _print_whole(console: Console, line: str) -> None:
    """A path stays in one piece."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(trial: Trial) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("session", "stream", "modality"):
        table.add_column(column, overflow="fold")
    for column in ("segments", "first event, UTC"):
        table.add_column(column, no_wrap=True)
    for (session, stream, modality), segments in sorted(trial.streams.items()):
        first = segments[0]
        shape = " x ".join(str(size) for size in first.frames.shape)
        table.add_row(session, stream, modality, f"{len(segments)} of {shape}", _moment(first.event_time_s))
    return table


def _moment(event_time_s: float) -> str:
    """Date and time; seconds for what no calendar has."""
    try:
        return datetime.fromtimestamp(event_time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{event_time_s:.3f} s"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def _remarks(trial: Trial) -> list[str]:
    keys = ", ".join(f"{key} ({count})" for key, count in sorted(trial.keys.items())[:20])
    tally = trial.tally
    remarks = [f"stream keys: {keys or 'none came'}"]
    if tally.unrouted:
        remarks.append(f"samples that match no route: {tally.unrouted}")
    if tally.bad:
        remarks.append(f"samples that cannot be used: {_counts(tally.bad)}; the last: {tally.last_bad}")
    if tally.clock:
        remarks.append(f"time stamps: {_counts(tally.clock)}")
    if trial.error:
        remarks.append(f"error: {trial.error}")
    return remarks
