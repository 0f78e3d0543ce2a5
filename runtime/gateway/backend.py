"""The gateway's way to the workers: one pair of clients for each caller, a bounded number of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

from prometheus_client import CollectorRegistry

from runtime.client import AsyncStateClient
from runtime.client.errors import ClientClosed
from runtime.client.link import Identity
from runtime.client.locate import Locate, NotLocated
from runtime.gateway.errors import ApiError
from runtime.gateway.metrics import GatewayMetrics
from runtime.gateway.policy import GatewayPolicy
from runtime.gateway.relay import Relay
from runtime.gateway.route_table import Routes, RouteSource, RouteTable
from runtime.messages import Welcome

TIDY_EVERY_S = 5.0

log = logging.getLogger(__name__)


class Caller(NamedTuple):
    """Who asks, as the request says; the worker decides whether that is so."""

    tenant: str = "default"
    token: str = ""


class Backend(Protocol):
    """What the endpoints need of the world."""

    @property
    def policy(self) -> GatewayPolicy: ...

    @property
    def metrics(self) -> GatewayMetrics: ...

    async def start(self) -> None:
        """Called once, in the event loop that serves the requests."""

    async def stop(self) -> None: ...

    async def routes(self) -> Routes:
        """Where the workers are; may be a moment old. Raises NotLocated while none is known."""

    async def processes(self) -> Routes:
        """The same, also while no worker serves. Raises NotLocated while the controller has not answered once."""

    async def cluster(self) -> Mapping[str, Any]:
        """What the controller knows of every worker now. Raises NotLocated while it does not answer."""

    def clients(self, caller: Caller) -> AbstractAsyncContextManager[CallerClients]:
        """The caller's connections, held open meanwhile. Raises ApiError when there are too many callers."""


class CallerClients:
    """One caller's connections to a worker: a reader, and a relay from the first post on."""

    def __init__(self, locate: Locate, caller: Caller, policy: GatewayPolicy, metrics: GatewayMetrics) -> None:
        self._name = f"gateway-{socket.gethostname()[:64]}-{uuid.uuid4().hex[:12]}"
        self._locate = locate
        self._caller = caller
        self._policy = policy
        self._metrics = metrics
        self._relay: Relay | None = None
        self.state = AsyncStateClient(locate, tenant=caller.tenant, token=caller.token, client=f"{self._name}-reader")
        self.state.open()
        self.users = 0
        self.used_s = time.monotonic()
        self.is_broken = False

    @property
    def relay(self) -> Relay:
        if self._relay is None:
            identity = Identity(self._name, self._caller.tenant, self._caller.token)
            self._relay = Relay(self._locate, identity, self._policy.max_held_bytes, self._metrics.refused_segments)
        return self._relay

    async def welcome(self, timeout_s: float) -> Welcome:
        """What the worker says of itself and of the caller. Raises Refused, RequestTimeout, ApiError."""
        await self.state.check(timeout_s)
        if self.state.welcome is None:  # lost again in this moment
            raise ApiError("unavailable", "the connection to the worker was lost")
        return self.state.welcome

    def forget_session(self, session: str) -> None:
        """The session is being deleted: what was posted to it must not bring it back."""
        if self._relay is not None:
            self._relay.forget_session(session)

    @property
    def is_idle(self) -> bool:
        return not self.users and (self._relay is None or self._relay.is_idle)

    @property
    def held_bytes(self) -> int:
        return self._relay.held_bytes if self._relay else 0

    def tidy(self, now_s: float) -> int:
        if self._relay is None:
            return 0
        return self._relay.tidy(now_s - self._policy.idle_stream_s, now_s - self._policy.give_up_s)

    async def close(self) -> None:
        await self.state.close()
        if self._relay is not None:
            await self._relay.close()


class WorkerBackend:
    """The Backend that speaks with the workers. `source` is the controller."""

    def __init__(
        self, source: RouteSource, policy: GatewayPolicy | None = None, metrics: GatewayMetrics | None = None
    ) -> None:
        self.policy = policy or GatewayPolicy()
        self.metrics = metrics or GatewayMetrics(CollectorRegistry())
        self._table = RouteTable(source)
        self._callers: OrderedDict[Caller, CallerClients] = OrderedDict()
        """longest unused first"""
        self._tidying: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._tidying = asyncio.create_task(self._tidy_often())

    async def stop(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.wait({self._tidying})
        while self._callers:
            _, clients = self._callers.popitem()
            await clients.close()

    async def routes(self) -> Routes:
        return await self._table.get()

    async def processes(self) -> Routes:
        return await asyncio.to_thread(self._table.read_all)

    async def cluster(self) -> Mapping[str, Any]:
        return await self._table.cluster()

    @contextlib.asynccontextmanager
    async def clients(self, caller: Caller) -> AsyncGenerator[CallerClients, None]:
        clients = self._callers.get(caller)
        if clients is None:
            await self._make_room()
            clients = self._callers.get(caller) or self._connect(caller)  # another request may have been quicker
        self._callers.move_to_end(caller)
        clients.users += 1
        try:
            yield clients
        except ClientClosed:
            clients.is_broken = True
            raise
        finally:
            clients.users -= 1
            clients.used_s = time.monotonic()
            if clients.is_broken or (clients.state.refusal is not None and clients.is_idle):
                await self._close(caller, clients)

    def _connect(self, caller: Caller) -> CallerClients:
        clients = self._callers[caller] = CallerClients(self._table.locate, caller, self.policy, self.metrics)
        self._count()
        return clients

    async def _make_room(self) -> None:
        if len(self._callers) < self.policy.max_callers:
            return
        unused = next((item for item in self._callers.items() if item[1].is_idle), None)
        if unused is None:
            raise ApiError("slow_down", f"{self.policy.max_callers} callers are being served")
        await self._close(*unused)

    async def _close(self, caller: Caller, clients: CallerClients) -> None:
        if self._callers.get(caller) is clients:
            del self._callers[caller]
            self._count()
            await clients.close()

    async def _tidy_often(self) -> None:
        while True:
            with contextlib.suppress(NotLocated):  # the controller learns that this gateway is there
                await self._table.get()
            await asyncio.sleep(TIDY_EVERY_S)
            try:
                await self.tidy(time.monotonic())
            except Exception:
                log.exception("tidying failed")

    async def tidy(self, now_s: float) -> None:
        """Close what is not used, forget what is over, give up what was held for too long."""
        for caller, clients in list(self._callers.items()):
            given_up = clients.tidy(now_s)
            if given_up:
                log.warning("%d posted segments were given up: no worker made them durable", given_up)
                self.metrics.refused_segments("given_up", given_up)
            if clients.is_idle and clients.used_s < now_s - self.policy.idle_caller_s:
                await self._close(caller, clients)
        self._count()

    def _count(self) -> None:
        self.metrics.callers.set(len(self._callers))
        self.metrics.held_bytes.set(sum(clients.held_bytes for clients in self._callers.values()))
