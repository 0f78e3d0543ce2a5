"""A network of ZeroMQ-like connections in virtual time: DEALER at the client, ROUTER at the worker.

What it may do to messages is what TCP under ZeroMQ may do, and no more:

- Each direction of a connection is first in, first out, with random delays; connections are independent.
- A *reset* loses what is in flight, in each direction from a random point on. The client's socket connects again
  by itself, under a new identity, and goes on with what it had not put on the wire: the client is not told.
- A connection into a *black hole* loses everything from then on, and nobody is told at all.
- A socket that its client closes may still deliver what was on the wire.
- Nothing is ever delivered twice: duplicates come from clients that send again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Protocol

from tests.simulation.virtual_time import VirtualTime

Frames = list[bytes]
RECONNECT_S = 0.1


class Listener(Protocol):
    """A worker's socket."""

    is_listening: bool
    """its process is there, though it may be frozen"""

    def deliver(self, identity: bytes, frames: Frames) -> None: ...

    def connected(self, identity: bytes, connection: Connection) -> None: ...

    def disconnected(self, identity: bytes) -> None: ...


class Wire:
    """One direction of a connection: messages in flight, in order."""

    def __init__(self, time: VirtualTime, random: Random, deliver: Callable[[Frames], None]) -> None:
        self._time = time
        self._random = random
        self._deliver = deliver
        self._in_flight: deque[Frames] = deque()
        self._lost_in_flight = 0
        self._last_s = 0.0
        self._is_cut = False

    def send(self, frames: Frames) -> None:
        if self._is_cut:
            return
        slow = self._random.random() < 0.03
        delay_s = self._random.uniform(0.05, 0.2) if slow else self._random.uniform(0.0005, 0.005)
        self._last_s = max(self._last_s, self._time.now_s + delay_s)
        self._in_flight.append(frames)
        self._time.at(self._last_s, self._arrive)

    def cut(self, keep_some: bool) -> None:
        """Lose what is in flight, from a random point on or from the first message."""
        self._is_cut = True
        keep = self._random.randint(0, len(self._in_flight)) if keep_some else 0
        while len(self._in_flight) > keep:
            self._in_flight.pop()

    def _arrive(self) -> None:
        if self._in_flight:
            self._deliver(self._in_flight.popleft())


class Connection:
    """A client's socket. The worker sees a new identity whenever it connects."""

    def __init__(
        self, network: Network, address: str, receive: Callable[[Frames], None], random: Random, time: VirtualTime
    ) -> None:
        self._network = network
        self._address = address
        self._receive = receive
        self._random = random
        self._time = time
        self._unsent: deque[Frames] = deque()
        self._listener: Listener | None = None
        self._identity = b""
        self._to_worker: Wire | None = None
        self._to_client: Wire | None = None
        self._is_closed = False
        self.is_black_hole = False
        self._time.after(random.uniform(0.0005, 0.005), self._connect)

    # ---- the client's side ----

    def send(self, frames: Frames) -> None:
        if self._to_worker is None:
            self._unsent.append(frames)
        else:
            self._to_worker.send(frames)

    def close(self) -> None:
        self._is_closed = True
        self._unsent.clear()
        self._break(client_reads=False)

    def reset(self) -> None:
        self._break(client_reads=True)
        self._time.after(RECONNECT_S, self._connect)

    def fall_into_black_hole(self) -> None:
        self.is_black_hole = True
        for wire in (self._to_worker, self._to_client):
            if wire is not None:
                wire.cut(keep_some=True)

    # ---- the worker's side ----

    def answer(self, frames: Frames) -> None:
        if self._to_client is not None:
            self._to_client.send(frames)

    def worker_died(self, silently: bool) -> None:
        """Its process ended; `silently` when its machine went with it, and nothing says so."""
        if silently:
            self.fall_into_black_hole()
        else:
            if self._to_worker is not None:
                self._to_worker.cut(keep_some=False)
            self.reset()

    # ---- between them ----

    def _connect(self) -> None:
        if self._is_closed or self.is_black_hole or self._to_worker is not None:
            return
        listener = self._network.listener(self._address)
        if listener is None:
            self._time.after(RECONNECT_S, self._connect)
            return
        identity = self._network.new_identity()
        self._listener, self._identity = listener, identity
        self._to_worker = Wire(self._time, self._random, lambda frames: listener.deliver(identity, frames))
        self._to_client = Wire(self._time, self._random, self._receive_unless_closed)
        listener.connected(identity, self)
        while self._unsent:
            self._to_worker.send(self._unsent.popleft())

    def _break(self, client_reads: bool) -> None:
        if self._to_worker is None or self._to_client is None or self._listener is None:
            return
        self._to_worker.cut(keep_some=True)
        self._to_client.cut(keep_some=client_reads)
        if not self.is_black_hole:
            self._listener.disconnected(self._identity)
        self._to_worker = self._to_client = self._listener = None

    def _receive_unless_closed(self, frames: Frames) -> None:
        if not self._is_closed:
            self._receive(frames)


class Network:
    def __init__(self, time: VirtualTime, random: Random) -> None:
        self._time = time
        self._random = random
        self._listeners: dict[str, Listener] = {}
        self._identities = 0

    def listen(self, address: str, listener: Listener) -> None:
        self._listeners[address] = listener

    def listener(self, address: str) -> Listener | None:
        listener = self._listeners.get(address)
        return listener if listener is not None and listener.is_listening else None

    def open(self, address: str, receive: Callable[[Frames], None]) -> Connection:
        return Connection(self, address, receive, self._random, self._time)

    def new_identity(self) -> bytes:
        self._identities += 1
        return b"\0" + self._identities.to_bytes(4, "big")
