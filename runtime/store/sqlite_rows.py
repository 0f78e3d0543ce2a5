"""What is written of sessions, and where: many rows in one step of one statement.

Around every step of a statement `sqlite3` lets go of the interpreter's lock and wants it back, and each time the
worker's loop may wait for a thread that has to be woken up first. So the rows of a save are no parameters of their own:
they come as one text, which SQLite takes apart without that lock, and their data as one blob.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from runtime.keys import SessionKey
from runtime.records import SessionRecord
from runtime.store.sealing import begins_at, framed, seal_history, seal_record

PUT_AWAY_EVERY = 8
"""versions of a session: so often what is recent of its history leaves the row of its record, which each save rewrites,
for one of its own. Those lie elsewhere in the file, in pages that hardly anything else of a save is in"""
TRIM_EVERY = 128
"""versions of a session: what is too old of its history is deleted only so often, and left out where it is read"""

_ROWS = """(SELECT json_extract(value, '$[0]') AS tenant, json_extract(value, '$[1]') AS session,
    json_extract(value, '$[2]') AS version, json_extract(value, '$[3]') AS place,
    json_extract(value, '$[4]') AS n_record, json_extract(value, '$[5]') AS n_piece FROM json_each(?1))"""

# What is joined is text to SQLite, of the same bytes. Without `n_piece` the recent history is put away.
_WRITE = f"""INSERT INTO sessions (tenant, session, record, recent)
    SELECT tenant, session, substr(?2, place, n_record), substr(?2, place + n_record, n_piece) FROM {_ROWS} WHERE true
    ON CONFLICT (tenant, session) DO UPDATE
    SET record = excluded.record, recent = CAST(ifnull(recent, x'') || excluded.recent AS BLOB)"""
_PUT_AWAY = f"""INSERT INTO history (tenant, session, upto, data)
    SELECT tenant, session, version, CAST(ifnull(recent, x'') || substr(?2, place + n_record, n_piece) AS BLOB)
    FROM {_ROWS} LEFT JOIN sessions USING (tenant, session)"""
_FORGET_BEFORE = f"""DELETE FROM history WHERE id IN (
    SELECT id FROM {_ROWS} CROSS JOIN history USING (tenant, session) WHERE upto < version)"""
_FORGET_HISTORY = f"""DELETE FROM history WHERE id IN (
    SELECT id FROM {_ROWS} CROSS JOIN history USING (tenant, session))"""
_FORGET_SESSIONS = f"""DELETE FROM sessions WHERE rowid IN (
    SELECT sessions.rowid FROM {_ROWS} CROSS JOIN sessions USING (tenant, session))"""


class Row(NamedTuple):
    """What is written of a session."""

    key: SessionKey
    version: int
    begins_at: int
    """the version with which its piece of history begins, or would begin"""
    record: bytes
    piece: bytes | None
    """of history, in a frame; b"" if there is none, None if it is put away"""


def row_of(record: SessionRecord, history_length: int) -> Row:
    piece = framed(seal_history(record, history_length))
    return Row(record.key, record.version, begins_at(record), seal_record(record), piece)


def write(connection: sqlite3.Connection, rows: Sequence[Row], history_length: int) -> None:
    """Write these sessions' records, and their pieces behind what is stored of their histories."""
    forget(connection, [row.key for row in rows if row.begins_at <= 1])
    full = [row for row in rows if row.piece and _passes(row, PUT_AWAY_EVERY)]
    too_old = [(*row.key, row.version - history_length + 1) for row in full if _passes(row, TRIM_EVERY)]
    if too_old:
        connection.execute(_FORGET_BEFORE, (json.dumps(too_old),))
    if full:
        _execute(connection, _PUT_AWAY, full)
        put_away = {row.key for row in full}
        rows = [row._replace(piece=None) if row.key in put_away else row for row in rows]
    _execute(connection, _WRITE, rows)


def forget(connection: sqlite3.Connection, keys: Sequence[SessionKey]) -> int:
    """Delete these sessions and their histories; how many of the sessions there were."""
    if not keys:
        return 0
    listed = json.dumps(keys)
    connection.execute(_FORGET_HISTORY, (listed,))
    return connection.execute(_FORGET_SESSIONS, (listed,)).rowcount


def _passes(row: Row, every: int) -> bool:
    """Whether a multiple of so many versions is in its piece."""
    return row.version // every > (row.begins_at - 1) // every


def _execute(connection: sqlite3.Connection, statement: str, rows: Sequence[Row]) -> None:
    listed, data, place = [], [], 1
    for key, version, _, record, piece in rows:
        listed.append((*key, version, place, len(record), None if piece is None else len(piece)))
        data += [record, piece or b""]
        place += len(record) + len(piece or b"")
    if rows:
        connection.execute(statement, (json.dumps(listed), b"".join(data)))
