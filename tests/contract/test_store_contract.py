"""What every store promises (runtime/store/base.py), whichever it is: records, fencing, claims."""

from __future__ import annotations

import random
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from runtime.keys import KEY_GROUPS, SessionKey, key_group
from runtime.store.base import Ownership, Store, StoreFenced, StoreUnavailable
from tests.contract.conftest import OpenStore
from tests.runtime.store.samples import assert_same, key, owned, record, save, versions

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
    broken = replace(record(key("b"), version=2), outputs=(object(),))  # type: ignore[arg-type]  # which no store can write
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


def accepted_if(current: bool) -> AbstractContextManager[object]:
    return nullcontext() if current else pytest.raises(StoreFenced)


@pytest.mark.parametrize("seed", range(4))
def test_after_any_claims_only_the_current_epoch_writes(open_store: OpenStore, seed: int) -> None:
    rng = random.Random(seed)
    stores, of = [open_store(), open_store()], [key("a"), key("b")]
    current = {key_group(each): 0 for each in of}
    for version in range(1, 150):
        store, each = rng.choice(stores), rng.choice(of)
        known = {group: max(0, epoch - (rng.random() < 0.1)) for group, epoch in current.items()}
        epochs = {key_group(each): known[key_group(each)]}
        if rng.random() < 0.3:
            claimed = rng.choice([known, epochs])
            with accepted_if(claimed.items() <= current.items()):
                current |= store.claim(f"worker-{version}", claimed)
        else:
            with accepted_if(epochs.items() <= current.items() and 0 not in epochs.values()):
                store.save(epochs, [record(each, version)])
    assert {group: held.epoch for group, held in stores[0].ownership().items()} == current


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


# ---- leases ----


def test_a_claim_gives_its_owner_a_lease_and_another_claim_leaves_it_as_it_is(store: Store) -> None:
    store.claim("worker-1", {0: 0})
    leases = store.leases()
    assert leases.keys() == {"worker-1"}
    store.claim("worker-1", {1: 0})
    assert store.leases() == leases


def test_a_renewal_is_counted_once_and_only_by_who_knows_the_count(open_store: OpenStore) -> None:
    store = open_store()
    store.claim("worker-1", {0: 0})
    (count,) = store.leases().values()
    store.renew("worker-1", count)
    assert open_store().leases() == {"worker-1": count + 1}
    with pytest.raises(StoreFenced):
        store.renew("worker-1", count)
    with pytest.raises(StoreFenced):
        store.renew("worker-2", 0)


def test_a_lease_that_was_renewed_meanwhile_is_not_revoked(open_store: OpenStore) -> None:
    worker, controller = open_store(), open_store()
    controller.claim("worker-1", {0: 0})
    (count,) = controller.leases().values()
    worker.renew("worker-1", count)
    with pytest.raises(StoreFenced):
        controller.revoke("worker-1", count)
    controller.revoke("worker-1", count + 1)
    assert controller.leases() == {}
    controller.revoke("worker-1", count + 1)
    with pytest.raises(StoreFenced):
        worker.renew("worker-1", count + 1)


def test_a_lease_given_again_cannot_be_renewed_by_the_count_of_the_last_one(store: Store) -> None:
    store.claim("worker-1", {0: 0})
    (count,) = store.leases().values()
    store.revoke("worker-1", count)
    store.claim("worker-1", {1: 0})
    with pytest.raises(StoreFenced):
        store.renew("worker-1", count)


def test_notes_are_kept_and_replaced(open_store: OpenStore) -> None:
    store = open_store()
    assert store.notes() == {}
    store.note("workers", "3")
    store.note("workers", "é4")
    assert open_store().notes() == {"workers": "é4"}


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
        store.leases,
        store.notes,
        lambda: store.note("a", "b"),
        lambda: store.renew("worker-1", 0),
        lambda: store.revoke("worker-1", 0),
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
