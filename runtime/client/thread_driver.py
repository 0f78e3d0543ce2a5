"""Drives a core from a thread of its own: the socket never leaves the thread, the core is shared under a lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import zmq

from runtime.client.errors import ClientClosed
from runtime.client.link import Core
from runtime.client.locate import Locate, NotLocated
from runtime.doorbell import Doorbell
from runtime.wire import MAX_MESSAGE_BYTES, DecodeError, decode, encode

RELOCATE_AFTER_S = 0.2
MAX_POLL_S = 0.5

CoreT = TypeVar("CoreT", bound=Core)


class ThreadDriver(Generic[CoreT]):
    def __init__(self, core: CoreT, locate: Locate, name: str) -> None:
        self.core = core
        self.changed = threading.Condition()
        """held while the core is used; notified whenever the core may have changed"""
        self._locate = locate
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._bell = Doorbell()
        self._rung = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # ---- the user's threads ----

    def wake(self) -> None:
        """There is something to send. Call with `changed` held."""
        if self._closing.is_set():
            raise ClientClosed("the client was closed")
        if not self._rung:
            self._rung = True
            self._bell.ring()

    def wait(self, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `is_done`; False if the time was over first. Call with `changed` held."""
        done = self.changed.wait_for(lambda: self._closing.is_set() or is_done(), timeout_s)
        if self._closing.is_set() and not is_done():
            raise ClientClosed("the client was closed")
        return done

    def close(self) -> None:
        """Stop the thread; nothing is sent any more."""
        with self.changed:
            if self._closing.is_set():
                return
            self._closing.set()
            self._bell.ring()
            self.changed.notify_all()
        self._thread.join()
        self._bell.close()
        self._context.destroy(linger=0)

    # ---- the driver's thread ----

    def _run(self) -> None:
        socket: zmq.Socket[bytes] | None = None
        while not self._closing.is_set():
            if socket is None or self.core.is_lost:
                socket = self._reconnect(socket)
            if socket is not None:
                self._turn(socket)
        if socket is not None:
            socket.close(linger=0)

    def _reconnect(self, socket: zmq.Socket[bytes] | None) -> zmq.Socket[bytes] | None:
        if socket is not None:
            socket.close(linger=0)
        try:
            endpoint = self._locate()
        except NotLocated:
            self._closing.wait(RELOCATE_AFTER_S)
            return None
        socket = self._context.socket(zmq.DEALER)
        socket.connect(endpoint)
        with self.changed:
            self.core.connected(time.monotonic())
        return socket

    def _turn(self, socket: zmq.Socket[bytes]) -> None:
        sent_all = self._send(socket)
        poll_s = min(max(self.core.wake_at_s - time.monotonic(), 0.0), MAX_POLL_S)
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN if sent_all else zmq.POLLIN | zmq.POLLOUT)
        poller.register(self._bell, zmq.POLLIN)
        poller.poll(int(poll_s * 1000) + 1)
        with self.changed:
            self._rung = False
            self._bell.hear()
            self._receive(socket)
            self.core.tick(time.monotonic())
            self.changed.notify_all()

    def _send(self, socket: zmq.Socket[bytes]) -> bool:
        """Send what the core has, as far as the socket takes it; False if it takes no more now."""
        while int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            with self.changed:
                message = self.core.outgoing(time.monotonic())
            if message is None:
                return True
            socket.send_multipart(encode(message), zmq.DONTWAIT, copy=False)
        return False

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        while True:
            try:
                frames = socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                self.core.receive(decode(frames, MAX_MESSAGE_BYTES), time.monotonic())
            except DecodeError:
                continue  # not a worker of ours, or a newer one: what it says means nothing to this client
