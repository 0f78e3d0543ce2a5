"""A small HTTP or WebSocket server inside the event loop of `grf connect`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from connectors.errors import NETWORK, translated

STOP_WITHIN_S = 2.0


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the command's


@asynccontextmanager
async def listening(app: Any, host: str, port: int, **options: Any) -> AsyncIterator[int]:
    """Serve an ASGI app; gives the port, which is any free one for 0. Raises SourceUnavailable if it is taken."""
    with translated(NETWORK, f"{host}:{port}"):
        bound = _bound(host, port)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=int(STOP_WITHIN_S),
        **options,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[bound]), name=f"listen {host}:{port}")
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait({task}, timeout=2 * STOP_WITHIN_S)
        task.cancel()
        bound.close()


def _bound(host: str, port: int) -> socket.socket:
    """Listening already: whoever connects before the server has started waits for it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, or asyncio does not see that its connections are TCP and leaves Nagle's algorithm on: an answer of two
    # writes, head and body, then waits for the sender's delayed acknowledgement, 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)
    except OSError:
        bound.close()
        raise
    return bound
