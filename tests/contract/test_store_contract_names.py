"""What every store promises of names: compared byte for byte, listed in the order of their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.store.base import Store
from tests.contract.conftest import STORES
from tests.runtime.store.samples import LOOK_ALIKES, assert_same, key, record, save, versions

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


@pytest.fixture(scope="module", params=[name for name in STORES if name != "redis-cluster"])  # as redis, slower
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
