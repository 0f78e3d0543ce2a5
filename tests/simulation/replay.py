"""Runs that say how to replay them when they fail."""

from __future__ import annotations

from tests.simulation.run import Report, Run
from tests.simulation.scenario import Scenario, random_scenario


def run(scenario: Scenario, long: bool = False) -> Report:
    try:
        return Run(scenario).go()
    except AssertionError as error:
        raise AssertionError(f"{error}\nreplay: {_command(scenario, long)}") from error


def _command(scenario: Scenario, long: bool) -> str:
    if scenario == random_scenario(scenario.seed, long):
        return f"python -m tests.simulation --seed {scenario.seed}{' --long' if long else ''}"
    accidents = (
        f'--accident "{fault.kind}" --at {fault.at_step} --for {fault.duration_s} --target {fault.target}'
        for fault in scenario.faults
    )
    return f"python -m tests.simulation --seed {scenario.seed} {' '.join(accidents)}"
