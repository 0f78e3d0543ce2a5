"""Refuses a post before its body is parsed: FastAPI parses it before it asks any dependency, for whoever sends it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from runtime.client import RequestTimeout
from runtime.gateway.asking import backend_of, caller_of

CONNECTED_WITHIN_S = 1.0
"""a poster who does not want to wait allows at least so long for the connection to a worker"""


class PostRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_known(request: Request) -> Response:
            await _check_caller(request)
            return await handle(request)

        return handle_known


async def _check_caller(request: Request) -> None:
    """While no worker can say who the caller is, the body is read: it says how long the poster wants to wait."""
    backend = backend_of(request)
    async with backend.clients(caller_of(request)) as clients:
        with contextlib.suppress(RequestTimeout):
            await clients.state.check(min(CONNECTED_WITHIN_S, backend.policy.answer_timeout_s))
