"""Workshops for tests of `Processes`: importable, for they are made in another process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import cast

from connectors.base import JsonValue, Sample
from connectors.encoders.processes import Job, Outcome, encode_alone
from connectors.errors import BadSample, MissingExtra


class Counting:
    """Gives the sum of what a stream was given so far; some values do harm."""

    def work(self, stream: str) -> CountingWork:
        return CountingWork()


class Together(Counting):
    """And how many streams came in one call."""

    def encode(self, jobs: Sequence[Job]) -> list[Outcome]:
        return [
            outcome if isinstance(outcome := encode_alone(job), Exception) else [*outcome, len(jobs)] for job in jobs
        ]


class Missing:
    def __init__(self) -> None:
        raise MissingExtra("nothing", "media")


class Broken:
    def __init__(self) -> None:
        raise ValueError("no such weights")


class Dying:
    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class CountingWork:
    def __init__(self) -> None:
        self.total = 0.0

    def encode(self, samples: Sequence[Sample]) -> list[float]:
        for sample in samples:
            match sample.value:
                case "bad":
                    raise BadSample("shape", "bad")
                case "defect":
                    raise ZeroDivisionError("one by nothing")
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "slow":
                    time.sleep(0.2)
                case value:
                    self.total += value
        return [self.total]

    def end(self) -> list[float]:
        return [-self.total]

    def snapshot(self) -> JsonValue:
        return self.total

    def restore(self, state: JsonValue) -> None:
        self.total = cast(float, state)
