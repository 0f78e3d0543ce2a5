"""Replay a run of the simulator: `python -m tests.simulation --seed N`."""

from __future__ import annotations

import argparse
from collections import Counter

from tests.simulation.run import Run
from tests.simulation.scenario import random_scenario


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--runs", type=int, default=1, help="so many seeds from this one on")
    parser.add_argument("--long", action="store_true", help="the long form, as in the soak")
    arguments = parser.parse_args()
    for seed in range(arguments.seed, arguments.seed + arguments.runs):
        scenario = random_scenario(seed, arguments.long)
        if arguments.runs == 1:
            print(scenario)
        report = Run(scenario).go()
        if arguments.runs == 1:
            print(Counter(report.steps))
            report.steps.clear()
            print(report)


if __name__ == "__main__":
    main()
