"""The embedded store: one SQLite file, in WAL mode, synced at every commit. Any number of processes may share it.

An object is used by one thread at a time, not necessarily the one that made it. After StoreUnavailable the same
object works again once the cause is gone. The disk must be a local one; export a store rather than copy its files.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

from runtime.keys import SessionKey
from runtime.records import HistoryRow, SessionRecord
from runtime.store.base import Ownership, StoreUnavailable
from runtime.store.fencing import check_epochs, check_expected, check_lease, new_count
from runtime.store.sealing import open_history, open_record, pieces_in, wanted_rows
from runtime.store.sqlite_epochs import CurrentEpochs
from runtime.store.sqlite_file import (
    CONNECTION_SURVIVES,
    open_file,
    open_snapshot,
    opened_to_read,
    primary_code,
    translated,
)
from runtime.store.sqlite_rows import forget, row_of, write

LOAD_CHUNK = 256
"""keys in one statement; SQLite before 3.32 takes 999 values"""
MAX_LIMIT = 2**31
"""SQLite reads a negative limit as none at all, and refuses one beyond 64 bits"""


class SqliteStore:
    """`runtime.store.base.Store` in the file `path`, made with its directory if there is none."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        history_length: int = 256,
        busy_timeout_s: float = 2.0,
    ) -> None:
        # SQLite puts the -wal file beside what a symbolic link points to; so do we.
        self.path = Path(os.path.realpath(path))
        self.history_length = history_length
        self.busy_timeout_s = busy_timeout_s
        self._closed = False
        self._wal_has_deleted = True
        """for all we know: who had the file before us may have been killed before it was emptied"""
        self._connection: sqlite3.Connection | None = None
        self._connect(create=True)

    def load(self, keys: Sequence[SessionKey]) -> dict[SessionKey, SessionRecord]:
        sealed: list[tuple[str, str, bytes]] = []
        with self._transaction("BEGIN") as connection:
            for start in range(0, len(keys), LOAD_CHUNK):
                chunk = keys[start : start + LOAD_CHUNK]
                # CROSS JOIN: look each wanted one up, rather than go through all sessions
                sealed += connection.execute(
                    f"WITH wanted (tenant, session) AS (VALUES {', '.join(['(?, ?)'] * len(chunk))})"
                    " SELECT tenant, session, record FROM wanted CROSS JOIN sessions USING (tenant, session)",
                    list(chain.from_iterable(chunk)),
                )
        return {(key := SessionKey(tenant, session)): open_record(key, data) for tenant, session, data in sealed}

    def save(self, epochs: Mapping[int, int], records: Sequence[SessionRecord]) -> None:
        rows = [row_of(record, self.history_length) for record in records]
        with self._transaction("BEGIN IMMEDIATE") as connection:
            check_epochs(self._epochs.of(epochs), epochs, (record.key for record in records))
            write(connection, rows, self.history_length)
        if self._wal_has_deleted:
            self._empty_wal()

    def delete(self, epochs: Mapping[int, int], key: SessionKey) -> bool:
        with self._transaction("BEGIN IMMEDIATE") as connection:
            check_epochs(self._epochs.of(epochs), epochs, [key])
            existed = forget(connection, [key]) > 0
        if existed:
            self._empty_wal()
        return existed

    def _empty_wal(self) -> None:
        """The -wal file has what was saved of a deleted session until it is written over, which may be never. While
        somebody reads there, an export for example, it stays: nobody is kept waiting, and a later save tries again."""
        connection = self._use()
        try:
            connection.execute("PRAGMA busy_timeout = 0")
            (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._wal_has_deleted = bool(is_busy)
        except sqlite3.Error:  # a full disk, for example: what was asked for is done all the same
            self._wal_has_deleted = True
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(self.busy_timeout_s * 1000)}")

    def scan(self, tenant: str, after: str, limit: int) -> list[str]:
        with self._transaction("BEGIN") as connection:
            rows = connection.execute(
                "SELECT session FROM sessions WHERE tenant = ? AND session > ? ORDER BY session LIMIT ?",
                (tenant, after, _bounded(limit)),
            )
            return [session for (session,) in rows]

    def history(self, key: SessionKey, from_s: float, to_s: float, limit: int) -> list[HistoryRow]:
        with self._transaction("BEGIN") as connection:
            frames = _frames(connection, key)
        return wanted_rows(open_history(key, pieces_in(frames), self.history_length), from_s, to_s, limit)

    def claim(self, owner: str, expected: Mapping[int, int]) -> dict[int, int]:
        claimed = {group: epoch + 1 for group, epoch in expected.items()}
        with self._transaction("BEGIN IMMEDIATE") as connection:
            check_expected(self._epochs.of(expected), expected)
            self._epochs.forget()
            rows = [(group, owner, epoch) for group, epoch in claimed.items()]
            connection.executemany("INSERT OR REPLACE INTO groups (key_group, owner, epoch) VALUES (?, ?, ?)", rows)
            connection.execute("INSERT OR IGNORE INTO leases (owner, count) VALUES (?, ?)", (owner, new_count()))
        return claimed

    def ownership(self) -> dict[int, Ownership]:
        with self._transaction("BEGIN") as connection:
            rows = connection.execute("SELECT key_group, owner, epoch FROM groups ORDER BY key_group")
            return {group: Ownership(owner, epoch) for group, owner, epoch in rows}

    def leases(self) -> dict[str, int]:
        with self._transaction("BEGIN") as connection:
            return _leases(connection)

    def renew(self, owner: str, count: int) -> None:
        with self._transaction("BEGIN IMMEDIATE") as connection:
            check_lease(_leases(connection), owner, count)
            connection.execute("UPDATE leases SET count = count + 1 WHERE owner = ?", (owner,))

    def revoke(self, owner: str, count: int) -> None:
        with self._transaction("BEGIN IMMEDIATE") as connection:
            leases = _leases(connection)
            if owner in leases:
                check_lease(leases, owner, count)
                connection.execute("DELETE FROM leases WHERE owner = ?", (owner,))

    def note(self, name: str, value: str) -> None:
        with self._transaction("BEGIN IMMEDIATE") as connection:
            connection.execute("INSERT OR REPLACE INTO notes (name, value) VALUES (?, ?)", (name, value))

    def notes(self) -> dict[str, str]:
        with self._transaction("BEGIN") as connection:
            return dict(connection.execute("SELECT name, value FROM notes"))

    def records(self) -> Iterator[SessionRecord]:
        """As the contract says; the snapshot is taken at the first `next`.

        It has a connection of its own, so any thread may iterate while this object saves. Until the iteration is at its
        end or closed, the -wal file grows with every save.
        """
        self._refuse_closed()
        return self._records()

    def _records(self) -> Iterator[SessionRecord]:
        try:
            with closing(open_snapshot(self.path, self.busy_timeout_s)) as connection:
                yield from _records_in(connection, self.history_length)
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def restore(self, records: Sequence[SessionRecord]) -> None:
        rows = [row_of(record, self.history_length) for record in records]
        with self._transaction("BEGIN IMMEDIATE") as connection:
            forget(connection, [row.key for row in rows])
            write(connection, rows, self.history_length)

    def close(self) -> None:
        self._closed = True
        self._disconnect()

    # ---- the connection ----

    def _connect(self, *, create: bool) -> sqlite3.Connection:
        self._connection = open_file(self.path, self.busy_timeout_s, create=create)
        self._epochs = CurrentEpochs(self._connection)
        self._files = _files_at(self.path)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"store {self.path}: it was closed")

    def _use(self) -> sqlite3.Connection:
        self._refuse_closed()
        if self._connection is None:
            self._refuse_another()
        return self._connection or self._connect(create=False)

    def _refuse_another(self) -> None:
        """SQLite would apply the -wal file that was ours to whatever has been put in the place of our file."""
        (ours, our_wal), (found, found_wal) = self._files, _files_at(self.path)
        if found not in (None, ours) and found_wal is not None and found_wal == our_wal:
            text = "another file is in its place, which the -wal file of the former one would damage: put that one back"
            raise StoreUnavailable(f"store {self.path}: {text}")

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = self._use()
        try:
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            self._undo(connection, error)
            if isinstance(error, sqlite3.Error):
                raise translated(error, self.path) from error
            raise
        if _files_at(self.path) != self._files:
            # What was committed went into a file that nobody will find.
            self._disconnect()
            raise StoreUnavailable(f"store {self.path}: moved, deleted or replaced while in use: put it back")

    def _undo(self, connection: sqlite3.Connection, error: BaseException) -> None:
        sound = not isinstance(error, sqlite3.Error) or primary_code(error) in CONNECTION_SURVIVES
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            sound = False
        if not sound:
            self._disconnect()


def read_records(path: Path, history_length: int, *, busy_timeout_s: float = 2.0) -> Iterator[SessionRecord]:
    """As `SqliteStore.records`, of a store that is not opened for more: nothing is written to it. Raises StoreError."""
    with opened_to_read(Path(os.path.realpath(path)), busy_timeout_s) as connection:
        yield from _records_in(connection, history_length)


def _records_in(connection: sqlite3.Connection, history_length: int) -> Iterator[SessionRecord]:
    for tenant, session, data in connection.execute(
        "SELECT tenant, session, record FROM sessions ORDER BY tenant, session"
    ):
        key = SessionKey(tenant, session)
        history = open_history(key, pieces_in(_frames(connection, key)), history_length)
        yield replace(open_record(key, data), history=tuple(history))


def _frames(connection: sqlite3.Connection, key: SessionKey) -> bytes:
    """The pieces of a session's history, in the order in which they were saved."""
    put_away = connection.execute("SELECT data FROM history WHERE tenant = ? AND session = ? ORDER BY id", key)
    recent = connection.execute(
        "SELECT recent FROM sessions WHERE tenant = ? AND session = ? AND recent IS NOT NULL", key
    )
    return b"".join([frames for (frames,) in chain(put_away, recent)])


def _leases(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT owner, count FROM leases"))


def _files_at(path: Path) -> list[tuple[int, int] | None]:
    """Which files have the store's names now: device and inode of each, None where there is none."""
    found: list[tuple[int, int] | None] = []
    for name in (path, f"{path}-wal"):
        try:
            stat = os.stat(name)
            found.append((stat.st_dev, stat.st_ino))
        except OSError:
            found.append(None)
    return found


def _bounded(limit: int) -> int:
    return max(0, min(limit, MAX_LIMIT))
