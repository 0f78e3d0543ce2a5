"""A process has ended for certain, or it only seems so."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable

import pytest

from runtime import life_line
from runtime.death_watch import DeathWatch
from runtime.life_line import hold_out
from runtime.placement import Beat

HOST = "127.0.0.1"
WITHIN_S = 10.0


def beat(life_port: int, incarnation: str = "a") -> Beat:
    return Beat("worker-0", incarnation, f"tcp://{HOST}:5570", "http://m", life_port)


def lives(_: Beat) -> None:
    threading.Event().wait(WITHIN_S)


def breaks(_: Beat) -> None:
    raise ConnectionError("the actor's reference broke")


def watch(hold_reference: Callable[[Beat], None], *beats: Beat) -> queue.Queue[str]:
    told: queue.Queue[str] = queue.Queue()
    witness = DeathWatch(hold_reference, told.put)
    for one in beats:
        witness.watch(one)
    return told


def test_who_lets_go_of_its_life_line_has_ended() -> None:
    line, port = hold_out(HOST)
    told = watch(lives, beat(port), beat(port))
    line.close()
    assert told.get(timeout=WITHIN_S) == "worker-0/a"
    assert told.empty(), "it is watched once, however often it beats"


def test_who_is_not_there_any_more_when_the_watch_begins_has_ended() -> None:
    line, port = hold_out(HOST)
    line.close()
    assert watch(lives, beat(port)).get(timeout=WITHIN_S) == "worker-0/a"


def test_a_broken_reference_alone_says_nothing_while_the_process_holds_its_line_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray may have lost a node that is only cut off."""
    monkeypatch.setattr(life_line, "PROBES", 2)
    line, port = hold_out(HOST)
    probed = threading.Event()

    def breaks_and_tells(one: Beat) -> None:
        probed.set()
        breaks(one)

    told = watch(breaks_and_tells, beat(port))
    assert probed.wait(WITHIN_S)
    with pytest.raises(queue.Empty):
        told.get(timeout=0.5)
    line.close()
    assert told.get(timeout=WITHIN_S) == "worker-0/a"


def test_a_broken_reference_is_believed_once_the_machine_refuses_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((HOST, 0)) as free:
        port = int(free.getsockname()[1])
    monkeypatch.setattr("runtime.death_watch.wait_for_end", lambda host, port: False)  # it cannot say
    assert watch(breaks, beat(port)).get(timeout=WITHIN_S) == "worker-0/a"
