"""Files that are no store, or no store of this version, or a damaged one: refused, and left to the byte as they are."""

from __future__ import annotations

import random
import sqlite3
import struct
import threading
from collections.abc import Sequence
from contextlib import closing, suppress
from math import inf
from pathlib import Path
from zlib import crc32

import pytest

from runtime.history import encode_row
from runtime.records import RecordError, SessionRecord
from runtime.store.base import StoreError, StoreUnavailable, StoreUnusable
from runtime.store.sealing import seal_history
from runtime.store.sqlite import SqliteStore, read_records
from runtime.store.sqlite_file import APPLICATION_ID, MEANINGS, SCHEMA_VERSION, translated
from tests.runtime.store.samples import assert_same, history_row, key, owned, record, versions

KEYS = [key(f"session-{number:03}") for number in range(60)]
PAGE = 4096
HISTORY_OF_SCHEMA_3 = """CREATE TABLE history (
    tenant TEXT NOT NULL, session TEXT NOT NULL, version INTEGER NOT NULL, event_time_s REAL NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (tenant, session, version))"""
HISTORY_OF_SCHEMA_2 = f"{HISTORY_OF_SCHEMA_3} WITHOUT ROWID"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def make_store(path: Path) -> None:
    store = SqliteStore(path)
    store.save(owned(store, *KEYS), [record(each, version=3, rows=range(1, 4)) for each in KEYS])
    store.close()


def change(path: Path, *statements: str, values: Sequence[object] = ()) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement, values).fetchall()


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def assert_refused_untouched(path: Path, because: str, error: type[StoreError] = StoreUnusable) -> None:
    before = files(path)
    with pytest.raises(error, match=because):
        SqliteStore(path)
    assert files(path) == before


# ---- other people's files ----


@pytest.mark.parametrize(
    "content", [b"notes\n", b"x" * 100_000, b"\0" * PAGE, b"SQLite format 3\0" + b"\xff" * PAGE], ids=lambda c: len(c)
)
def test_a_file_that_is_no_database_is_refused_untouched(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert_refused_untouched(path, "no SQLite file|another program")


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("mark", [0, 1])
def test_a_database_of_another_program_is_refused_untouched(path: Path, mode: str, mark: int) -> None:
    change(path, f"PRAGMA journal_mode = {mode}", f"PRAGMA application_id = {mark}", "CREATE TABLE photos (name)")
    assert_refused_untouched(path, "another program: left as it is")


def test_a_database_of_another_program_in_use_is_refused_untouched(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL").fetchall()
        other.execute("CREATE TABLE photos (name)")  # so far in the -wal file only
        assert_refused_untouched(path, "another program: left as it is")


def test_a_database_of_another_program_with_our_mark_is_refused(path: Path) -> None:
    change(
        path,
        f"PRAGMA application_id = {APPLICATION_ID}",
        f"PRAGMA user_version = {SCHEMA_VERSION}",
        "CREATE TABLE photos (name)",
    )
    ours = r"\['groups', 'history', 'history_of', 'leases', 'notes', 'sessions'\]"
    with pytest.raises(StoreUnusable, match=rf"holds \['photos'\] instead of {ours}"):
        SqliteStore(path)


@pytest.mark.parametrize(
    "extra", ["CREATE VIEW v AS SELECT 1", "CREATE TRIGGER t AFTER INSERT ON sessions BEGIN DELETE FROM groups; END"]
)
def test_a_store_that_somebody_extended_is_refused(path: Path, extra: str) -> None:
    make_store(path)
    change(path, extra)
    with pytest.raises(StoreUnusable, match="not a store of ours"):
        SqliteStore(path)


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    make_store(path)


def test_a_symbolic_link_leads_to_the_store(path: Path) -> None:
    make_store(path)
    link = path.parent / "link.db"
    link.symlink_to(path)
    store = SqliteStore(link)
    store.save(owned(store, key("a")), [record(key("a"))])
    assert len(SqliteStore(path).scan("default", "", 100)) == len(KEYS) + 1
    store.close()


# ---- other versions ----


@pytest.mark.parametrize(
    ("version", "because"),
    [
        (SCHEMA_VERSION + 1, "schema 5 of a newer version, this one knows 4: upgrade"),
        (0, "schema 0 of an older version"),
    ],
)
def test_a_store_of_another_schema_is_refused_untouched(path: Path, version: int, because: str) -> None:
    make_store(path)
    change(path, f"PRAGMA user_version = {version}")
    assert_refused_untouched(path, because)


def test_a_store_upgraded_while_in_use_is_refused_to_the_next_that_opens_it(path: Path) -> None:
    make_store(path)
    store = SqliteStore(path)
    change(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreUnusable, match="newer version"):
        SqliteStore(path)
    store.close()


def turn_back(path: Path, schema: int) -> None:
    """Make the store what a version of that schema would have made, with no history in it."""
    history = HISTORY_OF_SCHEMA_3 if schema == 3 else HISTORY_OF_SCHEMA_2
    change(path, "DROP TABLE history", history, "ALTER TABLE sessions DROP COLUMN recent")
    if schema == 1:
        change(path, "DROP TABLE leases", "DROP TABLE notes")
    change(path, f"PRAGMA user_version = {schema}")


def test_a_store_of_the_first_schema_is_brought_to_this_one_with_all_it_holds(path: Path) -> None:
    make_store(path)
    turn_back(path, 1)
    store = SqliteStore(path)
    assert len(store.scan("default", "", 100)) == len(KEYS)
    store.claim("worker-2/b", {1000: 0})
    assert store.leases().keys() == {"worker-2/b"}
    store.close()
    SqliteStore(path).close()


def test_history_of_the_second_schema_a_row_a_version_is_read_and_gone_on_with(path: Path) -> None:
    make_store(path)
    turn_back(path, 2)
    of, rows = KEYS[0], [history_row(version) for version in (1, 2, 3)]
    for row in rows:
        data = encode_row(row)
        place = f"{of.tenant}/{of.session}".encode() + b"\0" + struct.pack("<qd", row.version, row.event_time_s)
        sealed = struct.pack("<I", crc32(data, crc32(place))) + data
        values = (*of, row.version, row.event_time_s, sealed)
        change(path, "INSERT INTO history VALUES (?, ?, ?, ?, ?)", values=values)
    store = SqliteStore(path, history_length=4)
    assert store.history(of, -inf, inf, 100) == rows
    store.save(owned(store, of), [record(of, version=6, rows=range(3, 7))])
    assert store.history(of, -inf, inf, 100) == [history_row(version) for version in (3, 4, 5, 6)]
    store.close()


def test_history_of_the_third_schema_a_row_a_piece_is_read_gone_on_with_and_trimmed(path: Path) -> None:
    make_store(path)
    turn_back(path, 3)
    for of in KEYS[:2]:
        for begin, end in ((10, 60), (1, 5), (60, 64), (5, 10)):  # in no order, as rows lie in a table
            piece = seal_history(record(of, rows=range(begin, end)), 100)
            assert piece is not None
            change(path, "INSERT INTO history VALUES (?, ?, ?, ?, ?)", values=(*of, *piece))
    store = SqliteStore(path, history_length=100)
    assert all(versions(store, of) == list(range(1, 64)) for of in KEYS[:2])
    epochs = owned(store, KEYS[0])
    store.save(epochs, [record(KEYS[0], version=66, rows=range(62, 67))])
    assert versions(store, KEYS[0]) == list(range(1, 67))
    store.save(epochs, [record(KEYS[0], version=130, rows=range(67, 131))])
    assert versions(store, KEYS[0]) == list(range(31, 131))
    assert [versions(store, of) for of in KEYS[1:3]] == [list(range(1, 64)), []]
    store.close()


@pytest.mark.parametrize("schema", [1, 2, 3])
def test_a_store_of_an_older_schema_is_read_and_stays_what_it_is(path: Path, schema: int) -> None:
    make_store(path)
    turn_back(path, schema)
    before = path.read_bytes()
    assert [found.key for found in read_records(path, 256)] == KEYS
    assert path.read_bytes() == before


# ---- damage ----


@pytest.mark.parametrize("size", [100, PAGE - 1, PAGE, 3 * PAGE, -PAGE])
def test_a_truncated_store_is_refused_untouched(path: Path, size: int) -> None:
    make_store(path)
    content = path.read_bytes()
    path.write_bytes(content[:size])
    assert_refused_untouched(path, "damaged: move it|no SQLite file")


def test_a_store_emptied_while_in_use_does_not_begin_anew(path: Path) -> None:
    make_store(path)
    store = SqliteStore(path)
    epochs = owned(store, key("new"))
    path.write_bytes(b"")
    for _ in range(3):
        with pytest.raises(StoreError):
            store.save(epochs, [record(key("new"))])
        with pytest.raises(StoreError):
            store.load(KEYS)
    store.close()


def test_a_wal_file_that_lost_its_store_is_kept(path: Path) -> None:
    make_store(path)
    store = SqliteStore(path)
    owned(store, key("new"))
    content = Path(f"{path}-wal").read_bytes()
    store.close()
    path.unlink()
    Path(f"{path}-wal").write_bytes(content)
    assert_refused_untouched(path, "missing or empty beside its -wal file", StoreUnavailable)


def test_pages_overwritten_in_the_middle_are_told(path: Path) -> None:
    make_store(path)
    content = bytearray(path.read_bytes())
    content[5 * PAGE : -PAGE] = b"\xaa" * (len(content) - 6 * PAGE)
    path.write_bytes(content)
    store = SqliteStore(path)
    for call in (lambda: store.load(KEYS), lambda: list(store.records())):
        with pytest.raises(StoreUnusable, match="damaged: move it"):
            call()
    with pytest.raises(StoreUnusable, match="damaged: move it"):
        store.save(owned(store, *KEYS), [record(each, version=4) for each in KEYS])
    store.close()


def test_one_flipped_bit_in_a_record_costs_that_record_only(path: Path) -> None:
    make_store(path)
    context = record(KEYS[7], version=3).context_KD
    assert context is not None
    content = bytearray(path.read_bytes())
    content[content.index(context.tobytes()) + 10] ^= 4
    path.write_bytes(content)
    store = SqliteStore(path)
    with pytest.raises(RecordError, match=r"session-007.*the checksum does not fit"):
        store.load([KEYS[7]])
    others = [each for each in KEYS if each != KEYS[7]]
    assert store.load(others).keys() == {*others}
    store.close()


def test_damage_anywhere_never_gives_a_wrong_record(path: Path) -> None:
    """Damage in a key can hide its record: SQLite keeps no checksum of its pages. It cannot change one."""
    make_store(path)
    sound, rng, refused = path.read_bytes(), random.Random(5), 0
    expected = {each: record(each, version=3, rows=range(1, 4)) for each in KEYS}

    def check(found: SessionRecord) -> None:
        assert_same(found, expected[found.key])

    for _ in range(150):
        damaged, start = bytearray(sound), rng.randrange(len(sound))
        damaged[start : start + 40] = rng.randbytes(len(damaged[start : start + 40]))
        path.write_bytes(damaged)
        try:
            store = SqliteStore(path)
        except StoreError:
            refused += 1
            continue
        for read in (lambda store: store.load(KEYS).values(), SqliteStore.records):
            try:
                for found in read(store):
                    check(found)
            except (StoreError, RecordError):
                refused += 1
        for of in KEYS[::20]:
            with suppress(StoreError, RecordError):
                assert set(store.history(of, -inf, inf, 9)) <= set(expected[of].history)
        store.close()
        for leftover in ("-wal", "-shm"):
            Path(f"{path}{leftover}").unlink(missing_ok=True)
    assert refused > 100


# ---- opening, errors ----


def test_stores_made_on_one_new_file_at_once_are_one_store(path: Path) -> None:
    count = 8
    start, failures = threading.Barrier(count), []

    def make(number: int) -> None:
        start.wait()
        try:
            store = SqliteStore(path)
            store.claim(f"worker-{number}", {number: 0})
            store.close()
        except BaseException as error:  # a thread's failure must become the test's
            failures.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert SqliteStore(path).ownership().keys() == set(range(count))


# Result codes that no state of a disk or a file brings about: they would be a mistake of ours.
OURS = {"ERROR", "INTERNAL", "ABORT", "INTERRUPT", "NOTFOUND", "EMPTY", "SCHEMA", "TOOBIG", "CONSTRAINT", "MISMATCH"}
OURS |= {"MISUSE", "AUTH", "FORMAT", "RANGE", "NOTICE", "WARNING"}


def test_every_error_of_sqlite_has_a_meaning() -> None:
    result_codes = set(range(sqlite3.SQLITE_ERROR, sqlite3.SQLITE_WARNING + 1))
    assert MEANINGS.keys() == result_codes - {getattr(sqlite3, f"SQLITE_{name}") for name in OURS}


def test_an_error_without_a_code_is_unusable_and_names_the_file(path: Path) -> None:
    error = translated(sqlite3.OperationalError("Could not decode to UTF-8 column 'session'"), path)
    assert isinstance(error, StoreUnusable)
    assert str(path) in str(error)
    assert "UTF-8" in str(error)


def bytes_of(path: Path) -> bytes:
    return path.read_bytes() + Path(f"{path}-wal").read_bytes()


def test_nothing_of_a_deleted_session_stays_in_the_files(path: Path) -> None:
    forgotten = key("patient-7")
    with closing(SqliteStore(path)) as store:
        epochs = owned(store, *KEYS, forgotten)
        for version in range(1, 30):
            store.save(epochs, [record(each, version=version) for each in (*KEYS, forgotten)])
        assert b"patient-7" in bytes_of(path)
        assert store.delete(epochs, forgotten)
        assert b"patient-7" not in bytes_of(path)
        assert store.load(KEYS).keys() == {*KEYS}


def test_what_is_read_while_a_session_is_deleted_goes_with_a_later_save(path: Path) -> None:
    forgotten = key("patient-7")
    with closing(SqliteStore(path)) as store:
        epochs = owned(store, *KEYS, forgotten)
        store.save(epochs, [record(each) for each in (*KEYS, forgotten)])
        export = store.records()
        next(export)
        assert store.delete(epochs, forgotten)
        store.save(epochs, [record(KEYS[0], version=2)])
        assert b"patient-7" in bytes_of(path), "the export needs it"
        assert len([*export]) == len(KEYS)
        store.save(epochs, [record(KEYS[0], version=3)])
        assert b"patient-7" not in bytes_of(path)


def test_what_a_process_that_was_killed_has_deleted_goes_with_the_next_ones_first_save(path: Path) -> None:
    forgotten = key("patient-7")
    with closing(SqliteStore(path)) as killed, closing(SqliteStore(path)) as store:
        epochs = owned(killed, *KEYS, forgotten)
        killed.save(epochs, [record(each) for each in (*KEYS, forgotten)])
        export = killed.records()
        next(export)
        assert killed.delete(epochs, forgotten)
        assert len([*export]) == len(KEYS)
        assert b"patient-7" in bytes_of(path)
        store.save(epochs, [record(KEYS[0], version=2)])
        assert b"patient-7" not in bytes_of(path)
