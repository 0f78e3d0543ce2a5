"""Where the history of a session lies in the file, and that what nobody reads any more leaves it."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from runtime.records import RecordError
from runtime.store.sealing import pieces_in
from runtime.store.sqlite import SqliteStore
from runtime.store.sqlite_rows import PUT_AWAY_EVERY, TRIM_EVERY
from tests.runtime.store.samples import assert_same, key, owned, record, versions

OF = key("a")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def one_number(store: SqliteStore, statement: str) -> int:
    assert store._connection is not None
    ((number,),) = store._connection.execute(statement).fetchall()
    return int(number)


def rows_of_history(store: SqliteStore) -> int:
    return one_number(store, "SELECT count(*) FROM history")


def test_old_history_leaves_the_file(path: Path) -> None:
    store = SqliteStore(path, history_length=16)
    epochs = owned(store, OF)
    rows = 0
    for version in range(5, 1000, 5):
        store.save(epochs, [record(OF, version=version, rows=range(version - 4, version + 1))])
        rows = max(rows, rows_of_history(store))
    assert rows <= (16 + TRIM_EVERY) // PUT_AWAY_EVERY + 2
    assert versions(store, OF) == list(range(980, 996))
    store.close()


@pytest.mark.parametrize(("length", "rows"), [(7, 1), (8, 1), (9, 2), (10, 2)])
def test_a_row_leaves_the_file_when_all_of_it_is_too_old(path: Path, length: int, rows: int) -> None:
    store = SqliteStore(path, history_length=length)
    epochs = owned(store, OF)
    for version in range(1, TRIM_EVERY + 1):
        store.save(epochs, [record(OF, version)])
        assert versions(store, OF) == list(range(max(1, version - length + 1), version + 1))
    assert rows_of_history(store) == rows
    store.close()


def test_recent_history_is_put_away_before_its_session_takes_many_pages(path: Path) -> None:
    store = SqliteStore(path)
    epochs = owned(store, OF)
    sizes = []
    for version in range(1, 100):
        store.save(epochs, [record(OF, version)])
        sizes.append(one_number(store, "SELECT ifnull(length(recent), 0) FROM sessions"))
    assert sizes.count(0) == 99 // PUT_AWAY_EVERY == rows_of_history(store)
    assert max(sizes) < PUT_AWAY_EVERY * 200
    assert versions(store, OF) == list(range(1, 100))
    store.close()


def test_a_session_that_begins_anew_again_and_again_leaves_nothing_in_the_file(path: Path) -> None:
    store = SqliteStore(path)
    epochs = owned(store, OF)
    for _ in range(5):
        for version in (7, 40, 43):
            store.save(epochs, [record(OF, version, rows=range({7: 1, 40: 8, 43: 41}[version], version + 1))])
    assert versions(store, OF) == list(range(1, 44))
    assert rows_of_history(store) == 1
    assert store._connection is not None
    ((recent,),) = store._connection.execute("SELECT recent FROM sessions").fetchall()
    assert [piece.version for piece in pieces_in(recent)] == [41]
    store.close()


def test_history_that_is_cut_short_anywhere_is_told_and_costs_no_record(path: Path) -> None:
    store = SqliteStore(path)
    store.save(owned(store, OF), [record(OF)])
    assert store._connection is not None
    ((recent,),) = store._connection.execute("SELECT recent FROM sessions").fetchall()
    for size in range(1, len(recent)):
        store._connection.execute("UPDATE sessions SET recent = ?", (recent[:size],))
        with pytest.raises(RecordError, match="history"):
            store.history(OF, -inf, inf, 10)
        assert_same(store.load([OF])[OF], record(OF))
    store.close()
