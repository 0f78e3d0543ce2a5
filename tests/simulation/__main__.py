"""Replay a run of the simulator.

python -m tests.simulation --seed 17                                      a random run
python -m tests.simulation --seed 1000 --runs 500                         many, stopping at the first that fails
python -m tests.simulation --accident "worker killed" --at 42 --for 0.3   a crash point of the short run
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import get_args

from tests.simulation.replay import run
from tests.simulation.scenario import Fault, FaultKind, random_scenario, short_scenario


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=1, help="so many seeds from this one on")
    parser.add_argument("--long", action="store_true", help="the long form, as in the soak")
    parser.add_argument("--accident", action="append", default=[], choices=get_args(FaultKind))
    parser.add_argument("--at", action="append", default=[], type=int, help="step after which it happens")
    parser.add_argument("--for", action="append", default=[], type=float, dest="durations", help="seconds")
    parser.add_argument("--target", action="append", default=[], type=int)
    arguments = parser.parse_args()
    if arguments.accident:
        rows = zip(arguments.at, arguments.accident, arguments.durations, arguments.target, strict=True)
        scenarios = [short_scenario(arguments.accident[0], arguments.seed).with_faults(*(Fault(*row) for row in rows))]
    else:
        seeds = range(arguments.seed, arguments.seed + arguments.runs)
        scenarios = [random_scenario(seed, arguments.long) for seed in seeds]
    for scenario in scenarios:
        report = run(scenario, arguments.long)
        if len(scenarios) == 1:
            print(scenario, Counter(report.steps), report, sep="\n\n")


if __name__ == "__main__":
    main()
