"""Other threads speak to the worker's loop while it comes to its end."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path

import pytest
import zmq

from runtime import messages as m
from runtime import unsent
from runtime.dispatch.dispatcher import Dispatcher
from runtime.dispatch.policy import DispatchPolicy
from runtime.dispatch.store_jobs import StoreJob
from runtime.engine.engine import Engine
from runtime.engine.policies import EnginePolicy
from runtime.keys import KEY_GROUPS
from runtime.security import Tokens
from runtime.store.sqlite import SqliteStore
from runtime.wire import encode
from runtime.worker_loop import FINISH_FOR_S, MORE_PORTS, SEND_QUEUE_MESSAGES, WorkerLoop
from tests.cluster.running import wait_until
from tests.runtime.toy_model import ToyModel
from tests.runtime.worker_harness import LIMIT_S


@pytest.fixture
def turns() -> list[float]:
    """When each of the loop was over."""
    return []


@pytest.fixture
def loop(tmp_path: Path, turns: list[float]) -> WorkerLoop:
    """Of a worker that serves every key group."""
    dispatcher = Dispatcher(Engine(ToyModel(), EnginePolicy()), "w0", "life-1", Tokens({}), DispatchPolicy())
    store = SqliteStore(tmp_path / "grf.db")
    dispatcher.own(store.claim("w0", dict.fromkeys(range(KEY_GROUPS), 0)))
    store.close()
    loop = WorkerLoop(dispatcher, lambda: SqliteStore(tmp_path / "grf.db"), turns.append)
    loop.start()
    return loop


def test_a_loop_that_has_ended_cancels_what_it_is_asked(loop: WorkerLoop) -> None:
    assert loop.call(lambda: 7).result(LIMIT_S) == 7
    assert loop.stop()
    with pytest.raises(CancelledError):
        loop.call(lambda: 7).result(LIMIT_S)
    assert not loop.stop()


def test_whoever_asks_while_it_ends_is_answered_or_cancelled(loop: WorkerLoop) -> None:
    """Before, the bell was closed under them, or they waited for ever."""
    futures: list[Future[int]] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            while loop.is_alive or len(futures) < 100:
                futures.append(loop.call(lambda: 7))
        except BaseException as error:
            errors.append(error)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    loop.kill()
    for asker in askers:
        asker.join(LIMIT_S)
    assert not errors
    assert not wait(futures, LIMIT_S).not_done
    assert all(future.cancelled() or future.result() == 7 for future in futures)


def test_a_store_that_has_much_to_tell_keeps_nobody_waiting(loop: WorkerLoop, turns: list[float]) -> None:
    """Before, all that it had done, and did meanwhile, was looked at in one turn: whoever read histories without end
    stopped the worker until its lease was over."""
    turn_of_job: list[int] = []

    def look(outcome: object, now_s: float) -> None:
        turn_of_job.append(len(turns))
        until_s = time.monotonic() + FINISH_FOR_S
        while time.monotonic() < until_s:
            pass

    def ask() -> None:
        for _ in range(20):
            loop.dispatcher.store.put(StoreJob(lambda store: None, look, look))

    loop.call(ask).result(LIMIT_S)
    wait_until(lambda: len(turn_of_job) == 20, LIMIT_S, "all is told")
    assert len(set(turn_of_job)) == 20
    loop.kill()


def test_workers_of_one_machine_have_ports_beside_each_other(loop: WorkerLoop) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as other:
        first = other.bind_to_random_port("tcp://127.0.0.1", min_port=20_000, max_port=30_000)
        assert first < loop.bind("127.0.0.1", first) <= first + MORE_PORTS
    loop.kill()


@pytest.mark.parametrize("messages", range(20, 24))
def test_a_connection_that_is_dropped_is_told_nothing_more_of_what_it_was_to_be_told(
    loop: WorkerLoop, monkeypatch: pytest.MonkeyPatch, messages: int
) -> None:
    """Of a refusal and the acknowledgement behind it the second alone says that the segment was fused."""
    monkeypatch.setattr(unsent, "CONNECTION_BYTES", 8 * unsent.MESSAGE_OVERHEAD_BYTES)
    loop.call(lambda: loop._socket.bind("inproc://worker")).result(LIMIT_S)
    reads_nothing = loop._context.socket(zmq.DEALER)
    reads_nothing.setsockopt(zmq.RCVHWM, 1)
    reads_nothing.setsockopt(zmq.ROUTING_ID, b"reads nothing")
    reads_nothing.connect("inproc://worker")

    def tell(number_of: int) -> bool:
        for number in range(number_of):
            loop.dispatcher.outbox.send(b"reads nothing", m.Ack((m.StreamAck("s", "mic", number, number, number),)))
        loop._send()
        return loop._unsent.is_empty

    assert not loop.call(lambda: tell(SEND_QUEUE_MESSAGES + 5)).result(LIMIT_S)
    assert loop.call(lambda: tell(messages)).result(LIMIT_S)
    reads_nothing.close(linger=0)
    loop.kill()


def test_what_was_received_just_before_the_end_is_saved_as_well(loop: WorkerLoop, tmp_path: Path) -> None:
    """All was saved when it was asked to end: what it had received in the same turn was dirty when it told."""
    sessions = [f"s{number}" for number in range(100)]
    dispatcher = loop.dispatcher

    def receive(*messages: m.Message) -> None:
        for message in messages:
            frames = [bytes(frame) for frame in encode(message)]
            dispatcher.receive(b"\0robot", frames, time.monotonic(), time.time())

    def open_streams(stream: str) -> None:
        receive(m.Hello("robot"), *(m.Open(session, stream, "audio", 1) for session in sessions))

    def all_are_saved() -> bool:
        return len(dispatcher.engine.sessions) == len(sessions) and dispatcher.saver.is_clean

    def open_and_drain() -> bool:
        open_streams("second")
        return loop._drain(time.monotonic() + LIMIT_S)

    loop.call(lambda: open_streams("first"))
    wait_until(lambda: loop.call(all_are_saved).result(LIMIT_S), LIMIT_S, "all sessions are saved")
    assert loop.call(open_and_drain).result(LIMIT_S)
    loop.kill()
    store = SqliteStore(tmp_path / "grf.db")
    assert [len(record.streams) for record in store.records()] == [2] * len(sessions)
    store.close()
