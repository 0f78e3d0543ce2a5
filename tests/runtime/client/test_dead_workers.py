"""A client whose worker dies goes to another at once: it does not wait for the silence of who is not there any more.

Silence alone never gives a connection up here.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import zmq
import zmq.asyncio

from runtime.client import AsyncStateClient, Publisher
from runtime.client import link as link_module
from runtime.engine.policies import EnginePolicy, OrderPolicy
from tests.runtime.worker_harness import HOST, LIMIT_S, RunningWorker


@pytest.fixture(autouse=True)
def nobody_is_given_up_for_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "LOST_AFTER_S", inf)


class Gateway(ThreadingHTTPServer):
    """Names these workers to whoever asks, alive or dead."""

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Answer)
        self.endpoints: list[str] = []
        self.asked = 0

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        self.server.asked += 1
        body = json.dumps({"workers": [{"endpoint": endpoint} for endpoint in self.server.endpoints]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


class DyingWorker:
    """Takes a hello, and dies before it answers."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.RCVTIMEO, int(1000 * LIMIT_S))
        self.endpoint = f"tcp://{HOST}:{self._socket.bind_to_random_port(f'tcp://{HOST}')}"

    def die_at_hello(self) -> None:
        self._socket.recv_multipart()
        self._context.destroy(linger=0)


def test_a_publisher_whose_worker_dies_before_its_welcome_goes_to_another(gateway: Gateway, tmp_path: Path) -> None:
    dying = DyingWorker()
    with RunningWorker(tmp_path) as worker:
        gateway.endpoints = [dying.endpoint, worker.endpoint]
        with Publisher(gateway.address) as publisher:
            dying.die_at_hello()
            publisher.check(LIMIT_S)


def test_a_reader_whose_worker_dies_before_its_welcome_goes_to_another(gateway: Gateway, tmp_path: Path) -> None:
    dying = DyingWorker()

    async def read() -> None:
        async with AsyncStateClient(gateway.address) as client:
            await asyncio.to_thread(dying.die_at_hello)
            await client.check(LIMIT_S)

    with RunningWorker(tmp_path) as worker:
        gateway.endpoints = [dying.endpoint, worker.endpoint]
        asyncio.run(read())


def test_a_worker_that_is_not_there_is_not_waited_for(gateway: Gateway, tmp_path: Path) -> None:
    with socket.socket() as silent, RunningWorker(tmp_path) as worker:
        silent.bind((HOST, 0))  # it never listens: who connects is refused
        gateway.endpoints = [f"tcp://{HOST}:{silent.getsockname()[1]}", worker.endpoint]
        with Publisher(gateway.address) as publisher:
            publisher.check(LIMIT_S)
    assert gateway.asked == 2


def test_what_a_dead_worker_had_not_made_durable_goes_to_the_next(gateway: Gateway, tmp_path: Path) -> None:
    frames = np.ones((4, 3), np.float32)
    policy = EnginePolicy(OrderPolicy(idle_timeout_s=0.02, restart_grace_s=0.02))
    with RunningWorker(tmp_path, engine=policy) as first, Publisher(gateway.address) as publisher:
        gateway.endpoints = [first.endpoint]
        publisher.publish("s", "mic", "audio", frames, 1.0)
        publisher.flush(LIMIT_S)
        first.crash()
        publisher.publish("s", "mic", "audio", frames, 2.0)
        with RunningWorker(tmp_path, engine=policy) as second:  # at another port, with the same store
            gateway.endpoints = [second.endpoint]
            publisher.flush(LIMIT_S)
        assert (publisher.stats.durable, publisher.stats.refused) == (2, 0)


def test_a_lost_connection_that_ends_slowly_does_not_stop_the_next(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a socket that is closed goes on connecting for a while, and tells of each attempt."""
    ending: list[zmq.asyncio.Socket] = []
    close = zmq.asyncio.Socket.close

    def end_slowly(self: zmq.asyncio.Socket, linger: int | None = None) -> None:
        if self.type == zmq.DEALER:
            ending.append(self)
        else:
            close(self, linger)

    async def read() -> None:
        async with AsyncStateClient(gateway.address) as client:
            await client.check(LIMIT_S)
            monkeypatch.undo()
            for lost in ending:
                lost.close(0)

    monkeypatch.setattr(zmq.asyncio.Socket, "close", end_slowly)
    with socket.socket() as silent, RunningWorker(tmp_path) as worker:
        silent.bind((HOST, 0))
        gateway.endpoints = [*3 * [f"tcp://{HOST}:{silent.getsockname()[1]}"], worker.endpoint]
        asyncio.run(read())
