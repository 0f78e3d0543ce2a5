from __future__ import annotations

from runtime.dispatch.turn_clock import MAX_STANDSTILL_S, TurnClock


def test_it_keeps_time_while_the_worker_turns() -> None:
    real_s = 500.0
    clock = TurnClock(lambda: real_s)
    started_s = clock()
    for _ in range(100):
        real_s += MAX_STANDSTILL_S / 2
        clock()
    assert clock() - started_s == 100 * MAX_STANDSTILL_S / 2


def test_it_stands_still_while_the_worker_does() -> None:
    real_s = 500.0
    clock = TurnClock(lambda: real_s)
    before_s = clock()
    real_s += 3600.0
    assert clock() - before_s == MAX_STANDSTILL_S
    assert clock() - before_s == MAX_STANDSTILL_S, "reading it again is no turn"
