"""HTTP/1.1 with one connection kept open per session, and as little work per request as asyncio allows."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from benchmarks.peers.clients import run_client


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self.is_open = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.is_open = True

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        head = bytes(self._received[:end]).lower()
        length_at = head.find(b"content-length:")
        if length_at < 0:
            return
        length = int(head[length_at + 15 :].split(b"\r\n", 1)[0])
        if len(self._received) < end + 4 + length:
            return
        body = bytes(self._received[end + 4 : end + 4 + length])
        status = int(head[9:12])
        if status == 200:
            self._answer.set_result(body)
        else:
            self._answer.set_exception(ConnectionError(f"HTTP {status}: {body[:200]!r}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the connection was closed"))


class HttpTransport:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._host, self._port = plan["host"], plan["port"]
        self._path = plan["path"].encode()
        self._as_json: bool = plan.get("json", False)
        self._connections: dict[int, Connection] = {}

    async def request(self, session: int, body: bytes) -> bytes:
        connection = self._connections.get(session)
        if connection is None or not connection.is_open:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, self._host, self._port)
            self._connections[session] = connection
        kind = b"application/octet-stream"
        if self._as_json:
            body, kind = json.dumps({"request": base64.b64encode(body).decode()}).encode(), b"application/json"
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nX-Session-Id: %d\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        answer = await connection.ask(head % (self._path, session, kind, len(body)) + body)
        return base64.b64decode(json.loads(answer)["answer"]) if self._as_json else answer

    async def close(self) -> None:
        for connection in self._connections.values():
            connection.transport.abort()


if __name__ == "__main__":
    run_client(HttpTransport)
