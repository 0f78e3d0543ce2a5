"""Our own worker, with the clients' cadence: a request is answered by the update that shows it in the live state.

The wire protocol on one connection. An answer is the session's version and its outputs, as a subscriber gets them.
Requests of one turn of the event loop share a message, as in `runtime.client`; each peer's protocol has one for each.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgpack
import zmq

from benchmarks.harness.blocks import BLOCKS, MODALITIES
from benchmarks.peers.clients import run_client

CREDIT = 50_000
MESSAGE_REQUESTS = 8
"""in one message: the worker begins while the next are being made"""
PING_EVERY_S = 5.0
STEP_S = 0.05
OUTPUTS_BYTES = 16
"""of the block's one head, the first numbers of a row"""


class GrfTransport:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._frames = BLOCKS[plan["block"]].frames
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(plan["endpoint"])
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self._read)
        self._opened: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._waiting: dict[str, tuple[int, asyncio.Future[bytes]]] = {}
        self._sent: dict[tuple[str, str], int] = {}
        self._published: dict[str, int] = {}
        self._durable: dict[tuple[str, str], int] = {}
        self._granted = 0
        self._groups: list[list[Any]] = []
        self._tensors: list[memoryview] = []
        self._say("hello", "peers-client", "default", "")
        self._say("subscribe", "", CREDIT, True)
        self._ping()

    def _ping(self) -> None:
        """A worker forgets a connection that is silent for long."""
        self._say("ping", 1)
        self._next_ping = self._loop.call_later(PING_EVERY_S, self._ping)

    def _say(self, *message: Any) -> None:
        self._socket.send(msgpack.packb([1, *message]))
        self._loop.call_soon(self._read)  # its descriptor tells only of what is new since it was last looked at

    def _read(self) -> None:
        while int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            header, *tensors = self._socket.recv_multipart()
            _, *message = msgpack.unpackb(header)
            match message:
                case ["updates", rows]:
                    self._updated(rows, tensors[0])
                case ["ack", rows]:
                    for session, stream, _, durable, *_ in rows:
                        self._durable[session, stream] = durable
                case ["opened", session, stream, *_]:
                    self._opened[session, stream].set_result(None)
                case ["nack", code, text, *_]:
                    self._refused(ConnectionError(f"{code}: {text}"))
                case _:
                    pass

    def _updated(self, rows: list[list[Any]], numbers: bytes) -> None:
        self._granted += len(rows)
        if self._granted >= CREDIT // 10:
            self._say("credit", self._granted)
            self._granted = 0
        width = len(numbers) // (2 * len(rows))
        for at, (session, _, _, version, *_) in enumerate(rows):
            expected, answer = self._waiting.get(session, (0, None))
            if answer is not None and version >= expected and not answer.done():
                outputs = numbers[2 * at * width : 2 * at * width + OUTPUTS_BYTES]
                answer.set_result(struct.pack("<I", version) + outputs)

    def _refused(self, error: ConnectionError) -> None:
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)

    async def request(self, number: int, body: bytes) -> bytes:
        session, rank = str(number), struct.unpack_from("<H", body, 4)[0]
        stream = session, MODALITIES[rank]
        if stream not in self._opened:
            self._opened[stream] = self._loop.create_future()
            self._say("open", *stream, MODALITIES[rank], 1, 0)
        if not self._opened[stream].done():
            await self._opened[stream]
        sequence = self._sent[stream] = self._sent.get(stream, 0) + 1
        version = self._published[session] = self._published.get(session, 0) + 1
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[session] = version, answer
        rows = [[sequence, STEP_S * version, self._frames]]
        if not self._groups:
            self._loop.call_soon(self._send)
        self._groups.append([*stream, self._durable.get(stream, 0) + 1, "f32", rows])
        self._tensors.append(memoryview(body)[8:])
        if len(self._groups) == MESSAGE_REQUESTS:
            self._send()
        return await answer

    def _send(self) -> None:
        if not self._groups:
            return
        header = msgpack.packb([1, "segments", self._groups])
        self._socket.send_multipart([header, *self._tensors])
        self._groups, self._tensors = [], []
        self._loop.call_soon(self._read)

    async def close(self) -> None:
        self._next_ping.cancel()
        self._loop.remove_reader(self._descriptor)
        self._context.destroy(linger=0)


if __name__ == "__main__":
    run_client(GrfTransport)
