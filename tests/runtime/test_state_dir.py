"""Which runtime is on a state directory, whatever one that was killed has left there."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from runtime.cli import grf
from runtime.cli.common import FAILED, NO_RUNTIME
from runtime.state_dir import (
    LOCK_FILE,
    NOTE_FILE,
    Note,
    StartError,
    has_left_note,
    is_held,
    state_lock,
    take_lock,
    who_runs,
    write_note,
)
from runtime.store.sqlite import SqliteStore

NOTE = Note(os.getpid(), "http://127.0.0.1:8000", "127.0.0.1:1", "token")


def test_nobody_else_on_the_machine_reads_a_state_directory_that_is_made(tmp_path: Path) -> None:
    with state_lock(tmp_path / "above" / "locked"):
        SqliteStore(tmp_path / "above" / "stored" / "grf.db").close()
    modes = [stat.S_IMODE((tmp_path / "above" / name).stat().st_mode) for name in ("locked", "stored")]
    assert modes == [0o700, 0o700]


def test_who_holds_the_lock_is_who_the_note_says(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there yet"
    assert who_runs(directory) is None
    with take_lock(directory):
        assert who_runs(directory) is None, "it has not said who it is"
        write_note(directory, NOTE)
        assert who_runs(directory) == NOTE
        with pytest.raises(StartError, match=f"in use by process {os.getpid()} at http://127.0.0.1:8000"):
            take_lock(directory)
    assert not is_held(directory)
    assert who_runs(directory) is None, "its note is stale"
    with take_lock(directory):
        assert who_runs(directory) is None, "and nobody's once another has the lock"
    with state_lock(directory):
        assert is_held(directory)


def test_a_note_is_of_whom_it_names_though_another_command_looks_at_the_lock(tmp_path: Path) -> None:
    take_lock(tmp_path).close()
    write_note(tmp_path, NOTE)
    with (tmp_path / LOCK_FILE).open() as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_EX)
        assert has_left_note(tmp_path, NOTE.pid)
    assert not has_left_note(tmp_path, NOTE.pid + 1)


@pytest.mark.parametrize("content", ["", "7", "[]", "{}", '{"pid": "x", "address": "y"}', "\0"])
def test_a_damaged_note_is_none(tmp_path: Path, content: str) -> None:
    with take_lock(tmp_path):
        (tmp_path / NOTE_FILE).write_text(content)
        assert who_runs(tmp_path) is None


def test_down_does_not_touch_a_process_that_was_given_the_number_of_a_runtime_that_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        take_lock(tmp_path).close()
        write_note(tmp_path, Note(bystander.pid, "http://127.0.0.1:8000", "127.0.0.1:1"))
        done = CliRunner().invoke(grf, ["down", "--set", f"runtime.state_dir={tmp_path}"])
        assert (done.exit_code, bystander.poll()) == (NO_RUNTIME, None)
        assert "nothing runs on" in done.stderr
        scaled = CliRunner().invoke(grf, ["scale", "2", "--set", f"runtime.state_dir={tmp_path}"])
        assert isinstance(scaled.exception, StartError)
        assert bystander.stdin is not None
        bystander.stdin.close()


ENDING = """
import os, signal, sys
from pathlib import Path
from runtime.state_dir import Note, forget_note, take_lock, write_note
directory, saves = Path(sys.argv[1]), sys.argv[2] == "True"
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
lock = take_lock(directory)
write_note(directory, Note(os.getpid(), "http://127.0.0.1:8000", "127.0.0.1:1"))
print(flush=True)
signal.sigwait([signal.SIGTERM])
if saves:
    forget_note(directory)
"""
"""a runtime as far as a state directory knows it, which saves all as it is told to end, or cannot"""


@pytest.mark.parametrize(
    ("saves", "told"), [(True, "grf is down\n"), (False, "grf is down; not everything settled was saved\n")]
)
def test_down_tells_whether_all_was_saved(tmp_path: Path, saves: bool, told: str) -> None:
    arguments = [sys.executable, "-c", ENDING, str(tmp_path), str(saves)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as runtime:
        assert runtime.stdout is not None
        runtime.stdout.readline()
        done = CliRunner().invoke(grf, ["down", "--set", f"runtime.state_dir={tmp_path}"])
    assert (done.stdout, done.exit_code) == (told, 0 if saves else FAILED)
