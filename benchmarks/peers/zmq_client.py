"""Requests and answers over one ZeroMQ socket, answers of a session in order: for Bytewax, which has no server."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import zmq
import zmq.asyncio

from benchmarks.peers.clients import run_client


class ZmqTransport:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._endpoint = f"tcp://{plan['host']}:{plan['port']}"
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(self._endpoint)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            answer = await self._socket.recv()
            session, rest = struct.unpack_from("<I", answer)[0], answer[4:]
            waiting = self._waiting.pop(session, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(rest)

    async def request(self, session: int, body: bytes) -> bytes:
        self._waiting[session] = asyncio.get_running_loop().create_future()
        await self._socket.send(body)
        return await self._waiting[session]

    async def close(self) -> None:
        self._reader.cancel()
        self._context.destroy(linger=0)


if __name__ == "__main__":
    run_client(ZmqTransport)
