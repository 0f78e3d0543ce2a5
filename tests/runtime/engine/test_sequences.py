from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.sequences import SequenceSet

LIMIT = 24
numbers = st.integers(1, LIMIT)
actions = st.lists(st.tuples(st.sampled_from(["add", "skip_below", "copy"]), numbers), max_size=30)


@given(st.integers(0, 5), actions)
def test_a_sequence_set_is_a_plain_set_of_numbers(start: int, steps: list[tuple[str, int]]) -> None:
    seen, plain = SequenceSet(start), set(range(1, start + 1))
    for action, number in steps:
        if action == "add":
            seen.add(number)
            plain.add(number)
        elif action == "skip_below":
            below = set(range(1, number))
            assert seen.skip_below(number) == len(below - plain)
            plain |= below
        else:
            copied = seen.copy()
            seen.add(LIMIT + 1)
            seen = copied
        check(seen, plain)


def check(seen: SequenceSet, plain: set[int]) -> None:
    assert {number for number in range(1, LIMIT + 3) if number in seen} == plain
    assert seen.highest == max(plain, default=0)
    assert seen.upto == next(number - 1 for number in range(1, LIMIT + 3) if number not in plain)
    assert all(number > seen.upto + 1 for number in seen.above), "small while numbers come nearly in order"


def test_it_stays_small_while_numbers_come_nearly_in_order() -> None:
    seen = SequenceSet()
    for number in range(1, 10_001, 2):
        seen.add(number + 1)
        seen.add(number)
    assert (seen.upto, seen.above) == (10_000, set())


def test_skipping_a_long_way_costs_nothing() -> None:
    seen = SequenceSet(3, [7])
    assert seen.skip_below(2**62) == 2**62 - 1 - 4
    assert (seen.upto, seen.above, seen.highest) == (2**62 - 1, set(), 2**62 - 1)
