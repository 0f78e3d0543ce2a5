"""The whole path in virtual time: publishers, wire, dispatcher, engine, store, and every accident at every step.

`Run.go` checks, on the way and at the end: nothing durable is lost, nothing is fused twice, no session is forked, every
settled state is the offline model's over the sorted segments, every segment is durable or its publisher was told why
not, no worker calls durable what is not in the store, no tenant is shown another's, and nothing is late that was not
kept away for longer than it is waited for. Whatever fails says how to replay it.
"""

from __future__ import annotations

from random import Random
from time import monotonic

import pytest

from tests.simulation.replay import run
from tests.simulation.scenario import Fault, FaultKind, random_scenario, short_scenario

EVERYWHERE: tuple[tuple[FaultKind, float], ...] = (
    ("worker killed", 0.3),
    ("worker's machine lost", 0.3),
    ("worker frozen", 1.5),
    ("worker frozen", 6.0),
    ("groups moved", 0.0),
    ("connection reset", 0.0),
    ("connection in a black hole", 0.0),
    ("store away", 0.1),
    ("store away", 3.0),
    ("store loses answers", 0.1),
    ("publisher pauses", 1.0),
    ("publisher restarted", 0.3),
)
"""accidents, and how long they last"""


@pytest.mark.parametrize(("kind", "duration_s"), EVERYWHERE)
def test_an_accident_at_any_step_of_a_run_changes_nothing(kind: FaultKind, duration_s: float) -> None:
    scenario = short_scenario(kind)
    undisturbed = run(scenario)
    assert undisturbed.durable == 24 - undisturbed.refused > 20
    every = {"worker killed": 1, "connection reset": 1, "store loses answers": 2}.get(kind, 4)
    for step in range(1, len(undisturbed.steps) + 1, every):
        fault = Fault(step, kind, duration_s, target=step // every)
        report = run(scenario.with_faults(fault))
        assert (report.late, report.lineages) == (0, undisturbed.lineages), fault


def test_two_accidents_at_any_two_steps_change_nothing() -> None:
    kinds: list[FaultKind] = ["worker killed", "connection reset", "store away", "store loses answers", "worker frozen"]
    scenario = short_scenario("worker killed")
    undisturbed = run(scenario)
    random, steps = Random(7), len(undisturbed.steps)
    for _ in range(100):
        first, second = (
            Fault(random.randint(1, steps + 40), random.choice(kinds), random.choice((0.1, 1.0)), random.randrange(4))
            for _ in range(2)
        )
        report = run(scenario.with_faults(first, second))
        assert (report.late, report.lineages) == (0, undisturbed.lineages), (first, second)


def test_a_worker_that_wakes_after_it_was_replaced_writes_nothing() -> None:
    scenario = short_scenario("worker frozen")
    steps = len(run(scenario).steps)
    fenced = sum(run(scenario.with_faults(Fault(at, "worker frozen", 6.0))).fenced for at in range(30, steps, 15))
    assert fenced > 0, "no zombie ever tried to write: this shows nothing"


def test_a_session_deleted_at_any_step_begins_anew_and_everyone_is_told() -> None:
    scenario = short_scenario("session deleted")
    for step in range(1, len(run(scenario).steps) + 40, 3):
        run(scenario.with_faults(Fault(step, "session deleted", target=step)))


@pytest.mark.parametrize("block", range(5))
def test_whatever_goes_wrong_the_promises_hold(block: int) -> None:
    for seed in range(20 * block, 20 * (block + 1)):
        run(random_scenario(seed))


def test_the_same_seed_is_the_same_run() -> None:
    for seed in (11, 12):
        first, second = run(random_scenario(seed)), run(random_scenario(seed))
        assert first.steps == second.steps
        assert first == second


@pytest.mark.soak
@pytest.mark.parametrize("block", range(40))
def test_whatever_goes_wrong_for_long_the_promises_hold(block: int) -> None:
    until_s = monotonic() + 60.0
    for seed in range(1_000_000 + 10_000 * block, 1_000_000 + 10_000 * (block + 1)):
        run(random_scenario(seed, long=True), long=True)
        if monotonic() > until_s:
            return


@pytest.mark.soak
def test_two_accidents_at_every_two_steps_change_nothing() -> None:
    kinds: tuple[FaultKind, ...] = ("worker killed", "connection reset", "store loses answers")
    scenario = short_scenario("worker killed")
    undisturbed = run(scenario)
    steps = len(undisturbed.steps)
    for first in range(1, steps + 1, 3):
        for second in range(first + 1, steps + 60, 5):
            faults = [Fault(at, kinds[(first + second + i) % 3], 0.2, at) for i, at in enumerate((first, second))]
            report = run(scenario.with_faults(*faults))
            assert (report.late, report.lineages) == (0, undisturbed.lineages), faults
