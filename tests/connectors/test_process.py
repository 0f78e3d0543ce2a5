"""The signals that end `grf connect`."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from connectors import process
from connectors.config import ConnectOptions
from connectors.outcome import Outcome
from connectors.snapshots import StateFolder


class Signalled:
    """In place of the sources: this process is told to end."""

    number = signal.SIGTERM
    is_told = True

    def __init__(self, options: ConnectOptions, folder: StateFolder) -> None:
        self.outcomes: dict[str, Outcome] = {}

    async def run(self, stop: asyncio.Event) -> None:
        signal.raise_signal(self.number)
        if self.is_told:
            await asyncio.wait_for(stop.wait(), 5.0)
        assert stop.is_set() == self.is_told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_in_order(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang_up_is_told: None
) -> None:
    monkeypatch.setattr(Signalled, "number", number)
    monkeypatch.setattr(process, "Supervisor", Signalled)
    options = ConnectOptions.model_construct(state_dir=str(tmp_path), sources={})
    assert process.run_until_stopped(options) == 0


def test_below_nohup_a_closed_terminal_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Signalled, "number", signal.SIGHUP)
    monkeypatch.setattr(Signalled, "is_told", False)
    monkeypatch.setattr(process, "Supervisor", Signalled)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        options = ConnectOptions.model_construct(state_dir=str(tmp_path), sources={})
        assert process.run_until_stopped(options) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
