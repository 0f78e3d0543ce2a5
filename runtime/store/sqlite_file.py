"""One SQLite file as a store: recognised or made, opened the way we need it, and its errors in our words.

The mark of a store is `application_id` with the schema's version in `user_version`; a file without the mark is
never written to. The mark is made together with the tables, in one transaction, before the file goes to WAL mode:
so the main file holds it from then on, whatever a crash leaves in the -wal file.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from runtime.store.base import StoreError, StoreLocked, StoreUnavailable, StoreUnusable
from runtime.store.sealing import HistoryPiece, framed

APPLICATION_ID = int.from_bytes(b"GRFS", "big")
SCHEMA_VERSION = 4
OLDER_VERSIONS = (1, 2, 3)
"""are brought to this one as they are opened. 1 had no leases and notes; 1 and 2 had a row of history for each version,
inside an index; 3 had one for each piece"""

# Text is compared byte by byte (BINARY, the default), never folded or normalised. Records and their recent history lie
# beside the index: rows of 1.5 KB inside one (WITHOUT ROWID) took twice the time and the space (docs/decisions).
SCHEMA = {
    "sessions": """CREATE TABLE sessions (
        tenant TEXT NOT NULL, session TEXT NOT NULL, record BLOB NOT NULL, recent BLOB,
        PRIMARY KEY (tenant, session))""",
    "history": """CREATE TABLE history (
        id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, session TEXT NOT NULL, upto INTEGER NOT NULL,
        data BLOB NOT NULL)""",
    "history_of": "CREATE INDEX history_of ON history (tenant, session)",
    "groups": """CREATE TABLE groups (
        key_group INTEGER PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL)""",
    "leases": """CREATE TABLE leases (
        owner TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID""",
    "notes": """CREATE TABLE notes (
        name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID""",
}

# docs/decisions/sqlite-durability.md argues them.
PRAGMAS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",  # macOS: without it fsync stops at the drive's cache
    "PRAGMA secure_delete = ON",  # a deleted session's bytes do not stay in the file
    "PRAGMA cache_size = -16384",  # KiB: a save of 1,000 sessions changes 2,000 pages
    "PRAGMA wal_autocheckpoint = 4096",  # pages: fewer are written twice than with 1,000, for 16 MiB of -wal file
    "PRAGMA temp_store = MEMORY",  # else a full or missing /tmp fails a commit
    "PRAGMA journal_size_limit = 67108864",  # bytes of -wal file kept after an export that made it grow
    "PRAGMA cell_size_check = ON",  # find damaged pages early
    "PRAGMA trusted_schema = OFF",
)

# By primary result code. What is missing here raises StoreUnusable with SQLite's own words.
MEANINGS: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_FULL: (StoreUnavailable, "the disk is full: free some space"),
    sqlite3.SQLITE_READONLY: (
        StoreUnavailable,
        "read-only: make it, its -wal and -shm files, its directory and the disk writable",
    ),
    sqlite3.SQLITE_BUSY: (
        StoreLocked,
        "locked by another process (`fuser -v` on the file names it): end that one",
    ),
    sqlite3.SQLITE_LOCKED: (StoreUnavailable, "locked from within this process"),
    sqlite3.SQLITE_PROTOCOL: (StoreUnavailable, "locked by too many processes at once"),
    sqlite3.SQLITE_IOERR: (StoreUnavailable, "input/output error: check the disk, its free space and the system log"),
    sqlite3.SQLITE_CANTOPEN: (StoreUnavailable, "cannot be opened: is the path right, and the directory writable?"),
    sqlite3.SQLITE_PERM: (StoreUnavailable, "permission denied: give this user the right to read and write it"),
    sqlite3.SQLITE_NOMEM: (StoreUnavailable, "out of memory"),
    sqlite3.SQLITE_CORRUPT: (StoreUnusable, "damaged: move it and its -wal file away, then import an export"),
    sqlite3.SQLITE_NOTADB: (StoreUnusable, "no SQLite file, or damaged at its beginning: give another path"),
    sqlite3.SQLITE_NOLFS: (StoreUnusable, "larger than this system can handle"),
}

# After these the connection is as good as before. After the others it is opened anew: a file opened on a disk that
# was read-only, for example, stays read-only.
CONNECTION_SURVIVES = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

# SQLite makes files beside a store that nobody has open, for who only reads it as well. After these it could not.
NOTHING_CAN_BE_MADE = frozenset(
    {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL}
)


def primary_code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # missing where Python itself complains
    return code & 0xFF


def translated(error: sqlite3.Error, path: Path) -> StoreError:
    kind, meaning = MEANINGS.get(primary_code(error), (StoreUnusable, "unexpected error"))
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return kind(f"store {path}: {meaning} ({name}: {error})")


def open_file(path: Path, busy_timeout_s: float, *, create: bool) -> sqlite3.Connection:
    """A connection to the store at `path`, for use by one thread at a time. Raises StoreError.

    Without `create` a missing file is StoreUnavailable: it may be on a disk that is away.
    """
    give_up = time.monotonic() + busy_timeout_s
    while True:
        try:
            if create:
                _make_directory(path.parent)
            _refuse_foreign(path)
            return _open(path, busy_timeout_s, create)
        except sqlite3.Error as error:
            # SQLite waits for locks by itself, but not where two processes take a new file to WAL mode at once.
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up:
                raise translated(error, path) from error
            time.sleep(0.005)
        except OSError as error:
            raise StoreUnavailable(f"store {path}: {error.strerror}: {error.filename}") from error


def _open(path: Path, busy_timeout_s: float, create: bool) -> sqlite3.Connection:
    connection = _connect(path, "rwc" if create else "rw", busy_timeout_s)
    try:
        _prepare(connection, path, create)
    except BaseException:
        connection.close()
        raise
    return connection


def open_snapshot(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """A second connection that sees the store as it is now, and holds up nobody. Raises sqlite3.Error."""
    connection = _connect(path, "ro", busy_timeout_s)
    connection.execute("BEGIN")
    return connection


@contextmanager
def opened_to_read(path: Path, busy_timeout_s: float) -> Iterator[sqlite3.Connection]:
    """A connection to the store as it is now, for who only reads it. Raises StoreError.

    Nothing is written to the store, which opening it for real does: so it can be read while its disk is full, from
    a medium that is read-only, and by a newer version beside an older one that goes on with it.
    """
    try:
        _refuse_foreign(path)
        if _size(path) == 0:
            raise StoreUnavailable(f"store {path}: there is none; runtime.state_dir says where it is")
        try:
            connection = _open_to_read(path, busy_timeout_s)
        except sqlite3.Error as error:
            if primary_code(error) not in NOTHING_CAN_BE_MADE:
                raise
            with _copied(path) as copy, closing(open_file(copy, busy_timeout_s, create=False)) as connection:
                yield connection
        else:
            with closing(connection):
                yield connection
    except sqlite3.Error as error:
        raise translated(error, path) from error


def _open_to_read(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Raises sqlite3.Error, StoreError."""
    connection = open_snapshot(path, busy_timeout_s)
    try:
        _check_mark(connection, path)
        if _number(connection, "user_version") in OLDER_VERSIONS:
            connection = _brought_up(connection)
        _check_names(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _brought_up(older: sqlite3.Connection) -> sqlite3.Connection:
    """A copy in a file that is gone once it is closed."""
    copy = sqlite3.connect("", isolation_level=None)
    with closing(older):
        older.backup(copy)
    _upgrade(copy)
    return copy


@contextmanager
def _copied(path: Path) -> Iterator[Path]:
    """Nobody has the store open: who has it could make its files."""
    try:
        with TemporaryDirectory(prefix="grf-") as directory:
            for name in (path.name, f"{path.name}-wal", f"{path.name}-journal"):
                if (path.parent / name).exists():
                    shutil.copyfile(path.parent / name, Path(directory) / name)
            yield Path(directory) / path.name
    except OSError as error:
        text = f"cannot be read where it is, nor from a copy in {gettempdir()} (TMPDIR): {error.strerror}"
        raise StoreUnavailable(f"store {path}: {text}: {error.filename}") from error


def _connect(path: Path, mode: str, busy_timeout_s: float = 0) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?{'immutable=1' if mode == 'immutable' else f'mode={mode}'}"
    return sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)


def _make_directory(directory: Path) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(0o700, exist_ok=True)  # what sessions hold is nobody else's on this machine to read
        descriptor = os.open(path.parent, os.O_RDONLY)  # a name in a directory is durable once that is synced
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refuse_foreign(path: Path) -> None:
    """Look at the mark before opening for real, which would leave files beside a foreign database in WAL mode.

    `immutable` reads the main file alone and takes no lock. It must be SQLite that opens the file: closing a file
    of our own would drop the locks that other connections of this process hold on it (POSIX).

    In the middle of a checkpoint, another process's or one that a crash has ended, the main file is shorter than it
    says: the rest is in the -wal file. SQLite lets that pass where the schema is writable, which nothing here uses.
    """
    has_wal = _size(Path(f"{path}-wal")) > 0
    if _size(path) == 0:
        if has_wal:
            raise StoreUnavailable(f"store {path}: missing or empty beside its -wal file: put it back, or remove both")
        return  # to be made
    if Path(f"{path}-journal").exists():
        return  # left half made by a crash: SQLite rolls that back once the file is opened for real
    with closing(_connect(path, "immutable")) as connection:
        if has_wal:
            connection.execute("PRAGMA writable_schema = ON")
        _check_mark(connection, path)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _prepare(connection: sqlite3.Connection, path: Path, create: bool) -> None:
    for pragma in PRAGMAS:
        connection.execute(pragma)
    if _number(connection, "page_count") == 0:
        if not create:
            raise StoreUnavailable(f"store {path}: emptied while in use: put it back")
        _make_tables(connection)
    _check_mark(connection, path)
    if _number(connection, "user_version") in OLDER_VERSIONS:
        _upgrade(connection)
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreUnusable(f"store {path}: no WAL mode on this file system: choose a local disk")
    _check_names(connection, path)
    # What a crash or an I/O error left in the -wal file may never have reached the disk, though it can be read.
    # Written to the main file and synced once more it has, before anything new is acknowledged on top of it.
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN EXCLUSIVE")
    if not _names(connection):  # else another process was quicker
        for statement in SCHEMA.values():
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _upgrade(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN EXCLUSIVE")
    if _number(connection, "user_version") in OLDER_VERSIONS:  # else another process was quicker
        if "leases" not in _names(connection):
            connection.execute(SCHEMA["leases"])
            connection.execute(SCHEMA["notes"])
        _gather_history(connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _gather_history(connection: sqlite3.Connection) -> None:
    """From a row for each piece. Where the last one ends is not known here: it becomes the recent history."""
    connection.create_function("framed", 3, lambda *piece: framed(HistoryPiece(*piece)), deterministic=True)
    connection.execute("ALTER TABLE sessions ADD COLUMN recent BLOB")
    connection.execute("ALTER TABLE history RENAME TO pieces")
    connection.execute(SCHEMA["history"])
    connection.execute(SCHEMA["history_of"])
    connection.execute("""INSERT INTO history (tenant, session, upto, data)
        SELECT tenant, session, next - 1, framed(version, event_time_s, data)
        FROM (SELECT *, lead(version) OVER (PARTITION BY tenant, session ORDER BY version) AS next FROM pieces)
        WHERE next IS NOT NULL ORDER BY tenant, session, version""")
    connection.execute("""UPDATE sessions SET recent = (SELECT framed(version, event_time_s, data) FROM pieces
        WHERE pieces.tenant = sessions.tenant AND pieces.session = sessions.session ORDER BY version DESC LIMIT 1)""")
    connection.execute("DROP TABLE pieces")


def _check_mark(connection: sqlite3.Connection, path: Path) -> None:
    if _number(connection, "application_id") != APPLICATION_ID:
        raise StoreUnusable(f"store {path}: an SQLite database of another program: left as it is, give another path")
    version = _number(connection, "user_version")
    if version not in (*OLDER_VERSIONS, SCHEMA_VERSION):
        age, do = ("a newer", "upgrade") if version > SCHEMA_VERSION else ("an older", "export it with its own version")
        raise StoreUnusable(f"store {path}: schema {version} of {age} version, this one knows {SCHEMA_VERSION}: {do}")


def _check_names(connection: sqlite3.Connection, path: Path) -> None:
    names = _names(connection)
    if names != SCHEMA.keys():
        raise StoreUnusable(f"store {path}: holds {sorted(names)} instead of {sorted(SCHEMA)}: not a store of ours")


def _names(connection: sqlite3.Connection) -> set[str]:
    """Tables, indexes, views and triggers that somebody made."""
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name NOT GLOB 'sqlite_*'")}


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    (value,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(value)
