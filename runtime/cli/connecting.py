"""grf connect."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
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

    Ends when all of them have ended. At Ctrl-C what was published becomes durable first. Exits with 4 if one broke.
    """
    from connectors.config import load_config
    from connectors.process import find_beside, run_until_stopped

    find_beside(file)
    options = load_config(file)
    if dry_run:
        sys.exit(asyncio.run(_dry_run(options, seconds)))
    health = run_until_stopped(options)
    for name, how in health.items():
        click.echo(f"{name}: {how}")
    sys.exit(NOT_AS_IT_SHOULD_BE if "broken" in health.values() else 0)


async def _dry_run(options: ConnectOptions, seconds: float) -> int:
    from connectors.dry_run import try_out

    trials = await asyncio.gather(
        *(try_out(entry.from_.for_a_look().build(), entry, seconds) for entry in options.sources.values())
    )
    console = Console()
    for name, trial in zip(options.sources, trials, strict=True):
        console.print(_table(name, trial))
        for line in _remarks(trial):
            console.print(f"  {line}", markup=False)
    return FAILED if any(trial.error for trial in trials) else 0


def _table(name: str, trial: Trial) -> Table:
    table = Table("session", "stream", "modality", "segments", "frames", "first event time", title=name)
    for (session, stream, modality), segments in sorted(trial.streams.items()):
        first = segments[0]
        shape = " x ".join(str(size) for size in first.frames.shape)
        table.add_row(session, stream, modality, str(len(segments)), shape, f"{first.event_time_s:.3f}")
    return table


def _remarks(trial: Trial) -> list[str]:
    keys = ", ".join(f"{key} ({count})" for key, count in sorted(trial.keys.items())[:20])
    tally = trial.tally
    remarks = [f"stream keys: {keys or 'none came'}"]
    if tally.unrouted:
        remarks.append(f"samples that match no route: {tally.unrouted}")
    if tally.bad:
        remarks.append(f"samples that cannot be used: {dict(tally.bad)}; the last: {tally.last_bad}")
    if tally.clock:
        remarks.append(f"time stamps: {dict(tally.clock)}")
    if trial.error:
        remarks.append(f"error: {trial.error}")
    return remarks
