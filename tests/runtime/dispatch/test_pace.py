from __future__ import annotations

from runtime.dispatch.pace import FEWEST_SEGMENTS, Pace

FIXED_S, PER_SEGMENT_S = 0.001, 0.0001


def settle(pace: Pace, *, shared: bool, offered: int = 10_000, fixed_s: float = FIXED_S) -> int:
    """Let turns of a known cost go by; the bound at which the pace comes to rest."""
    for _ in range(200):
        segments = min(pace.segments, offered)
        pace.turn_took(fixed_s + segments * PER_SEGMENT_S, segments, shared=shared)
    return pace.segments


def test_turns_become_as_long_as_they_may_and_no_longer() -> None:
    bound = settle(Pace(0.025, 0.004, 1000), shared=True)
    assert 0.7 * 0.004 <= FIXED_S + bound * PER_SEGMENT_S <= 1.1 * 0.004


def test_a_tenant_alone_gets_longer_turns_at_once_after_the_others_have_left() -> None:
    pace = Pace(0.025, 0.004, 1000)
    shared = settle(pace, shared=True)
    assert settle(pace, shared=False) > 4 * shared


def test_small_turns_say_nothing_about_large_ones() -> None:
    pace = Pace(0.025, 0.004, 64)
    assert settle(pace, shared=True, offered=3) == 64
    pace.turn_took(1.0, 3, shared=True)
    assert pace.segments == 64, "three segments cannot have been too many"


def test_one_long_turn_takes_no_more_than_a_third() -> None:
    pace = Pace(0.025, 0.004, 100)
    pace.turn_took(10.0, 100, shared=True)
    assert pace.segments == 70


def test_however_slow_the_model_a_few_segments_go_together() -> None:
    assert settle(Pace(0.025, 0.004, 64), shared=True, fixed_s=1.0) == FEWEST_SEGMENTS
    assert settle(Pace(0.025, 0.004, 4), shared=True, fixed_s=1.0) == 4
