"""kill -9 of processes that write: what they said is saved is there, whole, and nothing else is half there."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from math import inf
from pathlib import Path

import pytest

from runtime.store.base import Ownership
from runtime.store.sqlite import SqliteStore
from tests.runtime.store.samples import assert_same, key, owned, record
from tests.runtime.store.writer import HISTORY_LENGTH, KEYS

ROOT = Path(__file__).parents[3]
PAGE = 4096


def write_and_kill(path: Path, after_saves: int) -> int:
    """Kill a writer in the middle of its work once it has saved that often; the last version it printed."""
    command = [sys.executable, "-m", "tests.runtime.store.writer", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        printed = [writer.stdout.readline() for _ in range(after_saves)]
        writer.kill()
        printed += writer.stdout.readlines()
    return int([line for line in printed if line.endswith("\n")][-1])


def test_what_a_killed_process_saved_is_there_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    rng = random.Random(3)
    for run in range(1, 6):
        acknowledged = write_and_kill(path, after_saves=rng.randint(1, 60))
        assert Path(f"{path}-wal").stat().st_size > 0, "the kill left something to recover"
        store = SqliteStore(path, history_length=HISTORY_LENGTH)
        found = store.load(KEYS)
        (version,) = {each.version for each in found.values()}
        assert version >= acknowledged
        for each in KEYS:
            assert_same(found[each], record(each, version))
            rows = store.history(each, -inf, inf, 100)
            assert [row.version for row in rows] == list(range(max(1, version - HISTORY_LENGTH + 1), version + 1))
        assert set(store.ownership().values()) == {Ownership("writer", run)}
        store.close()
        assert_structure(path)


def assert_structure(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99, 1.0])
def test_a_store_whose_checkpoint_was_cut_short_opens_with_all_it_holds(tmp_path: Path, share: float) -> None:
    """A checkpoint copies pages from the -wal file in their order: at first the one that says how many there are."""
    writer = SqliteStore(tmp_path / "writer.db")
    assert writer._connection is not None
    writer._connection.execute("PRAGMA wal_autocheckpoint = 0")
    keys = [key(f"session-{number:03}") for number in range(300)]
    epochs = owned(writer, *keys)
    writer.save(epochs, [])  # the first save of a store empties that file
    writer.save(epochs, [record(each) for each in keys])
    before, wal = (Path(f"{writer.path}{end}").read_bytes() for end in ("", "-wal"))
    writer._connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
    after = writer.path.read_bytes()
    writer.close()
    assert len(after) > 100 * PAGE > len(before)

    copied = int(share * len(after) / PAGE) * PAGE
    path = tmp_path / "state.db"
    path.write_bytes(after[:copied] + before[copied:])
    Path(f"{path}-wal").write_bytes(wal)
    store = SqliteStore(path)
    found = store.load(keys)
    for each in keys:
        assert_same(found[each], record(each))
    store.close()
    assert_structure(path)


MAKE_HALF_A_STORE = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN EXCLUSIVE")
connection.execute("CREATE TABLE sessions (tenant, session, record)")
connection.execute("PRAGMA application_id = 1196574291")
for number in range(100):  # more than the cache holds, so that some of it is written to the file
    connection.execute("INSERT INTO sessions VALUES ('t', ?, zeroblob(4000))", (number,))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_store_left_half_made_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    subprocess.run([sys.executable, "-c", MAKE_HALF_A_STORE, path], timeout=30)
    assert path.stat().st_size > 0
    assert Path(f"{path}-journal").stat().st_size > 0
    store = SqliteStore(path)
    assert list(store.records()) == []
    store.save(owned(store, key("a")), [record(key("a"))])
    store.close()


@pytest.mark.parametrize("leftover", ["-wal", "-shm", "-journal"])
def test_empty_leftovers_of_a_crash_do_no_harm(tmp_path: Path, leftover: str) -> None:
    path = tmp_path / "state.db"
    SqliteStore(path).close()
    Path(f"{path}{leftover}").touch()
    store = SqliteStore(path)
    store.save(owned(store, key("a")), [record(key("a"))])
    store.close()
