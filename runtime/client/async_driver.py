"""Drives a fleet from an asyncio task. Everything happens in one event loop, so nothing is locked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import zmq
import zmq.asyncio

from runtime.client.errors import ClientClosed
from runtime.client.fleet import HOME, Fleet
from runtime.client.link import Core
from runtime.client.locate import Locate, NotLocated
from runtime.client.thread_driver import MAX_POLL_S, RELOCATE_AFTER_S
from runtime.wire import MAX_MESSAGE_BYTES, DecodeError, decode, encode

FleetT = TypeVar("FleetT", bound=Fleet[Any])


class AsyncDriver(Generic[FleetT]):
    def __init__(self, core: FleetT, locate: Locate) -> None:
        self.core = core
        self._locate = locate
        self._context: zmq.asyncio.Context | None = None
        self._connections: dict[str, tuple[Core, zmq.asyncio.Socket]] = {}
        self._watching: asyncio.Task[None] | None = None
        """hears whether home's TCP connection breaks or is refused"""
        self._locating: asyncio.Task[str | None] | None = None
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # ---- the user's tasks ----

    def start(self) -> None:
        """Call in the event loop that the client lives in. Raises ClientClosed if it lives no more."""
        if self._task is None:
            self._context = zmq.asyncio.Context()
            self._task = asyncio.get_running_loop().create_task(self._run())
        self.raise_if_closed()

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def wake(self) -> None:
        """There is something to send."""
        self.raise_if_closed()
        self._wake.set()

    async def wait(self, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `is_done`; False if the time was over first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not is_done():
                    self.raise_if_closed()
                    changed = self._changed
                    await changed.wait()
        return is_done()

    def raise_if_closed(self) -> None:
        if self._task is None:
            raise ClientClosed("the client is not open")
        if not self._task.done():
            return
        failure = None if self._task.cancelled() else self._task.exception()
        raise ClientClosed(f"the client has failed: {failure!r}" if failure else "the client was closed") from failure

    async def close(self) -> None:
        if self._task is None or self._context is None or self._context.closed:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        self._notify()
        self._context.destroy(linger=0)

    # ---- the driver's task ----

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        try:
            while True:
                self._connect()
                await self._turn()
        finally:
            if self._locating is not None:
                self._locating.cancel()
            for name in list(self._connections):
                self._close(name)
            self._notify()  # whoever waits is told that the client has closed, or failed

    def _connect(self) -> None:
        """A socket for every lane that should have one; none for those that are not wanted any more."""
        for name in self.core.unwanted(self._connections):
            self._close(name)
        for name, lane in self.core.missing(self._connections):
            endpoint = name if name != HOME else self._find_home()
            if endpoint is not None:
                self._open(name, lane, endpoint)

    def _find_home(self) -> str | None:
        """Where the table says; else where whoever was asked says, once there is an answer."""
        endpoint: str | None = self.core.next_home()
        if endpoint is not None:
            return endpoint
        if self._locating is None:
            self._locating = asyncio.create_task(self._ask_where())
            self._locating.add_done_callback(lambda _: self._wake.set())
        if not self._locating.done():
            return None
        located, self._locating = self._locating.result(), None
        return located

    async def _ask_where(self) -> str | None:
        try:
            return await asyncio.to_thread(self._locate)
        except NotLocated as error:
            self.core.not_located(str(error))
            await asyncio.sleep(RELOCATE_AFTER_S)
            return None

    def _open(self, name: str, lane: Core, endpoint: str) -> None:
        assert self._context is not None
        socket = self._context.socket(zmq.DEALER)
        if name == HOME:
            breaks = socket.get_monitor_socket(zmq.EVENT_CONNECT_RETRIED)
            self._watching = asyncio.create_task(self._watch_home(breaks))
        socket.connect(endpoint)
        self._connections[name] = (lane, socket)
        self.core.connected(name, lane, endpoint, time.monotonic())

    def _close(self, name: str) -> None:
        """Home is no longer watched before its watcher closes: ZeroMQ tells of a broken connection by a send that
        waits for whoever listens, and its one thread of this context would wait for ever."""
        _, socket = self._connections.pop(name)
        if name == HOME and self._watching is not None:
            socket.disable_monitor()
            self._watching.cancel()
        socket.close(linger=0)

    async def _turn(self) -> None:
        self._wake.clear()
        if self._locating is not None and self._locating.done():
            self._wake.set()
        for lane, socket in list(self._connections.values()):
            while (message := lane.outgoing(time.monotonic())) is not None:
                await socket.send_multipart(encode(message), copy=False)
        await self._poll(min(max(self.core.wake_at_s - time.monotonic(), 0.0), MAX_POLL_S))
        for lane, socket in list(self._connections.values()):
            while await socket.poll(0):
                with contextlib.suppress(DecodeError):  # not a worker of ours, or a newer one
                    frames = await socket.recv_multipart()
                    self.core.receive(lane, decode(frames, MAX_MESSAGE_BYTES), time.monotonic())
        self.core.tick(time.monotonic())
        self._notify()

    async def _watch_home(self, breaks: zmq.asyncio.Socket) -> None:
        with breaks:
            while True:
                await breaks.recv_multipart()
                self.core.broken(time.monotonic())
                self._wake.set()

    async def _poll(self, poll_s: float) -> None:
        """Until a message has come, someone has something to send, or the time is over."""
        sockets = [socket for _, socket in self._connections.values()]
        waits: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(socket.poll(int(poll_s * 1000) + 1)) for socket in sockets
        ]
        waits.append(asyncio.ensure_future(self._wake.wait()))
        try:
            await asyncio.wait(waits, timeout=poll_s + 0.001, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
