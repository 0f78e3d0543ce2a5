from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.batcher import ReadyQueue
from runtime.engine.policies import BatchPolicy
from runtime.keys import SessionKey


def queue(max_segments: int = 4, max_padded_frames: int = 10_000) -> ReadyQueue:
    return ReadyQueue(BatchPolicy(max_segments, max_padded_frames))


def take(ready: ReadyQueue) -> list[str]:
    return [key.session for key in ready.take(lambda key: True)]


def of_tenants(tenants: str, key: SessionKey) -> bool:
    return key.tenant in tenants


def key(session: str, tenant: str = "t") -> SessionKey:
    return SessionKey(tenant, session)


def test_the_session_that_has_been_ready_longest_goes_first() -> None:
    ready = queue(2)
    for name in "dacb":
        ready.add(key(name), 1)
    assert (take(ready), take(ready), take(ready)) == (["d", "a"], ["c", "b"], [])
    assert len(ready) == 0


def test_adding_again_keeps_the_place_and_corrects_the_frames() -> None:
    ready = queue(4, max_padded_frames=8)
    for name in "abc":
        ready.add(key(name), 1)
    ready.add(key("a"), 8)
    assert len(ready) == 3
    assert take(ready) == ["a"]
    assert take(ready) == ["b", "c"]


def test_a_batch_never_holds_more_padded_frames_than_allowed_unless_one_segment_does() -> None:
    ready = queue(100, max_padded_frames=12)
    for name, frames in zip("abcdef", (4, 4, 4, 4, 13, 1), strict=True):
        ready.add(key(name), frames)
    assert [take(ready) for _ in range(4)] == [["a", "b", "c"], ["d"], ["e"], ["f"]]


def test_a_session_that_is_passed_over_stays_ready_and_first() -> None:
    ready = queue(2)
    for name in "abc":
        ready.add(key(name), 1)
    assert ready.take(lambda key: key.session != "a") == [key("b"), key("c")]
    assert take(ready) == ["a"]


def test_when_nothing_fits_nothing_is_taken_or_lost() -> None:
    ready = queue()
    ready.add(key("a"), 1)
    assert ready.take(lambda key: False) == []
    assert len(ready) == 1
    assert take(ready) == ["a"]


def test_a_discarded_session_is_gone_and_discarding_twice_is_nothing() -> None:
    ready = queue()
    ready.add(key("a"), 1)
    ready.add(key("b"), 1)
    for _ in range(2):
        ready.discard(key("a"))
    ready.discard(key("never", tenant="nobody"))
    assert len(ready) == 1
    assert take(ready) == ["b"]


def test_a_flooding_tenant_does_not_keep_another_from_the_next_batch() -> None:
    ready = queue(64)
    for i in range(1000):
        ready.add(key(str(i), "flood"), 1)
    for _ in range(3):
        ready.take(lambda key: True)
    ready.add(key("one", "quiet"), 1)
    assert key("one", "quiet") in ready.take(lambda key: True)


def test_tenants_get_equal_frames_whatever_the_length_of_their_segments() -> None:
    ready = queue(16)
    lengths = {"short": 1, "long": 8}
    served: Counter[str] = Counter()
    for tenant in lengths:
        for i in range(2000):
            ready.add(key(str(i), tenant), lengths[tenant])
    for _ in range(30):
        for taken in ready.take(lambda key: True):
            served[taken.tenant] += lengths[taken.tenant]
    assert served["short"] == pytest.approx(served["long"], rel=0.1)


def test_a_tenant_that_comes_back_does_not_catch_up_on_what_it_did_not_ask_for() -> None:
    ready = queue(2)
    ready.add(key("x", "away"), 1)
    take(ready)
    for i in range(200):
        ready.add(key(str(i), "steady"), 1)
    for _ in range(50):
        take(ready)
    for i in range(200):
        ready.add(key(str(i), "away"), 1)
    served = Counter(taken.tenant for _ in range(20) for taken in ready.take(lambda key: True))
    assert abs(served["away"] - served["steady"]) <= 2


def test_a_tenant_with_one_session_gets_its_turn_in_every_batch_beside_one_with_many() -> None:
    ready = queue(8)
    for i in range(100):
        ready.add(key(str(i), "many"), 4)
    waited = 0
    for turn in range(200):
        ready.add(key("one", "few"), 4)
        batch = ready.take(lambda key: True)
        waited += key("one", "few") not in batch
        for taken in batch:
            if taken.tenant == "many":
                ready.add(taken, 4)
        assert len(batch) == 8, turn
    assert waited == 0


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_whatever_happens_every_session_is_taken_once_and_nothing_stays_behind(seed: int) -> None:
    rng = random.Random(seed)
    ready, waiting = queue(rng.randint(1, 5), rng.randint(1, 20)), set()
    for _ in range(60):
        action = rng.random()
        name = key(str(rng.randint(0, 9)), rng.choice("abc"))
        if action < 0.5:
            ready.add(name, rng.randint(1, 9))
            waiting.add(name)
        elif action < 0.6:
            ready.discard(name)
            waiting.discard(name)
        else:
            admitted = rng.choice(["abc", "abc", "abc", "a"])
            batch = ready.take(partial(of_tenants, admitted))
            assert len(set(batch)) == len(batch)
            assert set(batch) <= waiting
            waiting -= set(batch)
        assert len(ready) == len(waiting)
    while waiting:
        batch = ready.take(lambda key: True)
        assert batch
        waiting -= set(batch)
    assert len(ready) == 0
    assert not ready._tenants


def test_tenants_that_came_once_are_forgotten() -> None:
    ready = queue(4)
    for i in range(1000):
        ready.add(key("s", f"tenant-{i}"), 1)
        take(ready)
    assert not ready._tenants


@pytest.mark.parametrize("policy", [(0, 1), (1, 0), (-1, 5)])
def test_a_batch_policy_that_takes_nothing_is_refused(policy: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        BatchPolicy(*policy)
