"""Exactly once over HTTP: whoever posts a number again and again until it is durable has it fused once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime import messages as m
from runtime.engine.policies import EnginePolicy, OrderPolicy
from runtime.gateway.posted import Posted
from runtime.gateway.relay_stream import LEAVE_S, REFUSALS_KEPT
from tests.runtime.gateway.simulation import FRAMES, TICK_S, Poster, SimulatedGateway, World

STEPS_BETWEEN_FAULTS = 120
MOST_STEPS = 60_000


def run_until_durable(world: World, posters: list[Poster], faults: bool) -> None:
    steps = 0
    while not all(poster.is_done for poster in posters):
        assert steps < MOST_STEPS, [sorted(poster.durable) for poster in posters]
        for poster in posters:
            poster.act()
        world.run(4)
        steps += 4
        if faults and steps < 8_000 and world.random.random() < 4 / STEPS_BETWEEN_FAULTS:
            gateway = world.random.choice(world.gateways)
            match world.random.randrange(4):
                case 0:
                    world.crash_worker()
                case 1:
                    world.cut(gateway)
                case 2:
                    world.restart_gateway(gateway)
                case 3:
                    world.crash_worker()
                    world.restart_gateway(gateway)


@pytest.mark.parametrize("seed", range(24))
def test_each_number_is_settled_once_whatever_crashes(seed: int) -> None:
    world = World(seed, gateways=1 + seed % 3)
    last = 12
    posters = [Poster(world, f"session-{number}", last, at_once=1 + seed % 4) for number in range(2)]

    run_until_durable(world, posters, faults=True)

    for number in range(2):
        record = world.stored(f"session-{number}")
        assert record is not None
        assert record.version == last, "settled segments"
        assert [stream.settled_upto for stream in record.streams] == [last]
        assert [stream.settled_above for stream in record.streams] == [()]


@pytest.mark.soak
def test_each_number_is_settled_once_over_many_seeds() -> None:
    for seed in range(100, 1100):
        test_each_number_is_settled_once_whatever_crashes(seed)


def test_posting_in_order_is_never_refused_while_nothing_fails() -> None:
    world = World(1, gateways=1)
    poster = Poster(world, "s", 30, at_once=8)
    run_until_durable(world, [poster], faults=False)
    assert poster.refusals == []


# ---- single steps ----


def posted(world: World, gateway: SimulatedGateway, sequence: int, oldest: int = 1) -> Posted:
    one = Posted(1.0, FRAMES, sequence, world.now_s)
    return gateway.core.post("s", "wrist", "imu", one, oldest)


def durable(world: World, *all_posted: Posted) -> None:
    for _ in range(5_000):
        world.step()
        if all(one.is_final for one in all_posted):
            break
    assert [(one.code, one.is_durable) for one in all_posted] == [("", True)] * len(all_posted)


def fused(world: World, one: Posted) -> None:
    """Sooner than a stream is left to another gateway."""
    for _ in range(int(0.8 * LEAVE_S / TICK_S)):
        world.step()
        if one.is_fused:
            break
    assert one.is_fused


def refusal(world: World, one: Posted) -> str:
    for _ in range(5_000):
        world.step()
        if one.is_final:
            break
    return one.code


def test_a_number_that_would_leave_a_gap_is_refused() -> None:
    world = World(2, gateways=1)
    (gateway,) = world.gateways
    assert refusal(world, posted(world, gateway, 2)) == "sequence_gap"
    durable(world, posted(world, gateway, 1), posted(world, gateway, 2))
    assert refusal(world, posted(world, gateway, 4)) == "sequence_gap"


def test_a_stream_may_start_anywhere_and_leave_gaps_when_its_poster_says_so() -> None:
    world = World(3, gateways=1)
    (gateway,) = world.gateways
    durable(world, posted(world, gateway, 1000, oldest=1000))
    durable(world, posted(world, gateway, 1005, oldest=1005))
    record = world.stored("s")
    assert record is not None
    assert record.version == 2


@pytest.mark.parametrize("seed", range(20))
def test_numbers_may_be_given_up_while_one_below_them_is_on_its_way(seed: int) -> None:
    world = World(seed, gateways=1)
    (gateway,) = world.gateways
    first = posted(world, gateway, 1)
    world.run(seed * 3)
    second = posted(world, gateway, 5, oldest=5)
    world.run(seed)
    durable(world, first, second, posted(world, gateway, 9, oldest=9))
    record = world.stored("s")
    assert record is not None
    assert record.version == 3
    assert [stream.settled_upto for stream in record.streams] == [9]


def test_a_gap_is_told_though_the_window_is_full_of_what_waits_behind_it() -> None:
    world = World(19, gateways=1)
    (gateway,) = world.gateways
    while gateway.core.link.welcome is None:
        world.step()
    narrow = replace(gateway.core.link.welcome, window_segments=4)
    gateway.core.receive(narrow, world.now_s)
    first = posted(world, gateway, 1)
    while not first.is_sent:
        world.step()
    durable(world, first, *(posted(world, gateway, number, oldest=3) for number in range(3, 9)))


def test_a_number_posted_again_tells_that_those_below_it_were_given_up() -> None:
    world = World(20, gateways=1)
    (gateway,) = world.gateways
    durable(world, posted(world, gateway, 1))
    second, third = posted(world, gateway, 2), posted(world, gateway, 3)
    assert gateway.core.withdraw("s", "wrist", second)
    world.run(500)
    assert third.is_sent
    assert not third.is_fused, "the worker waits for the one before"
    assert posted(world, gateway, 3, oldest=3) is third
    durable(world, third)


def test_another_gateway_goes_on_where_the_first_was() -> None:
    world = World(4, gateways=2)
    first, second = world.gateways
    durable(world, posted(world, first, 1))
    durable(world, posted(world, second, 2))
    durable(world, posted(world, first, 3))
    assert refusal(world, posted(world, second, 5)) == "sequence_gap"
    duplicate = posted(world, second, 1)
    durable(world, duplicate)
    assert duplicate.is_duplicate


def test_segments_without_a_number_follow_the_last() -> None:
    world = World(5, gateways=1)
    (gateway,) = world.gateways
    one, two = posted(world, gateway, 1), posted(world, gateway, 0)
    durable(world, one, two)
    assert two.sequence == 2


def test_a_gateway_that_loses_the_stream_says_what_it_does_not_know() -> None:
    world = World(6, gateways=2)
    first, second = world.gateways
    durable(world, posted(world, first, 0))
    unnumbered = posted(world, first, 0)
    while not unnumbered.is_sent:
        world.step()
    first.to_worker.clear()  # it did not get through
    durable(world, posted(world, second, 0))
    assert refusal(world, unnumbered) == "stream_taken"
    record = world.stored("s")
    assert record is not None
    assert record.version == 2


def test_a_gateway_that_was_away_does_not_take_the_segments_of_another_for_its_own() -> None:
    world = World(8, gateways=2)
    away, other = world.gateways
    durable(world, posted(world, away, 0))
    held = [posted(world, away, 0) for _ in range(2)]
    while not all(one.is_sent for one in held):
        world.step()
    world.cut(away)
    fused(world, posted(world, other, 0))
    assert {refusal(world, one) for one in held} == {"stream_taken"}
    durable(world, posted(world, away, 0))
    record = world.stored("s")
    assert record is not None
    assert record.version == 3


def give_accidents(world: World, all_posted: list[Posted]) -> None:
    """Gateways post without numbers, one is cut off or stands still, the worker crashes or loses its groups."""
    random, gateway = world.random, world.random.choice(world.gateways)
    match random.randrange(8):
        case 0:
            world.cut(gateway)
        case 1:
            world.crash_worker()
        case 2:
            epochs = world.dispatcher.owned.epochs
            world.dispatcher.own({})
            world.run(random.choice((0, 50)))
            world.dispatcher.own(epochs)
        case 3:
            world.stand_still(gateway, random.choice((50, 400, 1000)))
        case _:
            all_posted.append(posted(world, gateway, 0))
    world.run(random.choice((1, 5, 20, 100, 600)))


@pytest.mark.parametrize("seed", range(24))
def test_no_gateway_calls_durable_what_another_has_numbered(seed: int) -> None:
    world = World(seed, gateways=2 + seed % 2)
    all_posted: list[Posted] = []
    for _ in range(40):
        give_accidents(world, all_posted)
    for _ in range(MOST_STEPS // 1000):
        world.run(0 if all(one.is_final for one in all_posted) else 1000)
    assert all(one.is_final for one in all_posted)
    record = world.stored("s")
    assert sum(one.is_durable for one in all_posted) <= (record.version if record else 0)


@pytest.mark.soak
def test_no_gateway_calls_durable_what_another_has_numbered_over_many_seeds() -> None:
    for seed in range(100, 1100):
        test_no_gateway_calls_durable_what_another_has_numbered(seed)


@pytest.mark.parametrize("idle_timeout_s", [2.0, 5.0])
@pytest.mark.parametrize("numbers", [(1, 2), (0, 0)])
def test_a_quiet_stream_of_two_gateways_becomes_durable(idle_timeout_s: float, numbers: tuple[int, int]) -> None:
    policy = EnginePolicy(order=OrderPolicy(idle_timeout_s=idle_timeout_s), capacity=64)
    world = World(14, gateways=2, policy=policy)
    ours, others = world.gateways
    one = posted(world, ours, numbers[0])
    fused(world, one)
    durable(world, posted(world, others, numbers[1]), one)


def test_a_stream_of_two_gateways_settles_though_nothing_is_fused_before() -> None:
    world = World(24, gateways=2, policy=EnginePolicy(order=OrderPolicy(mode="hold", idle_timeout_s=2.0), capacity=64))
    ours, others = world.gateways
    first = posted(world, ours, 1)
    world.run(200)
    assert (first.is_sent, first.is_fused) == (True, False)
    durable(world, first, posted(world, others, 2))


def test_a_stream_is_not_left_while_the_worker_may_lack_what_it_had() -> None:
    world = World(16, gateways=1)
    (gateway,) = world.gateways
    core, one = gateway.core, posted(world, gateway, 1)
    fused(world, one)
    world.crash_worker()
    while not any(isinstance(message, m.Opened) for message in gateway.from_worker):
        world.step()
    for message in gateway.from_worker:
        core.receive(message, world.now_s)
    core.receive(m.Nack("stream_taken", "by another", "s", "wrist", 1), world.now_s)
    core.tick(world.now_s + 0.1)
    assert isinstance(core.outgoing(world.now_s + 0.1), m.Open)


def test_a_stream_that_is_left_is_taken_back_once_its_worker_has_lost_the_group() -> None:
    world = World(21, gateways=2, policy=EnginePolicy(order=OrderPolicy(idle_timeout_s=600.0), capacity=64))
    ours, others = world.gateways
    world.dispatcher.route(m.Routes(1, []))
    for number, gateway in enumerate((ours, others) * 4, 1):
        fused(world, posted(world, gateway, number))
    world.run(int(0.8 * LEAVE_S / TICK_S))
    epochs = world.dispatcher.owned.epochs
    world.dispatcher.own({})
    world.dispatcher.own(epochs)
    fused(world, posted(world, others, 9))


def test_a_gateway_that_left_a_stream_knows_nothing_of_it_once_its_worker_has_lost_the_group() -> None:
    world = World(22, gateways=2, policy=EnginePolicy(order=OrderPolicy(idle_timeout_s=600.0), capacity=64))
    ours, others = world.gateways
    world.dispatcher.route(m.Routes(1, []))
    held = posted(world, ours, 0)
    fused(world, held)
    fused(world, posted(world, others, 0))
    epochs = world.dispatcher.owned.epochs
    world.dispatcher.own({})
    world.dispatcher.own(epochs)
    world.restart_gateway(others)
    again = posted(world, others, 0)
    world.stand_still(ours, 500)
    assert (again.is_fused, again.sequence) == (True, held.sequence)
    assert refusal(world, held) == "stream_taken"


@pytest.mark.parametrize("seed", range(12))
def test_what_another_gateway_held_of_a_deleted_session_does_not_bring_it_back(seed: int) -> None:
    world = World(seed, gateways=2, policy=EnginePolicy(order=OrderPolicy(idle_timeout_s=60.0), capacity=64))
    ours, others = world.gateways
    held = posted(world, others, 1)
    fused(world, held)
    fused(world, posted(world, ours, 2))
    world.delete("s", through=ours)
    assert refusal(world, held) == "session_reset"
    world.run(2_000)
    assert world.stored("s") is None
    anew = posted(world, others, 0)
    fused(world, anew)
    record = world.stored("s")
    assert record is not None
    assert record.born > 0


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_session_deleted_beside_this_gateway_begins_at_1_also_for_who_goes_on_first(is_made_anew: bool) -> None:
    world = World(18, gateways=2)
    ours, others = world.gateways
    last = REFUSALS_KEPT + 76
    for number in range(1, last, 50):
        durable(world, *(posted(world, others, number + place) for place in range(50)))
    world.delete("s", through=ours)
    if is_made_anew:
        durable(world, ours.core.post("s", "ankle", "imu", Posted(1.0, FRAMES, 1, world.now_s), 1))
    else:
        world.run(500)
    assert refusal(world, posted(world, others, last + 1, oldest=last)) == "session_reset"
    again = posted(world, others, 1)
    durable(world, again)
    assert not again.is_duplicate
    record = world.stored("s")
    assert record is not None
    assert record.version == 1 + is_made_anew


def test_a_worker_that_crashes_makes_no_session_anew() -> None:
    world = World(17, gateways=1, policy=EnginePolicy(order=OrderPolicy(), capacity=64))
    (gateway,) = world.gateways
    held = posted(world, gateway, 1)
    fused(world, held)
    world.crash_worker()
    durable(world, held)


def test_a_gateway_that_left_a_stream_takes_it_back_for_what_is_new() -> None:
    world = World(15, gateways=2, policy=EnginePolicy(order=OrderPolicy(), capacity=64))
    ours, others = world.gateways
    for number, gateway in enumerate((ours, others, ours, others), 1):
        fused(world, posted(world, gateway, number))


def test_a_refusal_is_repeated_to_who_posts_again_through_another_gateway() -> None:
    world = World(7, gateways=2)
    first, second = world.gateways
    durable(world, posted(world, first, 1))
    wrong = Posted(2.0, np.ones((2, 7), dtype=np.float32), 2, world.now_s)
    assert refusal(world, first.core.post("s", "wrist", "imu", wrong, 1)) == "bad_segment"
    assert refusal(world, posted(world, second, 2)) == "bad_segment"
    durable(world, posted(world, second, 3))


def test_a_refusal_is_repeated_by_the_same_gateway_when_it_holds_the_segment_no_more() -> None:
    world = World(13, gateways=1)
    (gateway,) = world.gateways
    wrong = Posted(2.0, np.ones((2, 7), dtype=np.float32), 1, world.now_s)
    assert refusal(world, gateway.core.post("s", "wrist", "imu", wrong, 1)) == "bad_segment"
    durable(world, posted(world, gateway, 2), posted(world, gateway, 3))
    assert gateway.core.is_idle
    assert refusal(world, posted(world, gateway, 1)) == "bad_segment"


def test_a_deleted_session_starts_again_and_who_goes_on_is_told() -> None:
    world = World(8, gateways=1)
    (gateway,) = world.gateways
    durable(world, posted(world, gateway, 1), posted(world, gateway, 2))
    world.dispatcher.engine.forget(next(iter(world.dispatcher.engine.sessions)))
    world.disk.records.clear()
    assert refusal(world, posted(world, gateway, 3)) == "session_reset"
    again = posted(world, gateway, 1)
    durable(world, again)
    assert not again.is_duplicate


def test_what_was_never_sent_can_be_taken_back() -> None:
    world = World(9, gateways=1)
    (gateway,) = world.gateways
    one = posted(world, gateway, 1)
    assert gateway.core.withdraw("s", "wrist", one)
    assert gateway.core.is_idle
    durable(world, posted(world, gateway, 1))
    sent = posted(world, gateway, 2)
    while not sent.is_sent:
        world.step()
    assert not gateway.core.withdraw("s", "wrist", sent)


def test_forgetting_a_session_forgets_what_was_posted_to_it() -> None:
    world = World(10, gateways=1)
    (gateway,) = world.gateways
    one = posted(world, gateway, 1)
    gateway.core.forget_session("s")
    assert one.code == "session_reset"
    assert gateway.core.is_idle


def test_streams_are_forgotten_when_idle_and_segments_given_up_when_old() -> None:
    world = World(11, gateways=1)
    (gateway,) = world.gateways
    durable(world, posted(world, gateway, 1))
    assert gateway.core.fused_upto("s", "wrist") == 1
    assert gateway.core.tidy(unused_since_s=world.now_s + 1, posted_before_s=0.0) == 0
    assert gateway.core.fused_upto("s", "wrist") == 0

    one = posted(world, gateway, 2)
    assert gateway.core.tidy(unused_since_s=0.0, posted_before_s=world.now_s + 1) == 1
    assert one.code == "timeout"
    assert gateway.core.is_idle
    durable(world, posted(world, gateway, 2))


def test_the_buffer_is_bounded_and_one_segment_always_fits() -> None:
    world = World(12, gateways=1)
    (gateway,) = world.gateways
    assert gateway.core.has_room(1 << 30)
    posted(world, gateway, 1)
    assert not gateway.core.has_room(1 << 30)
    assert gateway.core.has_room(1000)
