"""Many rows in one step of one statement.

Around every step of a statement `sqlite3` lets go of the interpreter's lock and wants it back, and each time the
worker's loop may wait for a thread that has to be woken up first. So the rows of a save are no parameters of their own:
they come as one text, which SQLite takes apart without that lock, and their data as one blob.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

_ROWS = """(SELECT json_extract(value, '$[0]') AS tenant, json_extract(value, '$[1]') AS session,
    json_extract(value, '$[2]') AS version, json_extract(value, '$[3]') AS place, json_extract(value, '$[4]') AS n_bytes
    FROM json_each(?1))"""

WRITE_RECORDS = f"""INSERT INTO sessions (tenant, session, record)
    SELECT tenant, session, substr(?2, place, n_bytes) FROM {_ROWS} WHERE true
    ON CONFLICT (tenant, session) DO UPDATE SET record = excluded.record"""
WRITE_HISTORY = f"""INSERT OR REPLACE INTO history (tenant, session, version, event_time_s, data)
    SELECT tenant, session, version, 0.0, substr(?2, place, n_bytes) FROM {_ROWS}"""
FORGET_HISTORY = f"""WITH gone AS {_ROWS}
    DELETE FROM history WHERE (tenant, session) IN (SELECT tenant, session FROM gone)"""
FORGET_FROM = f"""WITH gone AS {_ROWS} DELETE FROM history WHERE (tenant, session, version) IN (
    SELECT tenant, session, history.version FROM gone CROSS JOIN history USING (tenant, session)
    WHERE history.version >= gone.version)"""
FORGET_BEFORE = f"""WITH old AS {_ROWS} DELETE FROM history WHERE (tenant, session, version) IN (
    SELECT tenant, session, history.version FROM old CROSS JOIN history USING (tenant, session)
    WHERE history.version < (SELECT max(piece.version) FROM history AS piece
        WHERE piece.tenant = old.tenant AND piece.session = old.session AND piece.version <= old.version))"""
"""pieces that end before a version, that is, all before the one that holds it"""


Row = tuple[str, str, int]
"""tenant, session, version"""


def forget_rows(connection: sqlite3.Connection, statement: str, rows: Sequence[Row]) -> None:
    """Execute one of the statements above that delete, for all rows."""
    if rows:
        connection.execute(statement, (json.dumps(rows),))


def write_rows(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Row, bytes]]) -> None:
    """Execute one of the statements above that write, for all rows with their data."""
    listed, place = [], 1
    for row, data in rows:
        listed.append((*row, place, len(data)))
        place += len(data)
    if rows:
        connection.execute(statement, (json.dumps(listed), b"".join(data for _, data in rows)))
