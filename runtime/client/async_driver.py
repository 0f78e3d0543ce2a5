"""Drives a core from an asyncio task. Everything happens in one event loop, so nothing is locked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import zmq
import zmq.asyncio

from runtime.client.errors import ClientClosed
from runtime.client.link import Core
from runtime.client.locate import Locate, NotLocated
from runtime.client.thread_driver import MAX_POLL_S, RELOCATE_AFTER_S
from runtime.wire import MAX_MESSAGE_BYTES, DecodeError, decode, encode

CoreT = TypeVar("CoreT", bound=Core)


class AsyncDriver(Generic[CoreT]):
    def __init__(self, core: CoreT, locate: Locate) -> None:
        self.core = core
        self._locate = locate
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # ---- the user's tasks ----

    def start(self) -> None:
        """Call in the event loop that the client lives in."""
        self._context = zmq.Context()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """There is something to send."""
        if self._task is None or self._task.done():
            raise ClientClosed("the client is not open")
        self._wake.set()

    async def wait(self, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `is_done`; False if the time was over first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not is_done():
                    if self._task is None or self._task.done():
                        raise ClientClosed("the client was closed")
                    changed = self._changed
                    await changed.wait()
        return is_done()

    async def close(self) -> None:
        if self._task is None or self._context is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        self._notify()
        self._context.destroy(linger=0)
        self._task = None

    # ---- the driver's task ----

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        socket: zmq.asyncio.Socket | None = None
        try:
            while True:
                if socket is None or self.core.is_lost:
                    if socket is not None:
                        socket.close(linger=0)
                    socket = await self._connect()
                if socket is not None:
                    await self._turn(socket)
        finally:
            if socket is not None:
                socket.close(linger=0)
            self._notify()  # whoever waits is told that the client has closed, or failed

    async def _connect(self) -> zmq.asyncio.Socket | None:
        assert self._context is not None
        try:
            endpoint = await asyncio.to_thread(self._locate)
        except NotLocated:
            await asyncio.sleep(RELOCATE_AFTER_S)
            return None
        socket = zmq.asyncio.Socket(self._context, zmq.DEALER)
        socket.connect(endpoint)
        self.core.connected(time.monotonic())
        return socket

    async def _turn(self, socket: zmq.asyncio.Socket) -> None:
        self._wake.clear()
        while (message := self.core.outgoing(time.monotonic())) is not None:
            await socket.send_multipart(encode(message), copy=False)
        poll_s = min(max(self.core.wake_at_s - time.monotonic(), 0.0), MAX_POLL_S)
        await self._poll(socket, poll_s)
        while await socket.poll(0):
            with contextlib.suppress(DecodeError):  # not a worker of ours, or a newer one
                frames = await socket.recv_multipart()
                self.core.receive(decode(frames, MAX_MESSAGE_BYTES), time.monotonic())
        self.core.tick(time.monotonic())
        self._notify()

    async def _poll(self, socket: zmq.asyncio.Socket, poll_s: float) -> None:
        """Until a message has come, someone has something to send, or the time is over."""
        readable = asyncio.ensure_future(socket.poll(int(poll_s * 1000) + 1))
        woken = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((readable, woken), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in (readable, woken):
                future.cancel()
