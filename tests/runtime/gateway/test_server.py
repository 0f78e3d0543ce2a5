"""The gateway behind a real HTTP server, with the runtime's own clients finding their worker through it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import uvicorn

from runtime.client import Publisher, StateClient
from runtime.gateway.app import create_app
from runtime.gateway.backend import WorkerBackend
from runtime.gateway.route_table import FixedRoutes
from tests.runtime.gateway.posting import path_of
from tests.runtime.worker_harness import RunningWorker


@pytest.fixture
def address(worker: RunningWorker) -> Iterator[str]:
    config = uvicorn.Config(
        create_app(WorkerBackend(FixedRoutes(worker.endpoint))), port=0, log_level="warning", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="gateway")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def test_a_session_is_published_followed_and_read_over_http(address: str) -> None:
    session = "ward 3/bed 12"
    with httpx.Client(base_url=address, timeout=10) as http, contextlib.ExitStack() as stack:
        answer = stack.enter_context(http.stream("GET", path_of(session, "/events")))
        lines = answer.iter_lines()
        with Publisher(address) as publisher, StateClient(address) as reader:
            for number in range(5):
                publisher.publish(session, "wrist", "imu", np.ones((2, 2)), number / 100)
            publisher.flush(10)
            assert reader.state(session)["settled"]["version"] == 5
        while True:
            line = next(lines)
            if line.startswith("data: ") and json.loads(line[6:])["version"] == 5:
                break
        assert http.get(path_of(session)).json()["session"] == session
        assert http.get("/v1/sessions/ward%203/bed%2012").status_code == 404
