"""Drives a fleet from a thread of its own: the sockets never leave the thread, the fleet is shared under a lock."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import zmq

from runtime import multipart
from runtime.client.errors import ClientClosed
from runtime.client.fleet import HOME, Fleet
from runtime.client.link import Core
from runtime.client.locate import Locate, NotLocated
from runtime.doorbell import Doorbell
from runtime.wire import MAX_MESSAGE_BYTES, DecodeError, decode, encode

RELOCATE_AFTER_S = 0.2
MAX_POLL_S = 0.5

FleetT = TypeVar("FleetT", bound=Fleet[Any])
Socket = zmq.Socket[bytes]


class ThreadDriver(Generic[FleetT]):
    def __init__(self, core: FleetT, locate: Locate, name: str) -> None:
        self.core = core
        self.changed = threading.Condition()
        """held while the core is used; notified whenever the core may have changed"""
        self._locate = locate
        self._context: zmq.Context[Socket] = zmq.Context()
        self._connections: dict[str, tuple[Core, Socket]] = {}
        self._home_breaks: Socket | None = None
        """ZeroMQ's monitor of home: tells that its TCP connection broke or was refused"""
        self._locating: Future[str | None] | None = None
        self._bell = Doorbell()
        self._rung = False
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        """what ended the thread, other than `close`: a defect"""
        self._is_abandoned = False
        """nobody can close it any more: it ends by itself, once nothing is left to be sent"""
        self._is_inherited = False
        """this is the copy in a forked process, which has neither the thread nor the connections"""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        _drivers.add(self)

    # ---- the user's threads ----

    @property
    def is_running(self) -> bool:
        return not self._closing.is_set()

    def wake(self) -> None:
        """There is something to send. Call with `changed` held."""
        self.raise_if_closed()
        if not self._rung:
            self._rung = True
            self._bell.ring()

    def wait(self, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `is_done`; False if the time was over first. Call with `changed` held.

        Raises RuntimeError in the driver's own thread, which calls `on_event`: what it waited for would never come.
        """
        if threading.current_thread() is self._thread and not is_done():
            raise RuntimeError("on_event may not wait for its own client: it is called by the thread that would answer")
        done = self.changed.wait_for(lambda: self._closing.is_set() or is_done(), timeout_s)
        if not is_done():
            self.raise_if_closed()
        return done

    def raise_if_closed(self) -> None:
        if self._is_inherited:
            raise ClientClosed("the client is of the process that this one was forked from: make another one here")
        if self._failure is not None:
            raise ClientClosed(f"the client has failed: {self._failure!r}") from self._failure
        if self._closing.is_set():
            raise ClientClosed("the client was closed")

    def close(self) -> None:
        """Stop the thread; nothing is sent any more."""
        with self.changed:
            if self._context.closed or self._is_inherited:
                return
            self._closing.set()
            self._bell.ring()
            self.changed.notify_all()
        self._thread.join()
        self._bell.close()
        self._context.destroy(linger=0)

    def abandon(self) -> None:
        """The client was collected without `close`. The thread sees it at its next turn.

        No lock is taken, and the bell has one: the collector may run where this thread holds it.
        """
        self._is_abandoned = True

    def inherit(self) -> None:
        """This process was forked: the locks are replaced, for a thread that is not here may have held them."""
        self._is_inherited = True
        self.changed = threading.Condition()
        self._closing = threading.Event()
        self._closing.set()

    # ---- the driver's thread ----

    def _run(self) -> None:
        try:
            while not self._closing.is_set() and not (self._is_abandoned and self.core.is_done):
                self._connect()
                self._turn()
        except BaseException as error:
            with self.changed:
                self._failure = error
                self._closing.set()
                self.changed.notify_all()  # nobody may wait for what will not come
            raise
        finally:
            for name in list(self._connections):
                self._close(name)
            if self._is_abandoned:
                with self.changed:
                    self._closing.set()
                self._bell.close()
                self._context.destroy(linger=0)

    def _connect(self) -> None:
        """A socket for every lane that should have one; none for those that are not wanted any more."""
        with self.changed:
            unwanted = self.core.unwanted(self._connections)
        for name in unwanted:
            self._close(name)
        with self.changed:
            missing = self.core.missing(self._connections)
        for name, lane in missing:
            endpoint = name if name != HOME else self._find_home()
            if endpoint is not None:
                self._open(name, lane, endpoint)

    def _find_home(self) -> str | None:
        """Where the table says; else where whoever was asked says, once there is an answer: a gateway that hangs must
        not hold up the lanes that flow."""
        with self.changed:
            endpoint: str | None = self.core.next_home()
        if endpoint is not None:
            return endpoint
        if self._locating is None:
            self._locating = Future()
            threading.Thread(target=self._ask_where, args=(self._locating,), daemon=True).start()
        if not self._locating.done():
            return None
        located, self._locating = self._locating.result(), None
        return located

    def _ask_where(self, answer: Future[str | None]) -> None:
        try:
            answer.set_result(self._locate())
        except NotLocated as error:
            with self.changed:
                self.core.not_located(str(error))
            self._closing.wait(RELOCATE_AFTER_S)
            answer.set_result(None)
        except BaseException as error:
            answer.set_exception(error)
        with self.changed:
            if not self._closing.is_set():
                self._bell.ring()

    def _open(self, name: str, lane: Core, endpoint: str) -> None:
        socket = self._context.socket(zmq.DEALER)
        if name == HOME:
            self._home_breaks = socket.get_monitor_socket(zmq.EVENT_CONNECT_RETRIED)
        socket.connect(endpoint)
        self._connections[name] = (lane, socket)
        with self.changed:
            self.core.connected(name, lane, endpoint, time.monotonic())

    def _close(self, name: str) -> None:
        """Home is no longer watched before its watcher closes: ZeroMQ tells of a broken connection by a send that
        waits for whoever listens, and its one thread of this context would wait for ever."""
        _, socket = self._connections.pop(name)
        if name == HOME and self._home_breaks is not None:
            socket.disable_monitor()
            self._home_breaks.close(linger=0)
            self._home_breaks = None
        socket.close(linger=0)

    def _turn(self) -> None:
        poller = zmq.Poller()
        for lane, socket in self._connections.values():
            sent_all = self._send(lane, socket)
            poller.register(socket, zmq.POLLIN if sent_all else zmq.POLLIN | zmq.POLLOUT)
        poller.register(self._bell, zmq.POLLIN)
        if self._home_breaks is not None:
            poller.register(self._home_breaks, zmq.POLLIN)
        longest_s = MAX_POLL_S if HOME in self._connections else RELOCATE_AFTER_S
        with self.changed:
            wake_at_s = self.core.wake_at_s
        poll_s = min(max(wake_at_s - time.monotonic(), 0.0), longest_s)
        ready = dict(poller.poll(int(poll_s * 1000) + 1))
        with self.changed:
            self._rung = False
            self._bell.hear()
            if self._home_breaks is not None and self._home_breaks in ready:
                multipart.receive(self._home_breaks)
                self.core.broken(time.monotonic())
            for lane, socket in self._connections.values():
                self._receive(lane, socket)
            self.core.tick(time.monotonic())
            self.changed.notify_all()

    def _send(self, lane: Core, socket: Socket) -> bool:
        """Send what the lane has, as far as the socket takes it; False if it takes no more now."""
        while int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            with self.changed:
                message = lane.outgoing(time.monotonic())
            if message is None:
                return True
            multipart.send(socket, encode(message))
        return False

    def _receive(self, lane: Core, socket: Socket) -> None:
        while True:
            try:
                frames = multipart.receive(socket)
            except zmq.Again:
                return
            try:
                self.core.receive(lane, decode(frames, MAX_MESSAGE_BYTES), time.monotonic())
            except DecodeError:
                continue  # not a worker of ours, or a newer one: what it says means nothing to this client


_drivers: WeakSet[ThreadDriver[Any]] = WeakSet()


def _inherit_all() -> None:
    for driver in list(_drivers):
        driver.inherit()


os.register_at_fork(after_in_child=_inherit_all)
