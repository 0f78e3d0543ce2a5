"""Does the simulator see what it is there to see? Each of these plants one fault, and some run must fail of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from runtime import messages as m
from runtime.client.stream_buffer import StreamBuffer
from runtime.dispatch.policy import DispatchPolicy
from runtime.dispatch.publishing import Publishing
from runtime.dispatch.turn_clock import TurnClock
from runtime.engine import checkpoint
from runtime.engine.engine import Engine
from runtime.engine.flow import Flow
from runtime.engine.policies import OrderPolicy, QuotaPolicy
from runtime.engine.sequences import SequenceSet
from runtime.engine.session import Session, StreamState
from runtime.store import memory
from tests.simulation.run import Run
from tests.simulation.scenario import Fault, FaultKind, Scenario, short_scenario

Plant = Callable[[pytest.MonkeyPatch], None]


def accidents(scenario: Scenario, kind: FaultKind, duration_s: float, steps: Iterable[int]) -> Iterator[Scenario]:
    return (scenario.with_faults(Fault(step, kind, duration_s, target=step)) for step in steps)


def durable_is_said_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    take_records = checkpoint.take_records

    def take(engine: Engine, *rest: Any) -> list[Any]:
        records = take_records(engine, *rest)
        checkpoint.committed(engine, records)
        return records

    patch.setattr(checkpoint, "take_records", take)


def sequence_marks_are_not_restored(patch: pytest.MonkeyPatch) -> None:
    restore = checkpoint.restore

    def without_marks(engine: Engine, session: Session, *rest: Any) -> None:
        restore(engine, session, *rest)
        for state in session.streams.values():
            state.received, state.fused, state.settled = SequenceSet(), SequenceSet(), SequenceSet()
            state.durable = 0

    patch.setattr(checkpoint, "restore", without_marks)


def the_store_does_not_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory, "check_epochs", lambda current, epochs, keys: None)


def refusals_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    def consume(state: StreamState, sequence: int, code: str) -> None:
        for numbers in (state.received, state.fused, state.settled):
            numbers.add(sequence)

    patch.setattr(StreamState, "consume", consume)


def a_new_session_waits_for_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "gather", lambda engine, session, now_s: None)


def a_standstill_of_the_worker_counts_as_silence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TurnClock, "__call__", lambda clock: clock._clock())


def an_end_overtakes_what_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    open_or_end = StreamBuffer.open_or_end

    def without_upto(buffer: StreamBuffer) -> m.Open | m.End | None:
        message = open_or_end(buffer)
        return replace(message, upto=0) if isinstance(message, m.End) else message

    patch.setattr(StreamBuffer, "open_or_end", without_upto)


def nobody_is_told_of_a_deletion(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Publishing, "forget", lambda publishing, session, *_: publishing._engine.forget(session.key))


def what_is_held_back_keeps_its_place_in_the_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Flow, "tell_if_held_back", lambda flow, session, stream: None)


@dataclass(frozen=True)
class Case:
    plant: Plant
    scenarios: Callable[[], Iterable[Scenario]]


SHORT = short_scenario("worker killed")
SLOWED = replace(SHORT, quota=QuotaPolicy(max_segments_per_s=8.0), every_s=0.1, publishers="one per session")
HELD = replace(
    SHORT, order=OrderPolicy(mode="hold"), publishers="one per session", dispatch=DispatchPolicy(window_segments=1)
)
CASES = [
    Case(durable_is_said_before_the_commit, lambda: [SHORT]),
    Case(sequence_marks_are_not_restored, lambda: accidents(SHORT, "worker killed", 0.3, range(140, 176))),
    Case(the_store_does_not_fence, lambda: accidents(SHORT, "worker frozen", 6.0, range(20, 160, 5))),
    Case(
        refusals_are_forgotten,
        lambda: (
            accident
            for seed in range(4)
            for accident in accidents(replace(SHORT, seed=seed), "connection reset", 0.0, range(100, 176))
        ),
    ),
    Case(a_new_session_waits_for_nobody, lambda: accidents(SHORT, "worker killed", 1.0, range(1, 60))),
    Case(
        a_standstill_of_the_worker_counts_as_silence, lambda: accidents(SHORT, "worker frozen", 2.4, range(30, 160, 2))
    ),
    Case(an_end_overtakes_what_is_sent_again, lambda: (replace(SLOWED, seed=seed) for seed in range(60))),
    Case(nobody_is_told_of_a_deletion, lambda: accidents(SHORT, "session deleted", 0.0, range(140, 200))),
    Case(what_is_held_back_keeps_its_place_in_the_window, lambda: (replace(HELD, seed=seed) for seed in range(60))),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.plant.__name__)
def test_a_planted_fault_is_found(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for scenario in case.scenarios():
        with monkeypatch.context() as patch:
            case.plant(patch)
            passes_with_it = passes(scenario)
        if not passes_with_it and passes(scenario):
            return
    pytest.fail("no run has noticed")


def passes(scenario: Scenario) -> bool:
    try:
        Run(scenario).go()
    except AssertionError:
        return False
    return True
