"""Many rows in few statements.

At every step of a statement `sqlite3` lets go of the interpreter's lock and wants it back, and `executemany` takes a
step for every row: a thousand occasions in one save at which the loop waits for a thread that may not have a
processor. A statement of many rows does its work in one step, without the lock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain

CHUNKS = (64, 8, 1)
"""rows of one statement: few different ones, so that each is prepared once"""

WRITE_RECORDS = """INSERT INTO sessions (tenant, session, record) {rows}
    ON CONFLICT (tenant, session) DO UPDATE SET record = excluded.record"""
WRITE_HISTORY = "INSERT OR REPLACE INTO history (tenant, session, version, event_time_s, data) {rows}"
FORGET_HISTORY = "WITH gone (tenant, session) AS ({rows}) DELETE FROM history WHERE (tenant, session) IN gone"
FORGET_FROM = """WITH gone (tenant, session, first) AS ({rows})
    DELETE FROM history WHERE (tenant, session, version) IN (
        SELECT tenant, session, version FROM gone CROSS JOIN history USING (tenant, session) WHERE version >= first)"""

Row = Sequence[str | bytes | int | float]


def execute_rows(connection: sqlite3.Connection, statement: str, rows: Sequence[Row]) -> None:
    """Execute a statement, in which `{rows}` stands for a VALUES clause, for all rows, in their order."""
    for chunk in _chunks(rows):
        row = f"({', '.join('?' * len(chunk[0]))})"
        values = f"VALUES {', '.join([row] * len(chunk))}"
        connection.execute(statement.format(rows=values), tuple(chain.from_iterable(chunk)))


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start = 0
    for size in CHUNKS:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size
