"""One connection to a worker as a state machine: hello, welcome, alive, lost. No socket, no clock.

A driver (`thread_driver`, `async_driver`) owns the socket: it calls `connected` on a new one, carries messages
both ways, and opens another when `is_lost`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol

from runtime import messages as m
from runtime.keys import check_id, check_tenant

PING_EVERY_S = 1.0
HELLO_AGAIN_S = 5.0
"""after a refusal: the worker reads its tokens again as they change, maybe later than another one"""
LOST_AFTER_S = 3.0
"""silence, although the worker was asked, after which the connection is given up"""


@dataclass(frozen=True, slots=True)
class Identity:
    client: str
    tenant: str = "default"
    token: str = ""

    def __post_init__(self) -> None:
        check_id("client", self.client)
        check_tenant(self.tenant)
        if not isinstance(self.token, str):  # such as what os.environ.get gives: no worker would answer its hello
            raise TypeError(f"token {self.token!r} is no text; without a token it is empty")


class Core(Protocol):
    """What a driver drives."""

    @property
    def link(self) -> Link:
        """Its connection: what a driver carries messages over until that is lost."""

    def connected(self, now_s: float) -> None:
        """A new connection is open; nothing of the last one holds any more."""

    def receive(self, message: m.Message, now_s: float) -> None: ...

    def outgoing(self, now_s: float) -> m.Message | None:
        """The next message to send; None when there is none now."""

    def tick(self, now_s: float) -> None: ...

    @property
    def wake_at_s(self) -> float:
        """When `tick` or `outgoing` has something to do next, without a message coming."""


class Link:
    """The part of a connection that every client shares."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.welcome: m.Welcome | None = None
        self.refusal: m.Nack | None = None
        """why the worker does not welcome this client"""
        self.is_lost = False
        """give this connection up and open another"""
        self._to_send: list[m.ClientMessage] = []
        self._heard_s = -inf
        self._asked_s = inf
        """when the worker was first asked something since it was last heard"""
        self._ping_at_s = inf
        self._nonce = 0

    def connected(self, now_s: float) -> None:
        self.welcome = None
        self.is_lost = False
        self._heard_s = now_s
        self._asked_s = now_s
        self._ask_again_at(now_s)
        self._to_send = [self._hello()]

    def _ask_again_at(self, now_s: float) -> None:
        """A hello that is not answered yet is followed by none: each would be welcomed, and all subscribed again."""
        self._ping_at_s = now_s + (PING_EVERY_S if self.refusal is None else HELLO_AGAIN_S)

    def _hello(self) -> m.Hello:
        return m.Hello(self._identity.client, self._identity.tenant, self._identity.token)

    def receive(self, message: m.Message, now_s: float) -> None:
        self._heard_s = now_s
        self._asked_s = inf
        match message:
            case m.Welcome():
                self.welcome = message
                self.refusal = None
            case m.Nack("hello_first"):
                self.is_lost = True
            case m.Nack(code) if self.welcome is None and code in ("unauthorised", "bad_id", "version"):
                self.refusal = message
                self._ask_again_at(now_s)
            case m.Pong(_, incarnation) if self.welcome and incarnation != self.welcome.incarnation:
                self.is_lost = True
            case _:
                pass

    def outgoing(self) -> m.ClientMessage | None:
        return self._to_send.pop(0) if self._to_send else None

    def tick(self, now_s: float) -> None:
        if self.is_lost:
            return
        if now_s >= self._asked_s + LOST_AFTER_S:
            self.is_lost = True
        if now_s >= self._ping_at_s:
            self._ask_again_at(now_s)
            # Before the welcome too: what answers then does not know this connection.
            self._nonce += 1
            self._to_send.append(m.Ping(self._nonce) if self.refusal is None else self._hello())
            self._asked_s = min(self._asked_s, now_s)

    def lose(self) -> None:
        """Open another connection: this one leads to the wrong worker."""
        self.is_lost = True

    @property
    def is_welcome(self) -> bool:
        """A worker has welcomed this connection, and it is not lost."""
        return self.welcome is not None and not self.is_lost

    @property
    def wake_at_s(self) -> float:
        return inf if self.is_lost else min(self._ping_at_s, self._asked_s + LOST_AFTER_S)
