"""Counts and times every request, and turns what nobody expected into an opaque 500."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.gateway.errors import described, error_answer
from runtime.gateway.metrics import GatewayMetrics

log = logging.getLogger(__name__)

STREAMING = b"text/event-stream"


class Observing:
    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.monotonic()
        status, is_stream = 0, False

        async def observed(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                is_stream = any(
                    value.startswith(STREAMING) for name, value in message["headers"] if name == b"content-type"
                )
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            log.exception("%s %s failed", scope["method"], _route(scope))
            if status:  # half an answer is on its way: the server cuts it off
                raise
            await error_answer(*described(error))(scope, receive, observed)
        finally:
            route = _route(scope)
            self._metrics.requests.labels(route, f"{status // 100}xx" if status else "cut").inc()
            if not is_stream:
                self._metrics.request_s.labels(route).observe(time.monotonic() - started_s)


def _route(scope: Scope) -> str:
    """The route's template: bounded, and no session id in it."""
    path = getattr(scope.get("route"), "path", "other")
    return str(path)
