"""`grf up` without a runtime: what it does when it is told to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import click
import pytest
from click.testing import CliRunner

from runtime.cli import grf, lifecycle

STOPPED: list[str] = []


class Runtime:
    """Told to stop as soon as it has started."""

    address = "http://127.0.0.1:8000"

    def __init__(self, *_: Any, **__: Any) -> None:
        STOPPED.clear()

    def start(self, on_progress: Callable[[str], None]) -> None:
        signal.raise_signal(signal.SIGINT)

    def stop(self) -> bool:
        STOPPED.append("saved")
        return True


def test_it_saves_also_where_nobody_reads_any_more_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """As below `2>&1 | tee`, which Ctrl-C ends too."""

    def echo(text: str, err: bool = False) -> None:
        if err:
            raise BrokenPipeError

    monkeypatch.setattr(lifecycle, "LocalRuntime", Runtime)
    monkeypatch.setattr(click, "echo", echo)
    CliRunner().invoke(grf, ["up"])
    assert STOPPED == ["saved"]
