"""The whole path in virtual time: publishers, wire, dispatcher, engine, store, and every accident at every step.

`Run.go` checks at the end, and on the way: nothing durable is lost, nothing is fused twice, every settled state is the
offline model's over the sorted segments, every segment is durable or was refused and its publisher told.
A seed that fails: `python -m tests.simulation --seed N`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from runtime.engine.order import OrderPolicy
from tests.simulation.run import Run
from tests.simulation.scenario import Fault, FaultKind, Scenario, random_scenario

SHORT = Scenario(sessions=2, streams=2, segments=4, every_s=0.2)
PATIENT = replace(SHORT, order=OrderPolicy(idle_timeout_s=12.0))
"""waits for a publisher longer than one takes to notice that its worker's machine is gone"""
ACCIDENTS: tuple[FaultKind, ...] = (
    "worker killed",
    "worker's machine lost",
    "connection reset",
    "store away",
    "store loses answers",
)


def steps_of(scenario: Scenario) -> int:
    """How many steps an undisturbed run has: a message delivered, a turn worked, a store job run or answered."""
    return len(Run(scenario).go().steps)


def crash_points(scenario: Scenario, every: int) -> Iterator[int]:
    return iter(range(1, steps_of(scenario) + 1, every))


def test_an_undisturbed_run_loses_nothing_and_resends_nothing() -> None:
    report = Run(SHORT).go()
    assert (report.durable, report.refused, report.late, report.resent) == (16, 0, 0, 0)


def test_the_same_seed_gives_the_same_run() -> None:
    assert Run(random_scenario(11)).go() == Run(random_scenario(11)).go()


@pytest.mark.parametrize("kind", ACCIDENTS)
def test_an_accident_at_every_step_of_a_run_changes_nothing(kind: FaultKind) -> None:
    scenario = PATIENT if kind == "worker's machine lost" else SHORT
    undisturbed = Run(scenario).go()
    every = 1 if kind in ("worker killed", "store loses answers") else 3
    for step in crash_points(scenario, every):
        report = Run(scenario.with_faults(Fault(step, kind, duration_s=0.3))).go()
        assert (report.late, report.lineages) == (0, undisturbed.lineages), f"{kind} at step {step}"


def test_two_crashes_at_any_pair_of_steps_change_nothing() -> None:
    undisturbed = Run(SHORT).go()
    random, steps = Random(7), steps_of(SHORT)
    for _ in range(60):
        first, second = sorted(random.sample(range(1, steps + 20), 2))
        kinds = [random.choice(ACCIDENTS[:1] + ACCIDENTS[2:]) for _ in range(2)]
        faults = (Fault(first, kinds[0], duration_s=0.3), Fault(second, kinds[1], duration_s=0.3))
        report = Run(SHORT.with_faults(*faults)).go()
        assert (report.late, report.lineages) == (0, undisturbed.lineages), f"{faults}"


def test_a_frozen_worker_that_wakes_after_it_was_replaced_is_fenced() -> None:
    """It writes nothing and acknowledges nothing as durable that is not in the store: `Run` checks that."""
    fenced = 0
    for step in crash_points(SHORT, 4):
        run = Run(SHORT.with_faults(Fault(step, "worker frozen", duration_s=3.0)))
        run.go()
        fenced += sum(zombie.dispatcher.store.health.fenced for zombie in run.zombies)
    assert fenced > 0, "no zombie ever tried to write: the test shows nothing"


@pytest.mark.parametrize("block", range(8))
def test_whatever_goes_wrong_the_promises_hold(block: int) -> None:
    for seed in range(20 * block, 20 * (block + 1)):
        try:
            Run(random_scenario(seed)).go()
        except AssertionError as error:
            raise AssertionError(f"python -m tests.simulation --seed {seed}: {error}") from error


@pytest.mark.soak
@pytest.mark.parametrize("block", range(100))
def test_whatever_goes_wrong_for_long_the_promises_hold(block: int) -> None:
    for seed in range(1000 + 20 * block, 1000 + 20 * (block + 1)):
        try:
            Run(random_scenario(seed, long=True)).go()
        except AssertionError as error:
            raise AssertionError(f"python -m tests.simulation --seed {seed} --long: {error}") from error
