"""When to look at which session, against a sorted list."""

from __future__ import annotations

from bisect import insort
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.look_times import LookTimes
from runtime.keys import SessionKey

TIMES_S = st.floats(0.0, 10.0, width=16)


@given(st.lists(st.one_of(TIMES_S, st.none()), max_size=80))
def test_the_earliest_comes_first_in_whatever_order_they_were_added(actions: list[float | None]) -> None:
    """A number adds a look at that time, None takes one out."""
    times, expected = LookTimes(), list[float]()
    for number, at_s in enumerate(actions):
        if at_s is not None:
            times.add(at_s, SessionKey("t", f"s{number}"))
            insort(expected, at_s)
        elif expected:
            taken_s, key = times.take_next()
            assert taken_s == expected.pop(0)
            assert taken_s == actions[int(key.session[1:])], "with the session that it was added for"
        assert times.next_s == (expected[0] if expected else inf)
        assert len(times) == len(expected)


def test_of_equal_times_the_first_to_come_is_looked_at_first() -> None:
    """Sessions that began together take turns: none of them is put off by its name."""
    times = LookTimes()
    for name in "cab":
        times.add(1.0, SessionKey("t", name))
    assert [times.take_next()[1].session for _ in range(3)] == ["c", "a", "b"]
