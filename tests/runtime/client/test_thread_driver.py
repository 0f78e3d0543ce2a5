"""The thread that drives the sockets: what it waits for, and what goes on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from math import inf
from typing import Any

import pytest
import zmq

from runtime import messages as m
from runtime.client.errors import ClientClosed
from runtime.client.fleet import HOME
from runtime.client.locate import Locate, NotLocated
from runtime.client.thread_driver import ThreadDriver
from runtime.wire import decode

SOON_S = 20.0


class OneMessage:
    """A lane with one thing to say."""

    def __init__(self) -> None:
        self._messages: list[m.Message] = [m.Ping(7)]

    def outgoing(self, now_s: float) -> m.Message | None:
        return self._messages.pop() if self._messages else None


class TwoLanes:
    """A fleet that wants a lane to a worker it knows, and one to wherever it is told."""

    wake_at_s = inf

    def __init__(self, known: str) -> None:
        self._lanes = {HOME: OneMessage(), known: OneMessage()}
        self.home: list[str] = []

    def unwanted(self, open_lanes: Collection[str]) -> list[str]:
        return []

    def missing(self, open_lanes: Collection[str]) -> list[tuple[str, OneMessage]]:
        return [(name, lane) for name, lane in self._lanes.items() if name not in open_lanes]

    def next_home(self) -> str | None:
        return None

    def connected(self, name: str, lane: OneMessage, endpoint: str, now_s: float) -> None:
        if name == HOME:
            self.home.append(endpoint)

    def not_located(self, why: str) -> None: ...

    def receive(self, lane: OneMessage, message: m.Message, now_s: float) -> None: ...

    def tick(self, now_s: float) -> None: ...


@pytest.fixture
def worker() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind("tcp://127.0.0.1:*")
        socket.setsockopt(zmq.RCVTIMEO, int(1000 * SOON_S))
        yield socket


def endpoint_of(socket: zmq.Socket[bytes]) -> str:
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


def driver_of(core: TwoLanes, locate: Locate) -> ThreadDriver[Any]:
    return ThreadDriver(core, locate, "test")


def test_lanes_flow_while_a_gateway_hangs(worker: zmq.Socket[bytes]) -> None:
    answers = threading.Event()

    def hanging() -> str:
        answers.wait()
        return endpoint_of(worker)

    core = TwoLanes(endpoint_of(worker))
    driver = driver_of(core, hanging)
    try:
        _, *frames = worker.recv_multipart()
        assert decode(frames) == m.Ping(7)
        assert core.home == []
        answers.set()
        worker.recv_multipart()
        assert core.home == [endpoint_of(worker)]
    finally:
        answers.set()
        driver.close()


def test_a_client_closes_while_a_gateway_hangs(worker: zmq.Socket[bytes]) -> None:
    answers = threading.Event()

    def hanging() -> str:
        answers.wait()
        raise NotLocated("too late")

    driver = driver_of(TwoLanes(endpoint_of(worker)), hanging)
    worker.recv_multipart()
    closing = threading.Thread(target=driver.close)
    closing.start()
    closing.join(SOON_S)
    assert not closing.is_alive()
    answers.set()


def test_a_gateway_that_names_no_worker_is_asked_again(worker: zmq.Socket[bytes]) -> None:
    asked: list[int] = []

    def at_last() -> str:
        asked.append(1)
        if len(asked) < 3:
            raise NotLocated("starting")
        return endpoint_of(worker)

    core = TwoLanes(endpoint_of(worker))
    driver = driver_of(core, at_last)
    try:
        for _ in range(2):
            worker.recv_multipart()
        assert core.home == [endpoint_of(worker)]
        assert len(asked) == 3
    finally:
        driver.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # which is what the test is about
def test_a_thread_that_fails_tells_whoever_waits(worker: zmq.Socket[bytes]) -> None:
    """Else a publisher would go on taking segments that nobody sends."""
    core = TwoLanes(endpoint_of(worker))
    driver = driver_of(core, lambda: endpoint_of(worker))
    try:
        worker.recv_multipart()
        core.tick = lambda now_s: 1 / 0  # type: ignore[method-assign, assignment]  # a defect of ours
        with driver.changed:
            driver.wake()
            with pytest.raises(ClientClosed, match="has failed: ZeroDivisionError"):
                driver.wait(lambda: False, SOON_S)
            with pytest.raises(ClientClosed, match="has failed: ZeroDivisionError"):
                driver.wake()
    finally:
        driver.close()
