"""What every store promises of the past: a bounded history, deletion for good, export and import."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf

import pytest

from runtime.records import HistoryRow, SessionRecord
from runtime.store.base import Store
from tests.contract.conftest import SNAPSHOTS, STORES, OpenStore
from tests.runtime.store.samples import LOOK_ALIKES, assert_same, history_row, key, owned, record, save, versions

# ---- history ----


def test_history_rows_come_back_oldest_first_to_the_bit(store: Store) -> None:
    saved = record(key("a"), version=3, rows=range(1, 4))
    save(store, saved)
    assert tuple(store.history(key("a"), -inf, inf, 10)) == saved.history


def test_history_holds_the_newest_versions_up_to_its_length(open_store: OpenStore) -> None:
    store = open_store(history_length=8)
    epochs = save(store, record(key("a"), version=5, rows=range(1, 6)))
    assert versions(store, key("a")) == [1, 2, 3, 4, 5]
    store.save(epochs, [record(key("a"), version=11, rows=range(6, 12))])
    assert versions(store, key("a")) == list(range(4, 12))
    store.save(epochs, [record(key("a"), version=40, rows=range(12, 41))])
    assert versions(store, key("a")) == list(range(33, 41))


def test_history_may_be_switched_off(open_store: OpenStore) -> None:
    store = open_store(history_length=0)
    save(store, record(key("a"), version=5, rows=range(1, 6)))
    assert versions(store, key("a")) == []


def test_history_of_an_interval_has_its_ends_and_the_newest_rows(store: Store) -> None:
    save(store, record(key("a"), version=9, rows=range(1, 10)))

    def found(from_s: float, to_s: float, limit: int = 100) -> list[int]:
        return [row.version for row in store.history(key("a"), from_s, to_s, limit)]

    assert found(3.0, 5.0) == [3, 4, 5]
    assert found(3.5, 3.9) == []
    assert found(5.0, 3.0) == []
    assert found(-inf, 5.0, limit=2) == [4, 5]
    assert found(8.0, inf) == [8, 9]
    assert found(float("nan"), inf) == []


def test_history_with_infinite_times_is_found(store: Store) -> None:
    rows = (history_row(1, -inf), history_row(2, 0.1), history_row(3, inf))
    save(store, replace(record(key("a"), version=3), history=rows))
    assert tuple(store.history(key("a"), -inf, inf, 10)) == rows


def test_a_row_saved_again_is_there_once(store: Store) -> None:
    saved = record(key("a"), version=3, rows=range(1, 4))
    store.save(save(store, saved), [saved])
    assert versions(store, key("a")) == [1, 2, 3]


@pytest.mark.parametrize("version", [3, 30])
def test_a_session_that_begins_anew_keeps_no_rows_of_its_earlier_life(store: Store, version: int) -> None:
    epochs = save(store, record(key("a"), version=20, rows=range(1, 21)))
    store.save(epochs, [record(key("a"), version, rows=range(1, version + 1))])
    assert tuple(store.history(key("a"), -inf, inf, 99)) == record(key("a"), version, range(1, version + 1)).history


def test_a_session_that_begins_anew_without_rows_keeps_none_ahead_of_it(store: Store) -> None:
    epochs = save(store, record(key("a"), version=20, rows=range(1, 21)))
    store.save(epochs, [record(key("a"), version=0, rows=range(0))])
    assert versions(store, key("a")) == []


class Life:
    """A session as a worker saves it, beside what its history should be: versions follow one another, some saves are
    made again because nobody knows whether they succeeded, and now and then it begins anew."""

    def __init__(self, rng: random.Random, history_length: int) -> None:
        self._rng = rng
        self._length = history_length
        self._version = self._saved = 0
        self._rows: list[HistoryRow] = []

    def next_record(self) -> SessionRecord:
        again = self._rng.random() < 0.1
        if self._rng.random() < 0.08:
            self._version = self._saved = 0
            self._rows = []
        begin = self._saved + 1 - (self._rng.randint(0, len(self._rows)) if again else 0)
        self._version += self._rng.choice([0, 1, 1, 1, 2, 5, 40])
        new = [history_row(version, self._rng.random()) for version in range(begin, self._version + 1)]
        new = new[-self._length :]
        if new:
            self._rows = [row for row in self._rows if row.version < new[0].version] + new
            self._rows = self._rows[-self._length :]
        self._saved = self._version
        return replace(record(key("a"), self._version), history=tuple(new))

    @property
    def expected(self) -> list[HistoryRow]:
        return [row for row in self._rows if row.version > self._version - self._length]


@pytest.mark.parametrize("seed", range(6))
def test_after_any_saves_the_history_is_that_of_the_last_life(open_store: OpenStore, seed: int) -> None:
    rng = random.Random(seed)
    length = rng.choice([3, 24, 100])
    life, store = Life(rng, length), open_store(history_length=length)
    epochs = owned(store, key("a"))
    for _ in range(120):
        store.save(epochs, [life.next_record()])
        if rng.random() < 0.1:
            store = open_store(history_length=length)
        assert store.history(key("a"), -inf, inf, 1000) == life.expected


# ---- delete ----


def test_delete_forgets_the_record_and_its_history_and_nothing_else(store: Store) -> None:
    epochs = save(store, record(key("a")), record(key("ab")), record(key("a", "other")))
    assert store.delete(epochs, key("a"))
    assert store.load([key("a"), key("ab"), key("a", "other")]).keys() == {key("ab"), key("a", "other")}
    assert versions(store, key("a")) == []
    assert versions(store, key("ab")) == [1]
    assert versions(store, key("a", "other")) == [1]


def test_delete_says_whether_there_was_a_session(store: Store) -> None:
    epochs = save(store, record(key("a")))
    assert store.delete(epochs, key("a")) is True
    assert store.delete(epochs, key("a")) is False


# ---- export and import ----


def test_an_export_restored_elsewhere_is_the_same_store(
    open_store: OpenStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_store()
    keys = [key(session, tenant) for tenant in ("default", "other") for session in LOOK_ALIKES]
    save(store, *(record(each, version, range(1, version + 1)) for version, each in enumerate(keys, start=1)))
    exported = list(store.records())
    assert [found.key for found in exported] == sorted(keys, key=lambda of: (of.tenant.encode(), of.session.encode()))
    for name in STORES:
        target = STORES[name](tmp_path_factory.mktemp(name))()
        target.restore(exported)
        for again, found in zip(target.records(), exported, strict=True):
            assert_same(again, found)
            assert again.history == found.history
        target.close()


@pytest.mark.parametrize("open_store", SNAPSHOTS, indirect=True)
def test_records_is_a_snapshot_while_others_save_and_delete(open_store: OpenStore) -> None:
    store, other = open_store(), open_store()
    keys = [key(f"session-{number:03}") for number in range(100)]
    epochs = save(other, *(record(each, version=1) for each in keys))
    snapshot = store.records()
    first = next(snapshot)
    store.save(epochs, [record(each, version=2) for each in keys])
    other.delete(epochs, keys[50])
    found = [first, *snapshot]
    assert [each.key for each in found] == keys
    assert all(each.version == 1 and [row.version for row in each.history] == [1] for each in found)


def test_every_exported_session_is_whole_while_others_save_and_delete(open_store: OpenStore) -> None:
    store, other = open_store(), open_store()
    keys = [key(f"session-{number:03}") for number in range(600)]
    epochs = save(other, *(record(each, version=1) for each in keys))
    exported = store.records()
    found = [next(exported)]
    store.save(epochs, [record(each, version=2) for each in keys])
    other.delete(epochs, keys[500])
    found += exported
    assert [each.key for each in found if each.key != keys[500]] == [each for each in keys if each != keys[500]]
    assert all([row.version for row in each.history] == list(range(1, each.version + 1)) for each in found)


def test_an_export_given_up_half_way_does_no_harm(store: Store) -> None:
    epochs = save(store, record(key("a")), record(key("b")))
    snapshot = store.records()
    next(snapshot)
    del snapshot
    store.save(epochs, [record(key("a"), version=2)])
    assert [found.version for found in store.records()] == [2, 1]


def test_restore_replaces_a_session_with_its_history_and_asks_for_no_epoch(store: Store) -> None:
    save(store, record(key("a"), version=20, rows=range(1, 21)), record(key("b")))
    store.restore([record(key("a"), version=30, rows=range(28, 31))])
    assert store.load([key("a")])[key("a")].version == 30
    assert versions(store, key("a")) == [28, 29, 30]
    assert versions(store, key("b")) == [1]


def test_restore_writes_all_records_or_none(store: Store) -> None:
    broken = replace(record(key("b")), outputs=(object(),))  # type: ignore[arg-type]  # which no store can write
    with pytest.raises(TypeError):
        store.restore([record(key("a")), broken])
    assert list(store.records()) == []
