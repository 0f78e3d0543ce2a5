"""Calls an application without a server: ordinary requests by httpx, event streams by hand (httpx would wait for
their end)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
from fastapi import FastAPI

WITHIN_S = 10.0


@asynccontextmanager
async def in_process(app: FastAPI, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://grf", timeout=30, **options) as client,
    ):
        yield client


class Received(NamedTuple):
    event: str
    id: str
    data: dict[str, Any]


class EventReader:
    """An event stream that is being read; leaving the block is the reader going away."""

    def __init__(self, app: FastAPI, path: str, headers: dict[str, str] | None = None) -> None:
        self._app = app
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "server": ("grf", 80),
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        self._gone = asyncio.Event()
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.may_read = asyncio.Event()
        self.may_read.set()
        """cleared: the reader's connection takes nothing more"""
        self.gone_by: Exception | None = None
        """how the server tells that it has gone, where it is not by a message"""
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> EventReader:
        self._task = asyncio.create_task(self._app(self._scope, self._receive, self._send))
        start = await asyncio.wait_for(self._sent.get(), WITHIN_S)
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        await asyncio.wait_for(self._task, WITHIN_S)

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        if self.gone_by is not None:
            raise self.gone_by
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.may_read.wait()
        self._sent.put_nowait(message)

    async def chunk(self) -> str:
        message = await asyncio.wait_for(self._sent.get(), WITHIN_S)
        return str(message["body"].decode())

    async def next(self) -> Received:
        """The next event; keep-alives are passed over."""
        while (text := await self.chunk()).startswith(":"):
            pass
        fields = dict(line.split(": ", 1) for line in text.strip().split("\n"))
        return Received(fields["event"], fields["id"], json.loads(fields["data"]))

    async def until(self, version: int) -> Received:
        """The first event of at least this version."""
        while (event := await self.next()).data.get("version", 0) < version:
            pass
        return event


class SocketReader:
    """A WebSocket that only listens; leaving the block closes it. Unless it `opens` it has to be refused."""

    def __init__(
        self,
        app: FastAPI,
        query: str = "",
        headers: dict[str, str] | None = None,
        *,
        subprotocols: Sequence[str] = (),
        opens: bool = True,
    ) -> None:
        self._app = app
        self._opens = opens
        self._scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "path": "/v1/ws",
            "raw_path": b"/v1/ws",
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "ws",
            "server": ("grf", 80),
            "subprotocols": list(subprotocols),
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.subprotocol: str | None = None

    async def __aenter__(self) -> SocketReader:
        self._to_app.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._app(self._scope, self._to_app.get, self._send))
        expected = "websocket.accept" if self._opens else "websocket.close"
        answer = await self._message()
        assert answer["type"] == expected
        self.subprotocol = answer.get("subprotocol")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await asyncio.wait_for(self._task, WITHIN_S)

    async def _send(self, message: Any) -> None:
        self._sent.put_nowait(message)

    async def _message(self) -> dict[str, Any]:
        return await asyncio.wait_for(self._sent.get(), WITHIN_S)

    def say(self, content: bytes) -> None:
        """What a reader has no reason to send."""
        self._to_app.put_nowait({"type": "websocket.receive", "bytes": content})

    async def next(self) -> Received:
        event = json.loads((await self._message())["text"])
        return Received(event["event"], str(event["id"]), event["data"])

    async def closed(self) -> tuple[int, str]:
        """The code and the reason it was closed with."""
        message = await self._message()
        assert message["type"] == "websocket.close"
        return int(message["code"]), str(message["reason"])
