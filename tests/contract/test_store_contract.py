"""What every store promises (runtime/store/base.py), whichever it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.keys import KEY_GROUPS, SessionKey, key_group
from runtime.records import SessionRecord
from runtime.store.base import Ownership, Store, StoreFenced, StoreUnavailable
from tests.contract.conftest import STORES, OpenStore
from tests.runtime.store.samples import assert_same, history_row, key, owned, record

LOOK_ALIKES = [
    "é",
    "e\u0301",
    "É",
    "Ａ",
    "A",
    "a",
    "ﬀ",
    "ff",
    "7",
    "07",
    "７",
    " a",
    "a ",
    "a/b",
    "👩‍🚀",
    "\U0010ffff",
    "\uffff",
]
"""ids that meet when somebody normalises, folds, trims or converts them"""


def save(store: Store, *records: SessionRecord) -> dict[int, int]:
    epochs = owned(store, *(saved.key for saved in records))
    store.save(epochs, records)
    return epochs


def versions(store: Store, of: SessionKey) -> list[int]:
    return [row.version for row in store.history(of, -inf, inf, 1000)]


# ---- load and save ----


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.load([key("a")]) == {}
    assert store.load([]) == {}
    assert store.scan("default", "", 10) == []
    assert store.history(key("a"), -inf, inf, 10) == []
    assert store.ownership() == {}
    assert list(store.records()) == []


def test_a_saved_record_is_loaded_to_the_bit_by_another_store_object(open_store: OpenStore) -> None:
    saved = record(key("a"), version=7)
    save(open_store(), saved)
    assert_same(open_store().load([key("a")])[key("a")], saved)


def test_load_leaves_out_sessions_that_are_not_there(store: Store) -> None:
    save(store, record(key("a")), record(key("c")))
    assert store.load([key("a"), key("b"), key("c"), key("a")]).keys() == {key("a"), key("c")}


def test_save_replaces_the_record(store: Store) -> None:
    epochs = save(store, record(key("a"), version=1))
    store.save(epochs, [record(key("a"), version=2)])
    assert store.load([key("a")])[key("a")].version == 2


def test_a_record_without_context_and_with_infinite_times_comes_back(store: Store) -> None:
    saved = replace(record(key("a"), version=0, rows=range(0)), context_KD=None, event_time_s=-inf, watermark_s=inf)
    save(store, saved)
    assert store.load([key("a")])[key("a")] == saved


def test_a_thousand_records_are_saved_and_loaded_at_once(store: Store) -> None:
    records = [record(key(f"session-{number}")) for number in range(1000)]
    save(store, *records)
    found = store.load([saved.key for saved in records])
    assert len(found) == 1000
    for saved in records:
        assert_same(found[saved.key], saved)


def test_a_save_of_nothing_is_allowed(store: Store) -> None:
    store.save({}, [])


def test_what_a_caller_does_to_a_loaded_record_stays_with_the_caller(store: Store) -> None:
    save(store, record(key("a")))
    store.load([key("a")])[key("a")].freshness_s["imu"] = -1.0
    assert store.load([key("a")])[key("a")].freshness_s == {"imu": 1.0}


def test_one_record_that_cannot_be_stored_keeps_the_others_of_its_save_out(store: Store) -> None:
    broken = replace(record(key("b"), version=2), outputs=(object(),))  # type: ignore[arg-type]
    epochs = save(store, record(key("a"), version=1), record(key("b"), version=1), record(key("c"), version=1))
    with pytest.raises(TypeError):
        store.save(epochs, [record(key("a"), version=2), broken, record(key("c"), version=2)])
    assert {found.version for found in store.load([key("a"), key("b"), key("c")]).values()} == {1}
    assert versions(store, key("a")) == [1]


# ---- fencing ----


def test_an_old_epoch_writes_nothing(open_store: OpenStore) -> None:
    stopped, current = open_store(), open_store()
    old = save(stopped, record(key("a"), version=1))
    new = owned(current, key("a"), owner="worker-2")
    with pytest.raises(StoreFenced, match="epoch 1"):
        stopped.save(old, [record(key("a"), version=2)])
    with pytest.raises(StoreFenced):
        stopped.delete(old, key("a"))
    assert stopped.load([key("a")])[key("a")].version == 1
    current.save(new, [record(key("a"), version=2)])
    assert stopped.load([key("a")])[key("a")].version == 2


def test_one_fenced_group_keeps_all_records_of_the_save_out(store: Store) -> None:
    of = [key(f"session-{number}") for number in range(20)]
    epochs = owned(store, *of)
    owned(store, of[11], owner="worker-2")
    with pytest.raises(StoreFenced, match=f"key group {key_group(of[11])}:"):
        store.save(epochs, [record(each) for each in of])
    assert store.load(of) == {}
    assert store.history(of[0], -inf, inf, 10) == []


@pytest.mark.parametrize("epochs", [{}, {key_group(SessionKey("default", "a")): 0}])
def test_nobody_writes_to_a_group_without_owning_it(store: Store, epochs: dict[int, int]) -> None:
    with pytest.raises(StoreFenced):
        store.save(epochs, [record(key("a"))])
    with pytest.raises(StoreFenced):
        store.delete(epochs, key("a"))
    assert store.load([key("a")]) == {}


def test_an_epoch_that_is_still_to_come_is_refused_too(store: Store) -> None:
    (group,) = owned(store, key("a"))
    with pytest.raises(StoreFenced):
        store.save({group: 2}, [record(key("a"))])


def test_every_epoch_given_is_checked_even_without_a_record_for_it(store: Store) -> None:
    epochs = owned(store, key("a"), key("b"))
    owned(store, key("b"), owner="worker-2")
    with pytest.raises(StoreFenced):
        store.save(epochs, [record(key("a"))])


# ---- claims ----


def test_a_claim_raises_the_epoch_of_each_group_by_one(store: Store) -> None:
    assert store.claim("worker-1", {0: 0, 7: 0, KEY_GROUPS - 1: 0}) == {0: 1, 7: 1, KEY_GROUPS - 1: 1}
    assert store.claim("worker-2", {7: 1}) == {7: 2}
    assert store.ownership() == {
        0: Ownership("worker-1", 1),
        7: Ownership("worker-2", 2),
        KEY_GROUPS - 1: Ownership("worker-1", 1),
    }


def test_a_claim_takes_all_groups_or_none(store: Store) -> None:
    store.claim("worker-1", {1: 0, 2: 0})
    with pytest.raises(StoreFenced, match="key group 2"):
        store.claim("worker-2", {1: 1, 2: 0, 3: 0})
    assert store.ownership() == {1: Ownership("worker-1", 1), 2: Ownership("worker-1", 1)}


def test_all_groups_are_claimed_at_once_and_seen_by_another_store_object(open_store: OpenStore) -> None:
    open_store().claim("worker-1", dict.fromkeys(range(KEY_GROUPS), 0))
    assert open_store().ownership() == dict.fromkeys(range(KEY_GROUPS), Ownership("worker-1", 1))


def test_of_two_claims_that_race_exactly_one_wins(open_store: OpenStore) -> None:
    rounds = range(25)
    start = threading.Barrier(2)
    won: dict[str, list[int]] = {"worker-1": [], "worker-2": []}

    def race(store: Store, owner: str) -> None:
        for epoch in rounds:
            start.wait()
            try:
                store.claim(owner, {3: epoch, 5: epoch})
            except StoreFenced:
                continue
            won[owner].append(epoch)

    stores = [open_store(), open_store()]  # made here, used there
    threads = [threading.Thread(target=race, args=pair) for pair in zip(stores, won, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won["worker-1"] + won["worker-2"]) == list(rounds)
    last = "worker-1" if rounds[-1] in won["worker-1"] else "worker-2"
    assert open_store().ownership() == dict.fromkeys((3, 5), Ownership(last, len(rounds)))


# ---- names ----


def test_ids_that_look_alike_stay_apart(store: Store) -> None:
    records = [record(key(session), version) for version, session in enumerate(LOOK_ALIKES, start=1)]
    epochs = save(store, *records)
    for saved in records:
        assert_same(store.load([saved.key])[saved.key], saved)
        assert versions(store, saved.key) == [saved.version]
    assert store.delete(epochs, key("é"))
    assert set(store.scan("default", "", 100)) == {*LOOK_ALIKES} - {"é"}


def test_tenants_that_look_alike_stay_apart(store: Store) -> None:
    records = [record(key("s", tenant), version) for version, tenant in enumerate(["t", "T", "tt", "é", "e\u0301"], 1)]
    save(store, *records)
    for saved in records:
        assert store.scan(saved.key.tenant, "", 10) == ["s"]
        assert_same(store.load([saved.key])[saved.key], saved)


@pytest.fixture(scope="module", params=STORES)
def shared_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path: Path = tmp_path_factory.mktemp("store")
    store = STORES[request.param](path)()
    yield store
    store.close()


ids = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)


@given(sessions=st.sets(ids, max_size=8), after=st.one_of(st.just(""), ids), limit=st.integers(-1, 9))
def test_scan_is_in_the_order_of_utf8_bytes(shared_store: Store, sessions: set[str], after: str, limit: int) -> None:
    keys = [key(session) for session in sessions]
    epochs = save(shared_store, *(record(each, width=4) for each in keys))
    ordered = sorted((session for session in sessions if session.encode() > after.encode()), key=str.encode)
    assert shared_store.scan("default", after, limit) == ordered[: max(0, limit)]
    for each in keys:  # the next example finds it empty
        assert shared_store.delete(epochs, each)


# ---- scan ----


def test_scan_pages_through_one_tenant(store: Store) -> None:
    sessions = [f"s{number:02}" for number in range(10)]
    save(store, *(record(key(session)) for session in sessions), record(key("s03", "other")))
    pages, after = [], ""
    while page := store.scan("default", after, 4):
        pages.append(page)
        after = page[-1]
    assert pages == [sessions[:4], sessions[4:8], sessions[8:]]
    assert store.scan("nobody", "", 4) == []


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (-1, 0), (10**30, 3)])
def test_a_limit_is_a_limit_whatever_its_size(store: Store, limit: int, count: int) -> None:
    save(store, *(record(key(session), version=3, rows=range(1, 4)) for session in "abc"))
    assert len(store.scan("default", "", limit)) == count
    assert len(store.history(key("a"), -inf, inf, limit)) == count


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
    broken = replace(record(key("b")), gate=object())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        store.restore([record(key("a")), broken])
    assert list(store.records()) == []


# ---- one object per thread, and the end ----


def test_two_store_objects_save_at_the_same_time(open_store: OpenStore) -> None:
    failures: list[BaseException] = []

    def work(store: Store, owner: str) -> None:
        try:
            mine = [key(f"{owner} {number}") for number in range(10)]
            groups = {key_group(each) for each in mine}
            epochs = store.claim(owner, dict.fromkeys(groups, 0))
            for version in range(1, 20):
                store.save(epochs, [record(each, version) for each in mine])
                assert {found.version for found in store.load(mine).values()} == {version}
        except BaseException as error:  # a thread's failure must become the test's
            failures.append(error)

    names = ["one", "two"]
    used = [{key_group(key(f"{name} {number}")) for number in range(10)} for name in names]
    assert not used[0] & used[1], "the two must not fence each other"
    threads = [threading.Thread(target=work, args=(open_store(), name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(open_store().records())) == 20


def test_a_closed_store_is_unavailable_and_may_be_closed_again(store: Store) -> None:
    store.close()
    store.close()
    for call in (
        lambda: store.load([key("a")]),
        lambda: store.save({}, []),
        lambda: store.delete({}, key("a")),
        lambda: store.scan("default", "", 1),
        lambda: store.history(key("a"), -inf, inf, 1),
        lambda: store.claim("worker-1", {}),
        store.ownership,
        lambda: list(store.records()),
        lambda: store.restore([]),
    ):
        with pytest.raises(StoreUnavailable, match="closed"):
            call()


def test_contexts_of_several_vectors_keep_their_shape(store: Store) -> None:
    contexts = np.arange(24, dtype=np.float32).reshape(4, 6)
    save(store, replace(record(key("a")), context_KD=contexts))
    found = store.load([key("a")])[key("a")].context_KD
    assert found is not None
    np.testing.assert_array_equal(found, contexts)
