"""Whose lease is over, as the controller sees it. Time and store are the test's."""

from __future__ import annotations

import pytest

from runtime.granted_leases import GrantedLeases
from runtime.leases import renew_at_store
from runtime.placement import CLOCKS_MAY_DRIFT
from runtime.store.base import StoreUnavailable
from runtime.store.memory import MemoryDisk, MemoryStore

LEASE_S = 2.0
OVER_S = LEASE_S * CLOCKS_MAY_DRIFT


def scene(*owners: str) -> tuple[MemoryDisk, MemoryStore, GrantedLeases]:
    disk = MemoryDisk()
    store = MemoryStore(disk)
    for group, owner in enumerate(owners):
        store.claim(owner, {group: 0})
    return disk, store, GrantedLeases(store, LEASE_S, 0.0)


def test_a_lease_is_over_when_nothing_was_heard_for_so_long_by_a_slower_clock() -> None:
    _, _, leases = scene("a/1")
    leases.heard("a/1", 5.0)
    assert not leases.is_over("a/1", 5.0 + LEASE_S)
    assert leases.is_over("a/1", 5.0 + OVER_S)


def test_a_sign_that_comes_late_does_not_shorten_a_lease() -> None:
    _, _, leases = scene("a/1")
    leases.heard("a/1", 5.0)
    leases.heard("a/1", 3.0)
    assert not leases.is_over("a/1", 5.0 + LEASE_S)


def test_whoever_has_a_lease_when_the_store_is_read_may_have_renewed_it_this_moment() -> None:
    _, _, leases = scene("a/1")
    leases.read({"a/1": 3.0}, 10.0)
    assert not leases.is_over("a/1", 10.0 + LEASE_S)


def test_a_renewal_at_the_store_is_a_sign_of_life_and_cannot_be_missed() -> None:
    _, store, leases = scene("a/1")
    assert renew_at_store(store, "a/1")
    assert leases.is_over("a/1", OVER_S)
    assert not leases.end("a/1", OVER_S)
    assert not leases.is_over("a/1", OVER_S)


def test_renewals_are_looked_for_once_an_owner_has_not_been_heard_of_for_half_a_lease() -> None:
    _, store, leases = scene("a/1")
    renew_at_store(store, "a/1")
    leases.look(["a/1"], 0.4 * LEASE_S)
    leases.look(["a/1"], 0.9 * LEASE_S)
    assert not leases.is_over("a/1", OVER_S)


def test_who_is_known_to_be_dead_is_not_waited_for_whatever_it_renewed() -> None:
    _, store, leases = scene("a/1")
    leases.heard("a/1", 1.0)
    renew_at_store(store, "a/1")
    leases.died("a/1")
    assert leases.is_over("a/1", 1.0)
    assert leases.end("a/1", 1.0)
    assert not renew_at_store(store, "a/1")
    leases.forget_dead([])
    assert not leases.is_dead("a/1")


def test_an_ended_lease_ends_again_and_a_new_one_is_known_before_it_can_be_ended() -> None:
    _, store, leases = scene("a/1")
    assert leases.end("a/1", OVER_S)
    assert leases.end("a/1", OVER_S), "no lease is as good as ended"
    store.claim("a/1", {7: 0})
    leases.granted("a/1", OVER_S)
    renew_at_store(store, "a/1")
    assert not leases.end("a/1", OVER_S)


def test_a_store_that_is_away_ends_nothing() -> None:
    disk, _, leases = scene("a/1")
    disk.away = "cut off"
    leases.look(["a/1"], OVER_S)
    with pytest.raises(StoreUnavailable):
        leases.end("a/1", OVER_S)


def test_a_lease_that_could_not_be_seen_when_it_was_granted_is_seen_before_it_is_ended() -> None:
    disk, store, leases = scene()
    store.claim("a/1", {7: 0})
    disk.away = "cut off"
    leases.granted("a/1", 0.0)
    disk.away = ""
    assert not leases.end("a/1", OVER_S), "it may have renewed it this moment"
    assert leases.end("a/1", 2 * OVER_S)
    assert not renew_at_store(store, "a/1")
