"""The worker's one thread: sockets -> dispatcher -> device -> sockets. It waits; it decides nothing.

drain the socket -> take what the store has done -> one turn of work -> hand out store jobs -> send
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import zmq

from runtime import multipart
from runtime.dispatch.dispatcher import Dispatcher
from runtime.dispatch.turn_clock import TurnClock
from runtime.doorbell import Doorbell
from runtime.leases import lease_clock
from runtime.store.base import Store
from runtime.store_thread import StoreThread
from runtime.unsent import Unsent
from runtime.wire import MAX_MESSAGE_BYTES, Frame, encode

log = logging.getLogger(__name__)

MORE_PORTS, LAST_PORT = 99, 65_535
"""of the workers of one machine: those that a firewall lets clients reach"""
RECEIVE_FOR_S = 0.001
"""how long messages are taken from the socket before the device gets its turn"""
FINISH_FOR_S = 0.001
"""how long what the store has done is looked at, likewise: a long history takes a millisecond"""
MAX_POLL_S = 0.25
RECEIVE_QUEUE_MESSAGES = 100
"""per connection, in the transport: messages may be large, and beyond these TCP slows their sender"""
SEND_QUEUE_MESSAGES = 256
"""per connection, in the transport; what else waits for a connection that does not read waits in `Unsent`"""
SEND_UNSENT_FOR_S = 0.001
"""how long that is tried in a turn: ten thousand connections that read nothing take 45 ms, whoever they are"""
SEND_AGAIN_S, SEND_AGAIN_AT_LAST_S = 0.002, 0.064
"""for so long it waits, and twice as long each time that nothing was taken"""

T = TypeVar("T")


class WorkerLoop:
    """Owns the socket and the thread. Other threads speak to it through `call`."""

    def __init__(
        self, dispatcher: Dispatcher, open_store: Callable[[], Store], on_turn: Callable[[float], None] | None = None
    ) -> None:
        """`on_turn` is called in the loop's thread after every turn, with the time: metrics are flushed there."""
        self.dispatcher = dispatcher
        self._bell = Doorbell()
        self._unsent = Unsent()
        self._skips_rest = False
        """of a message that has more frames than any of the protocol"""
        self._send_again_s = SEND_AGAIN_S
        self._store = StoreThread(open_store, self._bell.ring)
        self._on_turn = on_turn
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._stopping = False
        self._ended = False
        self._clock = TurnClock(time.monotonic)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES)
        self._socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_MESSAGES)
        self._socket.setsockopt(zmq.MAXMSGSIZE, 4 * MAX_MESSAGE_BYTES)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._bell, zmq.POLLIN)
        self._loop = threading.Thread(target=self._run, name="grf-loop", daemon=True)

    def bind(self, host: str, port: int) -> int:
        """Listen here or, where that is in use, at the next port that is free; 0 takes any. Returns the port."""
        asked = port
        while not self._is_bound(host, asked):
            asked = asked + 1 if asked < min(port + MORE_PORTS, LAST_PORT) else 0
        endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        taken = int(endpoint.rsplit(":", 1)[1])
        if port and taken != port:
            log.warning("port %d is in use, taking %d", port, taken)
        return taken

    def _is_bound(self, host: str, port: int) -> bool:
        try:
            self._socket.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            if not port or error.errno != zmq.EADDRINUSE:
                raise
            return False
        return True

    def start(self) -> None:
        self._loop.start()

    # ---- other threads ----

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function in the loop's thread, between two turns; cancelled if the loop ends, or has ended, before."""
        future: Future[T] = Future()
        self._calls.append((future, function))
        self._bell.ring()
        if self._ended:  # perhaps after the loop has cancelled what waited
            self._cancel_calls()
        return future

    @property
    def is_alive(self) -> bool:
        return self._loop.is_alive()

    def stop(self, drain_s: float = 5.0) -> bool:
        """Stop taking messages, save what is settled (for `drain_s` at most), close. True if all was saved."""
        saved = self.call(partial(self._drain, time.monotonic() + drain_s))
        clean = False
        with suppress(CancelledError):  # it has failed
            clean = saved.result(timeout=drain_s + 5.0) if self._loop.is_alive() else False
        self._stopping = True
        self._bell.ring()
        self._loop.join()
        return clean

    def kill(self) -> None:
        """Stop at once, as a crash would: nothing more is saved or sent."""
        self._stopping = True
        self._bell.ring()
        if self._loop.is_alive():
            self._loop.join()

    # ---- the loop's thread ----

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except Exception:
            log.exception("the worker's loop failed")
            raise
        finally:
            self._store.close()
            self._context.destroy(linger=0)
            self._bell.close()
            self._ended = True
            self._cancel_calls()

    def _turn(self) -> None:
        now_s = self._clock()
        wait_s = 0.0 if self.dispatcher.has_work else min(max(self.dispatcher.wake_at_s - now_s, 0.0), MAX_POLL_S)
        if not self._unsent.is_empty:
            wait_s = min(wait_s, self._send_again_s)
        # Rounded up: waking before the time only to wait again would spin.
        ready = dict(self._poller.poll(int(wait_s * 1000) + (wait_s > 0)))
        started_s, began_s = time.monotonic(), self._clock()
        self.dispatcher.keep_to_lease(lease_clock())
        if self._socket in ready and self.dispatcher.takes_messages:
            self._receive(began_s)
        if self._bell.fileno() in ready:
            self._bell.hear()
            self._run_calls()
        self._work()
        took_s = time.monotonic() - started_s
        self.dispatcher.turn_took(took_s, began_s + took_s)

    def _receive(self, now_s: float) -> None:
        """Take what has come, for a moment: a flood must not keep the device, or anybody's answer, waiting."""
        wall_s = time.time()
        until_s = time.monotonic() + RECEIVE_FOR_S
        while time.monotonic() < until_s:
            if self._skips_rest:
                self._skips_rest = not multipart.skip_rest(self._socket)
                continue
            try:
                identity, frames = multipart.receive_of_connection(self._socket)
            except zmq.Again:
                return
            self._skips_rest = len(frames) > multipart.MAX_FRAMES
            if identity[:1] != b"\0":  # not given by our socket: whoever chose the same would be taken for this client
                self.dispatcher.outbox.refuse(identity, "unauthorised", "a connection must not set a routing id")
                continue
            self.dispatcher.receive(identity, frames, now_s, wall_s)

    def _run_calls(self) -> None:
        while self._calls:
            future, function = self._calls.popleft()
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    def _cancel_calls(self) -> None:
        """Of the loop's thread, or of any once that has ended."""
        with suppress(IndexError):
            while True:
                future, _ = self._calls.popleft()
                future.cancel()
                future.set_running_or_notify_cancel()

    def _work(self) -> None:
        self._finish_jobs()
        self.dispatcher.work(self._clock())
        for job in self.dispatcher.store.take():
            self._store.submit(job)
        self._send()
        if self._on_turn is not None:
            self._on_turn(self._clock())

    def _finish_jobs(self) -> None:
        """Take what the store has done, for a moment: it does more meanwhile, and what was done is to be told."""
        until_s = time.monotonic() + FINISH_FOR_S
        while (outcome := self._store.take_outcome()) is not None:
            self.dispatcher.store.finish(*outcome, self._clock())
            if time.monotonic() >= until_s:
                self._bell.ring()  # there may be more
                return

    def _send(self) -> None:
        if not self._unsent.is_empty:
            until_s = time.monotonic() + SEND_UNSENT_FOR_S
            is_to_go_on = self._unsent.send(self._sends, partial(_is_past, until_s))
            self._send_again_s = SEND_AGAIN_S if is_to_go_on else min(2 * self._send_again_s, SEND_AGAIN_AT_LAST_S)
        dropped_now = set[bytes]()  # an acknowledgement would be taken for one of what the refusal before it was about
        for identity, message in self.dispatcher.outbox.take():
            if identity in dropped_now:
                continue
            frames = encode(message)
            if identity in self._unsent or not self._sends(identity, frames):
                for dropped in self._unsent.add(identity, frames):
                    log.warning("connection %s does not read what it is sent: dropped", dropped.hex())
                    self.dispatcher.gone(dropped)
                    dropped_now.add(dropped)

    def _sends(self, identity: bytes, frames: Sequence[Frame]) -> bool:
        """False if the transport takes no more for this connection now."""
        try:
            multipart.send(self._socket, [identity, *frames])
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.dispatcher.gone(identity)
        return True

    def _drain(self, until_s: float) -> bool:
        """Take no more, and save what is settled of what has been received; what is not settled stays with its
        publishers, who will send it again."""
        self._poller.unregister(self._socket)
        dispatcher, saver = self.dispatcher, self.dispatcher.saver
        saver.is_ending = True
        while True:
            self._work()
            if (saver.is_clean and not dispatcher.has_work) or time.monotonic() >= until_s:
                return saver.is_clean
            due_s = saver.due_s
            is_due = due_s is not None and due_s <= self._clock()
            self._poller.poll(0 if is_due or dispatcher.has_work else 10)
            self._bell.hear()


def _is_past(until_s: float) -> bool:
    return time.monotonic() >= until_s
