"""grf record, grf replay."""

from __future__ import annotations

import sys
import time
from math import inf
from pathlib import Path

import click
from rich.progress import Progress

from grf_core.recording import RecordedSegment, read_recording
from runtime.cli.common import NOT_AS_IT_SHOULD_BE, client_options, stop_on_signal
from runtime.client import Publisher, StateClient
from runtime.recorder import Recorder
from runtime.replay import play, schedule

FLUSH_WITHIN_S = 120.0
TAP_WAIT_S = 0.2


class Speed(click.ParamType[float]):
    name = "factor|max"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            speed = inf if value == "max" else float(str(value))
        except ValueError:
            speed = 0.0
        if not speed > 0:
            self.fail(f"{value!r} is neither a positive number nor max", param, ctx)
        return speed


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@client_options
@click.option("--speed", type=Speed(), default="1", show_default=True, help="2 is twice as fast; max does not wait.")
@click.option("--prefix", default="", help="Put before every session id, to play beside what was recorded.")
def replay(file: str, address: str, tenant: str, token: str, speed: float, prefix: str) -> None:
    """Play a recording (.grfrec) into a running runtime. Playing it twice changes nothing."""
    reader = read_recording(Path(file))
    due = schedule((record for record in reader if isinstance(record, RecordedSegment)), speed)
    if reader.truncated:
        click.echo(f"grf: {file} ends in the middle of a record; the rest is played", err=True)
    with (
        stop_on_signal() as stopped,
        Publisher(address, tenant=tenant, token=token, client="replay") as publisher,
        Progress(transient=True) as progress,
    ):
        task = progress.add_task("segments", total=len(due))
        play(
            due,
            lambda segment: publisher,
            stopped=stopped.is_set,
            on_published=lambda segment: progress.advance(task),
            rename=lambda session: prefix + session,
        )
        publisher.flush(FLUSH_WITHIN_S)
        stats = publisher.stats
    click.echo(f"published {stats.published}, durable {stats.durable}, refused {stats.refused} (late {stats.late})")
    sys.exit(0 if stats.refused == 0 else NOT_AS_IT_SHOULD_BE)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@client_options
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Stop after so long.  [default: at Ctrl-C]")
def record(file: Path, address: str, tenant: str, token: str, seconds: float | None) -> None:
    """Record every segment that the runtime accepts into FILE (.grfrec), each once. Ctrl-C ends it.

    Exits with 4 if segments were missed because this machine could not keep up.
    """
    ends_s = time.monotonic() + (seconds or inf)
    with stop_on_signal() as stopped, StateClient(address, tenant=tenant, token=token, client="recorder") as client:
        client.check(timeout_s=5.0)
        with Recorder(file, client.signature(), client.tenant()) as recorder:
            click.echo(f"grf: recording to {file}", err=True)
            for tapped in client.tap(timeout_s=TAP_WAIT_S):
                recorder.write(tapped)
                if stopped.is_set() or time.monotonic() >= ends_s:
                    break
    click.echo(f"recorded {recorder.recorded}, missed {recorder.missed}")
    sys.exit(0 if recorder.missed == 0 else NOT_AS_IT_SHOULD_BE)
