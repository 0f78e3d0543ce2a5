"""The signals that end a command, and what is told of one that failed."""

from __future__ import annotations

import json
import os
import signal

import pytest

from grf_core.bundle import BundleError
from runtime.cli.common import failure_text, shown, stop_on_signal
from runtime.keys import InvalidId, check_id


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
