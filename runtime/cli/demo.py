"""grf demo."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from dataclasses import replace
from math import inf

import click
from rich.console import Console
from rich.live import Live

from runtime.cli.common import NOT_AS_IT_SHOULD_BE, read_settings, settings_options, stop_on_signal
from runtime.cli.talking import talk
from runtime.demo import motion
from runtime.demo.board import live_board, summary
from runtime.demo.playlist import playlist, rounds_in
from runtime.local_runtime import LocalRuntime

LANES = 8
ROUNDS_WITHOUT_END = 1000
REFRESH_S = 0.2
FLUSH_WITHIN_S = 60.0


@click.group(invoke_without_command=True)
@settings_options
@click.option("--seconds", type=click.FloatRange(min=1), help="Play so long, then end.  [default: until Ctrl-C]")
@click.option("--lanes", default=LANES, show_default=True, help="Recordings side by side.")
@click.pass_context
def demo(ctx: click.Context, config: str | None, flags: tuple[str, ...], seconds: float | None, lanes: int) -> None:
    """Start the runtime and play real smart-watch recordings into it: fused state, live, in the terminal.

    Exits with 0 if nothing was lost or counted twice, else with 4. `grf demo talk` shows somebody talking instead.
    """
    if ctx.invoked_subcommand is not None:
        return
    console = Console()
    recordings = motion.recordings()
    rounds = rounds_in(seconds, recordings) if seconds else ROUNDS_WITHOUT_END
    plays = playlist(recordings, lanes, rounds)
    with tempfile.TemporaryDirectory(prefix="grf-demo-") as state_dir, stop_on_signal() as stopped:
        settings = read_settings(config, flags)
        settings = replace(settings, runtime=replace(settings.runtime, state_dir=state_dir))
        runtime = LocalRuntime(settings)
        with console.status("starting") as status:
            runtime.start(lambda text: status.update(text))
        try:
            show = motion.MotionDemo(runtime.address, plays)
            try:
                code = _play(console, runtime.address, show, seconds or inf, stopped)
            finally:
                show.close()
        finally:
            with console.status("stopping"):
                runtime.stop()
    sys.exit(code)


demo.add_command(talk)


def _play(console: Console, address: str, show: motion.MotionDemo, seconds: float, stopped: threading.Event) -> int:
    """Play, then tell the outcome; the exit code."""
    title = f"grf demo   {address}   Ctrl-C ends it"
    show.start()
    ends_s = time.monotonic() + seconds
    with Live(console=console, refresh_per_second=1 / REFRESH_S, transient=True) as live:
        while show.is_playing and not stopped.is_set() and time.monotonic() < ends_s:
            live.update(live_board(title, show.playing_now(), show.states, show.figures(show.states)))
            stopped.wait(REFRESH_S)
    show.stop()
    with console.status("waiting until all is durable"):
        outcome = show.outcome(FLUSH_WITHIN_S)
    console.print(summary(show.played(), outcome.states, outcome.figures, outcome.digest))
    return 0 if outcome.figures.lost == outcome.figures.double == 0 else NOT_AS_IT_SHOULD_BE
