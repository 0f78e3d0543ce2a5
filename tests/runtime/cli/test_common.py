"""The signals that end a command, and what is told of one that failed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from grf_core.bundle import BundleError
from runtime.cli.common import client_options, failure_text, shown, stop_on_signal
from runtime.keys import InvalidId, check_id
from runtime.state_dir import Note, take_lock, write_note


def test_what_others_wrote_commands_no_terminal() -> None:
    text = "é \x1b[31m\x9b2J\x7f\ud800\n"
    assert shown(text) == "é \\u001b[31m\\u009b2J\\u007f\\ud800\n"
    assert shown(json.dumps("é\x7f", ensure_ascii=False)) == '"é\\u007f"'
    error = BundleError("config.json", "\x1b]0;", "unknown field")
    assert failure_text(error) == "config.json: \\u001b]0;: unknown field"


def test_an_id_from_the_command_line_that_is_no_text_is_an_expected_failure() -> None:
    with pytest.raises(InvalidId) as refused:
        check_id("session", os.fsdecode(b"\xff"))
    assert failure_text(refused.value) == "session is not valid Unicode text"


def test_settings_tell_which_runtime_is_asked(tmp_path: Path) -> None:
    @click.command()
    @client_options
    def ask(address: str, tenant: str, token: str) -> None:
        click.echo(address)

    def asked(*arguments: str, **environment: str) -> str:
        return CliRunner(env=environment).invoke(ask, arguments).output.strip()

    elsewhere = tmp_path / "elsewhere"
    file = tmp_path / "grf.toml"
    file.write_text(f'[runtime]\nstate_dir = "{elsewhere}"\nhttp_port = 7000\n')
    assert asked("--config", str(file)) == "http://127.0.0.1:7000", "nothing runs there"
    with take_lock(elsewhere):
        write_note(elsewhere, Note(os.getpid(), "http://127.0.0.1:7001", "127.0.0.1:1", "token"))
        assert asked("--config", str(file)) == "http://127.0.0.1:7001"
        assert asked(GRF_CONFIG=str(file)) == "http://127.0.0.1:7001"
        assert asked("--set", f"runtime.state_dir={elsewhere}") == "http://127.0.0.1:7001"
        assert asked("--config", str(file), "--address", "http://127.0.0.1:7002") == "http://127.0.0.1:7002"
    assert "no such setting" in asked("--set", "runtime.port=7")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_an_event_and_a_second_one_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as stopped:
        signal.raise_signal(number)
        assert stopped.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_a_terminal_that_closes_may_tell_twice(hang_up_is_told: None) -> None:
    with stop_on_signal() as stopped:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert stopped.is_set()


def test_below_nohup_a_closed_terminal_does_not_end_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as stopped:
            signal.raise_signal(signal.SIGHUP)
            assert not stopped.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)
