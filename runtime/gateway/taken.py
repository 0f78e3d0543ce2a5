"""What the reader of an event stream has taken: told by Serve's proxy, which writes to it, and heeded by the gateway.

Between the two Serve puts no limit: a replica's `send` never waits, and whatever the reader has not taken piles up in
the proxy. So the proxy wraps its application in `TellsTaken`, which tells how many bytes have left as messages that
the gateway receives, and `Window` lets the gateway be no more than so many bytes ahead. Applications of others behind
the same proxy are told nothing: what counts is marked by who sends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

WINDOW_BYTES = 256 << 10
TELL_AFTER_BYTES = WINDOW_BYTES // 4
"""each telling is a call of an actor"""
TAKEN = "grf.taken"
"""in a scope's extensions: somebody tells; in a message that is sent: for how many seconds at most a reader may take
nothing; in a received one: how many bytes it has taken so far"""


class TellsTaken:
    """In the proxy, around event streams alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_event_stream(scope):
            await self._app(scope, receive, send)
            return
        reader = _Reader(scope["type"], receive, send)
        extensions = {**(scope.get("extensions") or {}), TAKEN: {}}
        try:
            await self._app({**scope, "extensions": extensions}, reader.receive, reader.send)
        finally:
            reader.close()


def _is_event_stream(scope: Scope) -> bool:
    if scope["type"] == "http":
        return bool(scope["method"] == "GET" and scope["path"].endswith("/events"))
    return bool(scope["type"] == "websocket")


class _Reader:
    def __init__(self, kind: str, receive: Receive, send: Send) -> None:
        self._kind = kind
        self._receive = receive
        self._send = send
        self._taken = 0
        self._told = 0
        self._is_due = asyncio.Event()
        self._coming: asyncio.Future[Message] | None = None
        self._is_gone = False

    async def send(self, message: Message) -> None:
        """Waits while the connection takes nothing, and ends it where that takes too long.

        That a reader is gone both Serve and the gateway hear by `receive`; raised here, it is logged as a fault.
        """
        if self._is_gone:
            return
        try:
            await self._send_on(message)
        except OSError:
            self._is_gone = True

    async def _send_on(self, message: Message) -> None:
        if TAKEN not in message:
            await self._send(message)
            return
        giving_up = asyncio.get_running_loop().call_later(message[TAKEN], self._cut_off)
        try:
            await self._send(message)
        finally:
            giving_up.cancel()
        self._taken += size_of(message)
        if self._taken - self._told >= TELL_AFTER_BYTES:
            self._is_due.set()

    def _cut_off(self) -> None:
        """ASGI has no word for it, and closing would wait until all is taken: the server's `send` knows its socket."""
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)
        if transport is not None:
            transport.abort()

    async def receive(self) -> Message:
        """What the reader says, or how much it has taken."""
        self._coming = self._coming or asyncio.ensure_future(_awaited(self._receive))
        due = asyncio.ensure_future(self._is_due.wait())
        either: set[asyncio.Future[Any]] = {self._coming, due}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            due.cancel()
        if self._coming.done():
            coming, self._coming = self._coming, None
            return coming.result()
        self._is_due.clear()
        self._told = self._taken
        return self._telling()

    def _telling(self) -> Message:
        if self._kind == "http":
            return {"type": "http.request", "body": b"", "more_body": True, TAKEN: self._taken}
        return {"type": "websocket.receive", "text": "", TAKEN: self._taken}

    def close(self) -> None:
        if self._coming is not None:
            self._coming.cancel()


async def _awaited(receive: Receive) -> Message:
    return await receive()


def size_of(message: MutableMapping[str, Any]) -> int:
    """Of what is sent; text counts by its characters, on both sides."""
    return len(message.get("body") or message.get("text") or b"")


class Window:
    """In the gateway: how far it is ahead of a reader. Without anybody who tells, `send` itself is what waits."""

    def __init__(self, scope: Scope, send: Send, patience_s: float) -> None:
        self._is_told = TAKEN in (scope.get("extensions") or {})
        self._send = send
        self._patience_s = patience_s
        self._sent = 0
        self._taken = 0
        self._moved = asyncio.Event()

    def heard(self, message: Message) -> None:
        self._taken = message.get(TAKEN, self._taken)
        self._moved.set()

    async def send(self, message: Message) -> None:
        """Raises TimeoutError where the reader takes nothing for so long."""
        async with asyncio.timeout(self._patience_s):
            while self._is_told and self._sent - self._taken >= WINDOW_BYTES:
                self._moved.clear()
                await self._moved.wait()
            self._sent += size_of(message)
            await self._send({**message, TAKEN: self._patience_s} if self._is_told else message)
