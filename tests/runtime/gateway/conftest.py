"""One real worker for each module of tests, and a gateway in process before it for each test."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from runtime.engine.policies import EnginePolicy, OrderPolicy
from runtime.gateway.app import create_app
from runtime.gateway.backend import WorkerBackend
from runtime.gateway.policy import GatewayPolicy
from runtime.gateway.route_table import FixedRoutes
from tests.runtime.gateway.asgi import in_process
from tests.runtime.worker_harness import RunningWorker

ORDER = OrderPolicy(lateness_s=0.05, idle_timeout_s=0.2, restart_grace_s=0.2)
"""settles soon after the last segment, so that a test sees `durable`"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    with RunningWorker(tmp_path_factory.mktemp("worker"), engine=EnginePolicy(order=ORDER)) as worker:
        yield worker


@pytest.fixture
def backend(worker: RunningWorker) -> WorkerBackend:
    return WorkerBackend(FixedRoutes(worker.endpoint, "http://127.0.0.1:9101/metrics"), GatewayPolicy())


@pytest.fixture
def app(backend: WorkerBackend) -> FastAPI:
    return create_app(backend)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(app) as client:
        yield client


_names = itertools.count(1)


@pytest.fixture
def session() -> str:
    """A session nobody has used before."""
    return f"session-{next(_names)}"


@pytest.fixture
def address(worker: RunningWorker) -> Iterator[str]:
    """Of a gateway behind a real HTTP server."""
    config = uvicorn.Config(
        create_app(WorkerBackend(FixedRoutes(worker.endpoint))), port=0, log_level="warning", ws="websockets-sansio"
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
