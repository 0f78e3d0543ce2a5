"""One runtime on a state directory: the lock that it holds, and the note by which commands find it.

A runtime that has saved everything removes its note as it ends; one that could not, or was killed, leaves it there.

Its process may end without a word, and its number be given to another. So the lock, which ends with the process, says
whether there is a runtime; the note only says which.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

LOCK_FILE = "runtime.lock"
NOTE_FILE = "runtime.json"
LOG_FILE = "runtime.log"
"""of a runtime that was started with --detach"""
PRIVATE = 0o700
"""mode of a state directory that is made: what sessions hold is nobody else's on this machine to read"""
LOOKED_AT_FOR_S = 0.5
"""`is_held` has the lock for a moment, which is no reason not to start"""


class StartError(Exception):
    """The runtime cannot be started, or found; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Note:
    """What a runtime says of itself."""

    pid: int
    address: str
    """of its gateway"""
    ray: str = ""
    """of its Ray; empty until it is ready"""
    ray_auth: str = ""
    """RAY_AUTH_MODE, by which that Ray knows who may connect"""


def take_lock(directory: Path) -> IO[str]:
    """Hold a state directory, made if there is none, until the file is closed. Raises StartError if somebody does."""
    directory.mkdir(PRIVATE, parents=True, exist_ok=True)
    lock = (directory / LOCK_FILE).open("w")
    give_up_at_s = time.monotonic() + LOOKED_AT_FOR_S
    while not _locks(lock):
        if time.monotonic() > give_up_at_s:
            lock.close()
            running = _read(directory)
            who = f"process {running.pid} at {running.address}" if running else "another process"
            raise StartError(f"{directory} is in use by {who}; `grf down` stops it")
        time.sleep(LOOKED_AT_FOR_S / 10)
    forget_note(directory)  # of one that was killed
    return lock


@contextmanager
def state_lock(directory: Path) -> Iterator[None]:
    """Hold the state directory, so that no runtime starts on it. Raises StartError if one runs."""
    with take_lock(directory):
        yield


def write_note(directory: Path, note: Note) -> None:
    (directory / NOTE_FILE).write_text(json.dumps(asdict(note)))


def forget_note(directory: Path) -> None:
    (directory / NOTE_FILE).unlink(missing_ok=True)


def is_held(directory: Path) -> bool:
    """A runtime, or a command that must be alone, holds the state directory."""
    try:
        with (directory / LOCK_FILE).open("r") as lock:
            return not _locks(lock)
    except FileNotFoundError:
        return False


def who_runs(directory: Path) -> Note | None:
    """The runtime on this state directory; None if there is none, whatever one that was killed has left."""
    return _read(directory) if is_held(directory) else None


def has_left_note(directory: Path, pid: int) -> bool:
    """Of this runtime, which has ended: not everything that was settled is saved. The lock is not asked, for other
    commands hold it for a moment; another runtime would have a note of its own."""
    left = _read(directory)
    return left is not None and left.pid == pid


def _locks(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(directory: Path) -> Note | None:
    try:
        content = json.loads((directory / NOTE_FILE).read_text())
        names = "address", "ray", "ray_auth"
        return Note(int(content["pid"]), *(str(content.get(name, "")) for name in names))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
