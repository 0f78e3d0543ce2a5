"""In Ray Serve's HTTP proxy, before the gateway: what no replica can do from where it is.

Serve's proxy answers by itself while there is no replica: 404 until it has heard of the application, and nothing, which
its server makes a 500, when a replica is killed over a request. Callers would take the first for `not_found` and the
second for a fault of the gateway; both are 503 here, as whatever else passes when the request is made again.
"""

from __future__ import annotations

import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.gateway.errors import error_answer
from runtime.gateway.taken import TellsTaken

PROXY_CALLBACK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:proxy_middlewares"}
"""the variable of the environment by which Serve's proxies find this"""
OURS = "/v1/"
"""in the paths of the gateway; the proxy may have other applications"""
SERVES_404 = re.compile(rb"Path '.*/-/routes", re.DOTALL)
"""Serve's own 404; the gateway's are JSON, and may be about a session of that name"""


def proxy_middlewares() -> list[Middleware]:
    """The last is the outermost: it needs the `send` of the server itself."""
    return [Middleware(SaysUnavailable), Middleware(TellsTaken)]


class SaysUnavailable:
    """Answers that nobody gave, or Serve in the gateway's place, in the gateway's words."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or OURS not in scope["path"]:
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        await self._app(scope, receive, answer.send)
        if answer.is_wanted:
            await error_answer("unavailable", "no gateway answers now")(scope, receive, send)


class _Answer:
    def __init__(self, send: Send) -> None:
        self.is_wanted = True
        """nothing has been said to the caller"""
        self._send = send
        self._not_found: Message | None = None

    async def send(self, message: Message) -> None:
        if message.get("status") == 404:
            self._not_found = message
            return
        if self._not_found is not None:
            if SERVES_404.match(message.get("body", b"")):
                return
            await self._send(self._not_found)
            self._not_found = None
        self.is_wanted = False
        await self._send(message)
