from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.keys import KEY_GROUPS
from runtime.placement import Beat, ClusterPolicy, Facts, Member, Plan, is_over, plan, targets
from runtime.store.base import Ownership

ALL = tuple(range(KEY_GROUPS))
POLICY = ClusterPolicy(workers=1, moves_at_once=64)


def member(
    name: str,
    joined_s: float = 0.0,
    loads: dict[int, float] | None = None,
    released: dict[int, int] | None = None,
    node: str = "",
) -> Member:
    beat = Beat(name, "1", f"tcp://{name}", "http://x", node=node, loads=loads or {}, released=released or {})
    return Member(beat, joined_s, 100.0)


def facts(
    members: list[Member], ownership: dict[int, Ownership], serving: int = 1, over: tuple[str, ...] = ()
) -> Facts:
    by_name = {one.beat.name: one for one in members}
    loads = {group: load for one in members for group, load in one.beat.loads.items()}
    return Facts(by_name, ownership, over, serving, {one.beat.owner for one in members} - set(over), loads=loads)


def owned_by(owner: str, epoch: int = 1) -> dict[int, Ownership]:
    return {group: Ownership(owner, epoch) for group in ALL}


def test_the_first_worker_gets_every_group() -> None:
    assert plan(facts([member("a")], {}), POLICY).claims == {"a/1": ALL}


def test_without_a_worker_nothing_can_be_done() -> None:
    assert plan(facts([], {}), POLICY) == Plan({}, {})


def test_a_standby_gets_nothing_while_the_one_that_serves_lives() -> None:
    assert plan(facts([member("a"), member("b")], owned_by("a/1")), POLICY) == Plan({}, {})


def test_a_standby_gets_all_groups_of_an_owner_whose_lease_is_over() -> None:
    assert plan(facts([member("b")], owned_by("a/1"), over=("a/1",)), POLICY).claims == {"b/1": ALL}


def test_groups_of_a_silent_owner_stay_until_its_lease_is_over() -> None:
    assert plan(facts([member("b")], owned_by("a/1")), POLICY) == Plan({}, {})
    assert not is_over(10.0, 11.99, 2.0)
    assert is_over(10.0, 12.05, 2.0)


def test_two_that_serve_share_what_is_new_by_count_and_what_is_used_by_load() -> None:
    two = [member("a"), member("b")]
    shares = Counter({owner: len(groups) for owner, groups in plan(facts(two, {}, serving=2), POLICY).claims.items()})
    assert shares == {"a/1": KEY_GROUPS // 2, "b/1": KEY_GROUPS // 2}
    busy = {group: 100.0 if group < 10 else 1.0 for group in range(20)}
    gone = [replace(one, beat=replace(one.beat, name=f"gone-{one.beat.name}", loads=busy)) for one in two[:1]]
    given = plan(facts([*two, *gone], owned_by("gone-a/1"), serving=2, over=("gone-a/1",)), POLICY).claims
    assert [sum(group < 10 for group in groups) for groups in given.values()] == [5, 5]


def test_a_new_worker_that_is_to_serve_is_filled_a_little_at_a_time() -> None:
    two = [member("a"), member("b", joined_s=5.0)]
    todo = plan(facts(two, owned_by("a/1"), serving=2), POLICY)
    assert todo.claims == {}
    assert len(todo.releases["a/1"]) == POLICY.moves_at_once


def test_what_was_given_up_goes_to_the_least_loaded() -> None:
    ownership = {group: Ownership("a/1" if group < 600 else "b/1", 1) for group in ALL}
    two = [member("a", released={3: 1, 4: 7}), member("b")]
    assert plan(facts(two, ownership, serving=2), POLICY).claims == {"b/1": (3,)}


def halves(one: str, other: str) -> dict[int, Ownership]:
    return {group: Ownership(one if group % 2 else other, 1) for group in ALL}


def test_of_two_that_serve_on_one_node_the_later_makes_way_for_a_standby_on_a_node_of_its_own() -> None:
    """As after the loss of a node, when Ray has started its worker elsewhere."""
    there = [member("a", node="x"), member("b", joined_s=1.0, node="x"), member("c", joined_s=2.0, node="y")]
    asked = plan(facts(there, halves("a/1", "b/1"), serving=2), POLICY).releases
    assert list(asked) == ["b/1"]
    assert targets(facts(there, halves("a/1", "c/1"), serving=2)) == ["a/1", "c/1"], "there it rests"


def test_where_all_nodes_have_one_or_there_is_but_one_nobody_moves() -> None:
    spread = [member("a", node="x"), member("b", node="y"), member("c", node="y")]
    assert plan(facts(spread, halves("a/1", "b/1"), serving=2), POLICY) == Plan({}, {})
    alone = [member("a", node="x"), member("b", node="x"), member("c", node="x")]
    assert plan(facts(alone, halves("a/1", "b/1"), serving=2), POLICY) == Plan({}, {})


def test_a_worker_that_leaves_is_emptied_and_gets_nothing() -> None:
    two = [member("a"), member("b")]
    leaving = replace(facts(two, owned_by("a/1"), serving=2), leaving={"a/1"})
    assert plan(leaving, POLICY).releases == {"a/1": ALL[: POLICY.moves_at_once]}
    assert plan(replace(leaving, ownership={}), POLICY).claims == {"b/1": ALL}


def test_one_heavy_group_alone_is_no_reason_to_move_it_to_and_fro() -> None:
    ownership = {group: Ownership("a/1" if group % 2 else "b/1", 1) for group in ALL}
    two = [member("a", loads={1: 1000.0}), member("b", loads={2: 1.0})]
    assert 1 not in plan(facts(two, ownership, serving=2), POLICY).releases.get("a/1", ())


# ---- whatever the facts are ----


loads = st.dictionaries(st.integers(0, KEY_GROUPS - 1), st.floats(0, 1e4), max_size=40)


@given(
    workers=st.integers(1, 5),
    serving=st.integers(1, 5),
    load=loads,
    seed=st.randoms(use_true_random=False),
    over=st.sets(st.integers(0, 6), max_size=3),
)
@settings(max_examples=60)
def test_rounds_of_plans_come_to_rest_balanced_and_move_little(
    workers: int, serving: int, load: dict[int, float], seed: Random, over: set[int]
) -> None:
    names = [f"w{number}" for number in range(workers)]
    ownership = {group: Ownership(f"w{seed.randrange(7)}/1", 1) for group in ALL}
    released: dict[str, dict[int, int]] = {name: {} for name in names}
    gone = tuple(f"w{number}/1" for number in range(workers, 7)) + tuple(f"w{n}/1" for n in over if n < workers - 1)
    moved: Counter[int] = Counter()
    for _ in range(60):
        of = {name: {g: v for g, v in load.items() if ownership[g].owner == f"{name}/1"} for name in names}
        members = [member(name, loads=of[name], released=released[name]) for name in names]
        todo = plan(facts(members, ownership, serving, gone), POLICY)
        living = {f"{name}/1" for name in names} - set(gone)
        claimed = [group for groups in todo.claims.values() for group in groups]
        asked = [group for groups in todo.releases.values() for group in groups]
        assert todo.claims.keys() | todo.releases.keys() <= living
        assert len(claimed) == len(set(claimed))
        assert len(asked) == len(set(asked))
        assert all(len(groups) <= POLICY.moves_at_once for groups in todo.releases.values())
        assert all(ownership[group].owner == owner for owner, groups in todo.releases.items() for group in groups)
        if not claimed and not asked:
            break
        moved.update(asked)
        released = {
            name: {group: ownership[group].epoch for group in todo.releases.get(f"{name}/1", ())} for name in names
        }
        ownership |= {
            group: Ownership(owner, ownership[group].epoch + 1)
            for owner, groups in todo.claims.items()
            for group in groups
        }
    else:
        raise AssertionError("it never comes to rest")
    shares = defaultdict(float, {f"{name}/1": 0.0 for name in names})
    for group, item in ownership.items():
        shares[item.owner] += load.get(group, 0.0) + 1e-3
    users = [owner for owner, share in shares.items() if share]
    assert len(users) <= serving
    heaviest = max(load.values(), default=0.0)
    assert max(shares.values()) <= 1.3 * sum(shares.values()) / min(serving, len(living)) + heaviest
    assert max(moved.values(), default=0) <= 2, "groups go to and fro"
