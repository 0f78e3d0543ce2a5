from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.clock import Clock, ClockOptions

SECONDS = st.floats(min_value=0.001, max_value=2.0)
DELAYS = st.floats(min_value=0.001, max_value=0.5)


def clock(**options: object) -> Clock:
    return Clock(ClockOptions.model_validate(options))


def times(of: Clock, pairs: Sequence[tuple[float | None, float | None]]) -> list[float | None]:
    return [of.event_time(stamp_s, arrival_s) for stamp_s, arrival_s in pairs]


def test_stamps_of_wall_time_are_event_times() -> None:
    assert times(clock(), [(100.0, 100.2), (101.0, None), (102.5, 109.0)]) == [100.0, 101.0, 102.5]


def test_without_stamps_the_arrival_is_the_event_time_and_never_goes_back() -> None:
    assert times(clock(), [(None, 100.0), (None, 99.0), (None, 101.0)]) == [100.0, 100.0, 101.0]


def test_neither_stamp_nor_arrival_is_an_error() -> None:
    with pytest.raises(ValueError, match="neither"):
        clock().event_time(None, None)


def test_a_stamp_from_the_future_is_left_out_and_the_next_ones_are_not() -> None:
    device = clock()
    assert times(device, [(100.0, 100.1), (4000.0, 100.2), (100.3, 100.4)]) == [100.0, None, 100.3]
    assert device.counts == {"ahead": 1}


@pytest.mark.parametrize(("policy", "expected"), [("drop", None), ("keep", 99.5), ("clamp", 100.0)])
def test_a_step_back_is_handled_by_policy_and_counted(policy: str, expected: float | None) -> None:
    device = clock(on_backward=policy)
    assert times(device, [(100.0, None), (99.5, None)]) == [100.0, expected]
    assert device.counts == {"backward": 1}


@pytest.mark.parametrize(("policy", "expected"), [("keep", 100.0), ("drop", None)])
def test_a_repeat_is_handled_by_policy_and_counted(policy: str, expected: float | None) -> None:
    device = clock(on_repeat=policy)
    assert times(device, [(100.0, None), (100.0, None)]) == [100.0, expected]
    assert device.counts == {"repeats": 1}


def test_one_stamp_far_back_is_left_out_but_a_clock_that_was_set_back_is_followed() -> None:
    once = clock()
    assert times(once, [(1000.0, None), (5.0, None), (1001.0, None)]) == [1000.0, None, 1001.0]
    for_good = clock()
    told = times(for_good, [(1000.0, None), *((500.0 + number, None) for number in range(7))])
    assert told == [1000.0, None, None, None, None, 504.0, 505.0, 506.0]
    assert for_good.counts == {"jumps_left_out": 4, "jumps": 1}


def test_a_device_that_was_restarted_begins_anew_at_its_arrival() -> None:
    device = clock(kind="device")
    assert times(device, [(500.0, 1000.0), (501.0, 1001.0), (0.0, 1030.0), (1.0, 1031.0)]) == [
        1000.0,
        1001.0,
        1030.0,
        1031.0,
    ]
    assert device.counts == {"jumps": 1}


def test_a_devices_clock_that_leaps_ahead_begins_anew_at_its_arrival() -> None:
    device = clock(kind="device")
    assert times(device, [(10.0, 1000.0), (11.0, 1001.0), (900.0, 1002.0)]) == [1000.0, 1001.0, 1002.0]
    assert device.counts == {"jumps": 1}


def test_a_late_message_of_a_device_keeps_its_place() -> None:
    device = clock(kind="device")
    assert times(device, [(10.0, 1000.0), (11.0, 1001.0), (12.0, 1060.0)]) == [1000.0, 1001.0, 1002.0]


@given(st.lists(st.tuples(SECONDS, DELAYS), min_size=2, max_size=200), st.floats(min_value=-5e-5, max_value=5e-5))
def test_a_devices_event_times_grow_with_its_stamps_and_never_bend_more_than_allowed(
    steps: list[tuple[float, float]], drift: float
) -> None:
    device = clock(kind="device", max_drift_ppm=200, max_slew_ppm=5000)
    stamp_s, last = 50.0, None
    for step_s, delay_s in steps:
        stamp_s += step_s
        event_s = device.event_time(stamp_s, 10_000 + stamp_s * (1 + drift) + delay_s)
        assert event_s is not None
        if last is not None:
            stamped_s, told_s = stamp_s - last[0], event_s - last[1]
            assert (1 - 0.0053) * stamped_s <= told_s + 1e-9
            assert told_s <= (1 + 0.0053) * stamped_s + 1e-9
        last = (stamp_s, event_s)
    assert device.counts == {}


@settings(max_examples=25)
@given(st.integers(min_value=0, max_value=999), st.floats(min_value=-1.5e-4, max_value=1.5e-4))
def test_a_devices_clock_is_found_to_within_the_spread_of_its_quickest_messages(seed: int, drift: float) -> None:
    rng = random.Random(seed)
    device = clock(kind="device")
    error_s = 0.0
    for number in range(6_000):  # five minutes at 20 Hz
        stamp_s = number * 0.05
        true_s = 1000.0 + stamp_s * (1 + drift)
        delay_s = 0.004 + rng.expovariate(50.0)
        event_s = device.event_time(stamp_s, true_s + delay_s)
        assert event_s is not None
        if stamp_s > 120.0:
            error_s = max(error_s, abs(event_s - true_s))
    assert error_s < 0.010  # 4 ms of it is the delay that every message has, and that nobody can know


@given(
    st.lists(st.tuples(st.floats(min_value=-8.0, max_value=8.0), DELAYS), min_size=1, max_size=60),
    st.integers(min_value=0, max_value=59),
    st.sampled_from(["wall", "device"]),
    st.sampled_from(["drop", "keep", "clamp"]),
)
def test_a_restored_clock_tells_the_same_times(
    steps: list[tuple[float, float]], cut: int, kind: str, on_backward: str
) -> None:
    options = ClockOptions.model_validate({"kind": kind, "on_backward": on_backward, "window_s": 2.0})
    whole, first, rest = Clock(options), Clock(options), Clock(options)
    stamp_s, pairs = 100.0, []
    for step_s, delay_s in steps:
        stamp_s += step_s
        pairs.append((stamp_s, 1000.0 + stamp_s + delay_s))
    told = times(whole, pairs)
    assert times(first, pairs[:cut]) == told[:cut]
    rest.restore(first.snapshot())
    assert times(rest, pairs[cut:]) == told[cut:]


@given(st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=1, max_size=80))
def test_whatever_is_stamped_event_times_of_a_device_never_go_back_if_that_is_not_kept(stamps: list[float]) -> None:
    device = clock(kind="device", on_backward="clamp")
    told = [device.event_time(stamp_s, 1e7 + number) for number, stamp_s in enumerate(stamps)]
    known = [event_s for event_s in told if event_s is not None]
    assert known == sorted(known)
    assert len(known) == len(stamps)
