"""A store that is away: said clearly, nothing half written, and the same object works again once it is back."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.store import sqlite_file
from runtime.store.base import StoreUnavailable
from runtime.store.sqlite import SqliteStore, read_records
from tests.runtime.store.conftest import BreakableDisk, make_read_only, read_only
from tests.runtime.store.samples import assert_same, key, owned, record, save

BIG = 40_000
"""floats of a context that does not fit where little is left"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, busy_timeout_s=0.05)
    yield store
    store.close()


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


# ---- disk full ----


def test_a_full_disk_refuses_saves_but_not_loads_and_works_once_there_is_space(small_disk: Path) -> None:
    store = SqliteStore(small_disk / "state.db")
    of = [key(session) for session in "abc"]
    epochs = owned(store, *of)
    store.save(epochs, [record(each, version=1) for each in of])
    filler = fill(small_disk)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"state\.db: the disk is full: free some space"):
            store.save(epochs, [record(of[0], version=2), record(of[1], version=2, width=BIG)])
        for each, found in store.load(of).items():
            assert_same(found, record(each, version=1))
    with pytest.raises(StoreUnavailable, match="disk"):
        SqliteStore(small_disk / "another.db")
    filler.unlink()
    store.save(epochs, [record(each, version=2) for each in of])
    assert {found.version for found in store.load(of).values()} == {2}
    store.close()


@pytest.mark.parametrize("is_in_use", [True, False])
def test_all_can_be_read_while_the_disk_is_full(small_disk: Path, is_in_use: bool) -> None:
    store = SqliteStore(small_disk / "state.db")
    of = [key(session) for session in "abc"]
    save(store, *(record(each) for each in of))
    if not is_in_use:
        store.close()
    fill(small_disk)
    assert [found.key for found in read_records(store.path, 256)] == of
    store.close()


def test_a_store_at_its_limit_of_pages_refuses_what_does_not_fit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same error without root: SQLite's own limit on the size of the file."""
    monkeypatch.setattr(sqlite_file, "PRAGMAS", (*sqlite_file.PRAGMAS, "PRAGMA max_page_count = 40"))
    store = SqliteStore(path)
    epochs = owned(store, key("a"), key("b"))
    store.save(epochs, [record(key("a"), version=1)])
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        store.save(epochs, [record(key("a"), version=2), record(key("b"), width=BIG)])
    assert_same(store.load([key("a")])[key("a")], record(key("a"), version=1))
    store.save(epochs, [record(key("a"), version=2)])
    store.close()


# ---- read-only, input/output errors ----


def test_a_disk_that_turns_read_only_is_told_and_works_once_repaired(breakable_disk: BreakableDisk) -> None:
    store = SqliteStore(breakable_disk.path / "state.db")
    epochs = owned(store, key("a"))
    store.save(epochs, [record(key("a"), version=1)])
    breakable_disk.turn_read_only()
    with pytest.raises(StoreUnavailable, match="input/output error"):
        store.save(epochs, [record(key("a"), version=2)])
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="read-only"):
            store.save(epochs, [record(key("a"), version=2)])
    breakable_disk.repair()
    assert_same(store.load([key("a")])[key("a")], record(key("a"), version=1))
    store.save(epochs, [record(key("a"), version=2)])
    store.close()


@pytest.mark.parametrize("left", [("",), ("", "-wal"), ("", "-wal", "-shm")])
def test_a_store_on_a_medium_that_is_read_only_is_read_with_all_that_a_crash_has_left(
    small_disk: Path, path: Path, left: tuple[str, ...]
) -> None:
    store = SqliteStore(path)
    save(store, *(record(key(session)) for session in "abc"))
    if left == ("",):
        store.close()  # else it is in the -wal file alone
    for suffix in left:
        shutil.copyfile(f"{path}{suffix}", small_disk / f"state.db{suffix}")
    store.close()
    make_read_only(small_disk)
    found = list(read_records(small_disk / "state.db", 256))
    for one, session in zip(found, "abc", strict=True):
        assert_same(one, record(key(session)))


def test_a_store_that_can_be_read_nowhere_says_so(
    small_disk: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SqliteStore(small_disk / "state.db").close()
    make_read_only(small_disk)
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(
        StoreUnavailable, match=r"state\.db: cannot be read where it is, nor from a copy in .*\(TMPDIR\)"
    ):
        list(read_records(small_disk / "state.db", 256))


def test_a_read_only_file_is_told_at_the_first_save_at_the_latest(store: SqliteStore, path: Path) -> None:
    epochs = owned(store, key("a"))
    store.save(epochs, [record(key("a"), version=1)])
    store.close()
    with read_only(path), pytest.raises(StoreUnavailable, match=r"state\.db: read-only: make it, its -wal"):
        SqliteStore(path).save(epochs, [record(key("a"), version=2)])
    store = SqliteStore(path)
    assert_same(store.load([key("a")])[key("a")], record(key("a"), version=1))
    store.save(epochs, [record(key("a"), version=2)])
    store.close()


def test_a_read_only_directory_is_told(read_only_directory: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened: is the path right"):
        SqliteStore(read_only_directory / "state.db")
    with pytest.raises(StoreUnavailable, match=r"(not permitted|denied): \S*/read-only/missing"):
        SqliteStore(read_only_directory / "missing" / "state.db")


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Writes beyond this offset of any file fail with EFBIG, an error like any other of a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_input_output_error_in_the_middle_of_a_save_leaves_what_was_there(store: SqliteStore) -> None:
    epochs = owned(store, key("a"), key("b"))
    store.save(epochs, [record(key("a"), version=1)])
    for _ in range(3):
        with files_up_to(200_000), pytest.raises(StoreUnavailable, match=r"input/output error.*SQLITE_IOERR_WRITE"):
            store.save(epochs, [record(key("a"), version=2), record(key("b"), width=4 * BIG)])
    assert store.load([key("a"), key("b")]).keys() == {key("a")}
    assert_same(store.load([key("a")])[key("a")], record(key("a"), version=1))
    store.save(epochs, [record(key("a"), version=2), record(key("b"), width=4 * BIG)])
    assert store.load([key("a"), key("b")]).keys() == {key("a"), key("b")}


# ---- locks ----

HOLD_THE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
if sys.argv[2] == "all":
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
connection.execute("BEGIN EXCLUSIVE")
connection.execute("INSERT INTO groups VALUES (1, 'somebody', 1)")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked_by_another_process(path: Path, what: str) -> Iterator[None]:
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(path), what]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        yield
        other.kill()  # it ends without a COMMIT


def test_a_store_locked_by_another_process_is_told_and_works_once_that_is_gone(store: SqliteStore, path: Path) -> None:
    epochs = owned(store, key("a"))
    store.save(epochs, [record(key("a"), version=1)])
    with locked_by_another_process(path, "writing"):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="locked by another process"):
                store.save(epochs, [record(key("a"), version=2)])
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            store.claim("worker-2", {1: 0})
        assert store.load([key("a")])[key("a")].version == 1
    store.save(epochs, [record(key("a"), version=2)])
    assert store.claim("worker-2", {1: 0}) == {1: 1}


def test_a_store_locked_for_readers_too_is_told_when_it_is_opened(path: Path) -> None:
    SqliteStore(path).close()
    with (
        locked_by_another_process(path, "all"),
        pytest.raises(StoreUnavailable, match="locked by another process"),
    ):
        SqliteStore(path, busy_timeout_s=0.05)
    SqliteStore(path).close()


# ---- paths ----


def test_missing_directories_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b c" / "?#%é" / "state.db"
    SqliteStore(path).close()
    assert path.exists()


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="Not a directory"):
        SqliteStore(tmp_path / "file" / "below" / "state.db")


def test_a_directory_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        SqliteStore(tmp_path)


@pytest.mark.parametrize("name", ["state.db", "state.db-wal"])
def test_nothing_is_saved_into_a_file_that_was_taken_away(store: SqliteStore, path: Path, name: str) -> None:
    epochs = owned(store, key("a"))
    store.save(epochs, [record(key("a"), version=1)])
    os.rename(path.parent / name, path.parent / "elsewhere")
    with pytest.raises(StoreUnavailable, match="moved, deleted or replaced while in use"):
        store.save(epochs, [record(key("a"), version=2)])
    if name == "state.db":
        with pytest.raises(StoreUnavailable, match="missing or empty"):
            store.load([key("a")])
        assert not path.exists(), "no new store is made in its place"
        os.rename(path.parent / "elsewhere", path)
    store.save(epochs, [record(key("a"), version=3)])
    assert SqliteStore(path).load([key("a")])[key("a")].version == 3


def test_a_backup_put_in_the_place_of_a_store_in_use_is_not_mixed_with_it(store: SqliteStore, path: Path) -> None:
    controllers = SqliteStore(path)
    epochs = owned(store, key("a"))
    store.save(epochs, [record(key("a"), version=1)])
    SqliteStore(path.parent / "backup.db").close()
    backup = (path.parent / "backup.db").read_bytes()
    os.rename(path, path.parent / "former.db")
    os.rename(path.parent / "backup.db", path)
    with pytest.raises(StoreUnavailable, match="moved, deleted or replaced while in use"):
        store.save(epochs, [record(key("a"), version=2)])
    with pytest.raises(StoreUnavailable, match="another file is in its place"):
        store.save(epochs, [record(key("a"), version=3)])
    assert path.read_bytes() == backup
    os.rename(path.parent / "former.db", path)
    store.save(epochs, [record(key("a"), version=4)])
    assert controllers.load([key("a")])[key("a")].version == 4
    controllers.close()


# ---- the connection ----


class BreaksAtRollback:
    """A connection that loses its transaction's end, as one on a disk that has gone away may."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "ROLLBACK":
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement, *values)


def test_a_connection_that_cannot_roll_back_is_replaced(store: SqliteStore) -> None:
    epochs = owned(store, key("a"))
    assert store._connection is not None
    broken: object = BreaksAtRollback(store._connection)
    store._connection = broken  # type: ignore[assignment]  # it stands for one whose disk has gone away
    with pytest.raises(TypeError):
        store.claim("worker-2/b", {1: 0, object(): 0})  # type: ignore[dict-item]  # which no statement can hold
    store.save(epochs, [record(key("a"))])
    assert store._connection is not broken
    assert set(store.ownership()) == set(epochs)


def test_every_connection_syncs_every_commit(store: SqliteStore, path: Path) -> None:
    """What a power cut would show: docs/decisions/sqlite-durability.md has the counted syncs."""
    owned(store, key("a"))
    for _ in range(2):
        assert store._connection is not None
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        with files_up_to(0), pytest.raises(StoreUnavailable):  # the next one is a new connection
            store.claim("worker-2", {1: 0})
        store.ownership()
