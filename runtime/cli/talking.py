"""grf demo talk."""

from __future__ import annotations

import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live

from runtime.cli.common import FAILED, NOT_AS_IT_SHOULD_BE, read_settings, settings_options, stop_on_signal
from runtime.local_runtime import LocalRuntime

if TYPE_CHECKING:
    from runtime.demo.staging import Span
    from runtime.demo.talk import TalkDemo

SETTINGS = ("runtime.bundle=bundles/grid-s1", "order.lateness_s=1.0")
"""Where both cores are busy, lips come later than sound."""
REFRESH_S = 0.2


def _span(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Span:
    from runtime.demo.staging import NEVER, parse_span

    try:
        return NEVER if value is None else parse_span(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@settings_options
@click.option(
    "--video",
    "videos",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with somebody talking; repeatable, played one after another.",
)
@click.option("--webcam", is_flag=True, help="The first camera and microphone of this machine, until Ctrl-C.")
@click.option("--mute-audio", "mute", callback=_span, metavar="A..B", help="No sound from second A to second B.")
@click.option("--cover-face", "cover", callback=_span, metavar="A..B", help="No face from second A to second B.")
def talk(
    config: str | None, flags: tuple[str, ...], videos: tuple[Path, ...], webcam: bool, mute: Span, cover: Span
) -> None:
    """Start the runtime and fuse what somebody says in a video, from lips and sound, live in the terminal.

    The model knows one talker of the GRID corpus (bundles/grid-s1): its answers mean something for a clip of that
    talker. With anybody else it shows how the parts work together. Needs `make setup-media`.
    """
    if videos and webcam:
        raise click.UsageError("give --video FILE or --webcam, not both")
    if not videos and not webcam:
        raise click.UsageError("give a file with somebody talking (--video FILE), or --webcam; none is shipped")
    from runtime.demo.talk import TalkDemo
    from runtime.demo.talk_videos import from_devices, from_files

    shown = [from_devices()] if webcam else from_files(videos)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="grf-talk-") as state_dir, stop_on_signal() as stopped:
        settings = read_settings(config, (*SETTINGS, *flags))
        runtime = LocalRuntime(replace(settings, runtime=replace(settings.runtime, state_dir=state_dir)))
        with console.status("starting") as status:
            runtime.start(lambda text: status.update(text))
        try:
            show = TalkDemo(runtime.address, shown, mute=mute, cover=cover)
            try:
                code = _play(console, runtime.address, show, mute, cover, stopped)
            finally:
                show.close()
        finally:
            with console.status("stopping"):
                runtime.stop()
    sys.exit(code)


def _play(console: Console, address: str, show: TalkDemo, mute: Span, cover: Span, stopped: threading.Event) -> int:
    """Play, then tell the outcome; the exit code."""
    from runtime.demo.talk_board import live_board, summary

    title = f"grf demo talk   {address}   Ctrl-C ends it"
    show.start()
    with Live(console=console, refresh_per_second=1 / REFRESH_S, transient=True) as live:
        while show.is_playing and not stopped.is_set():
            live.update(live_board(title, show.watched, mute, cover))
            stopped.wait(REFRESH_S)
    with console.status("waiting until all is durable"):
        show.stop()
    console.print(summary(show.watched))
    if any(sum(one.segments.values()) != one.settled_segments for one in show.watched):
        return NOT_AS_IT_SHOULD_BE
    return FAILED if any(one.health == "broken" for one in show.watched) else 0
