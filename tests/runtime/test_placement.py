from __future__ import annotations

from runtime.keys import KEY_GROUPS
from runtime.placement import Beat, Member, plan
from runtime.store.base import Ownership

LEASE_S = 5.0
ALL = tuple(range(KEY_GROUPS))


def member(name: str, incarnation: str, joined_s: float = 0.0, heard_s: float = 100.0) -> Member:
    return Member(Beat(name, incarnation, "tcp://x", "http://x"), joined_s, heard_s)


def owned_by(owner: str, epoch: int = 1) -> dict[int, Ownership]:
    return {group: Ownership(owner, epoch) for group in ALL}


def test_the_first_worker_gets_every_group() -> None:
    assert plan({"a": member("a", "1")}, {}, 100.0, LEASE_S, 100.0).claims == {"a/1": ALL}


def test_without_a_worker_one_is_wanted() -> None:
    todo = plan({}, {}, 100.0, LEASE_S, 100.0)
    assert (todo.claims, todo.workers_wanted) == ({}, 1)


def test_groups_of_a_living_owner_stay_where_they_are() -> None:
    members = {"a": member("a", "1"), "b": member("b", "1")}
    todo = plan(members, owned_by("a/1"), 100.0, LEASE_S, 0.0)
    assert (todo.claims, todo.workers_wanted) == ({}, 0)


def test_a_worker_that_came_back_gets_the_groups_of_its_last_incarnation_at_once() -> None:
    assert plan({"a": member("a", "2")}, owned_by("a/1"), 100.0, LEASE_S, 99.9).claims == {"a/2": ALL}


def test_a_silent_owner_loses_its_groups_to_the_standby_after_the_lease() -> None:
    members = {"a": member("a", "1", heard_s=95.1), "b": member("b", "1")}
    assert plan(members, owned_by("a/1"), 100.0, LEASE_S, 0.0).claims == {}
    assert plan(members, owned_by("a/1"), 100.2, LEASE_S, 0.0).claims == {"b/1": ALL}


def test_a_silent_owner_without_a_standby_means_that_a_worker_is_wanted() -> None:
    assert plan({"a": member("a", "1", heard_s=90.0)}, owned_by("a/1"), 100.0, LEASE_S, 0.0).workers_wanted == 1


def test_a_new_controller_waits_one_lease_for_an_owner_it_has_not_heard_of() -> None:
    members = {"b": member("b", "1")}
    assert plan(members, owned_by("a/1"), 100.0, LEASE_S, started_s=96.0).claims == {}
    assert plan(members, owned_by("a/1"), 101.0, LEASE_S, started_s=96.0).claims == {"b/1": ALL}


def test_orphans_go_to_a_worker_that_serves_already() -> None:
    members = {"a": member("a", "1", joined_s=50.0), "b": member("b", "1", joined_s=1.0)}
    ownership = owned_by("a/1") | {7: Ownership("gone/1", 3)}
    assert plan(members, ownership, 100.0, LEASE_S, 0.0).claims == {"a/1": (7,)}
