"""Gateways, a worker and a store in one thread and virtual time: messages wait in queues, anything may crash.

The worker is the real dispatcher, the gateways' side the real relay core; only sockets, threads and clocks are
missing. One seed gives one run.
"""

from __future__ import annotations

from collections import deque
from random import Random

import numpy as np

from runtime import messages as m
from runtime.client.link import Identity
from runtime.dispatch.dispatcher import Dispatcher
from runtime.dispatch.policy import DispatchPolicy
from runtime.dispatch.store_jobs import StoreJob
from runtime.engine.engine import Engine
from runtime.engine.policies import EnginePolicy, OrderPolicy
from runtime.gateway.posted import Posted
from runtime.gateway.relay_core import RelayCore
from runtime.keys import KEY_GROUPS, SessionKey
from runtime.records import SessionRecord
from runtime.security import Tokens
from runtime.store.memory import MemoryDisk, MemoryStore
from runtime.wire import decode, encode
from tests.runtime.toy_model import ToyModel

FRAMES = np.ones((2, 2), dtype=np.float32)
TICK_S = 0.005
POLICY = EnginePolicy(order=OrderPolicy(mode="arrival"), capacity=64)
"""nothing is late and all settles at once: what is looked at is who counts what, and how often"""


class SimulatedGateway:
    """A relay core and its connection to the worker: two queues."""

    def __init__(self, name: str, now_s: float) -> None:
        self.name = name
        self.lives = 0
        self.restart(now_s)

    def restart(self, now_s: float) -> None:
        """All that was held is gone."""
        self.core = RelayCore(Identity(self.name), 1 << 20, lambda code, count: None)
        self.connect(now_s)

    def connect(self, now_s: float) -> None:
        self.lives += 1
        self.identity = f"{self.name}/{self.lives}".encode()
        self.to_worker: deque[list[bytes]] = deque()
        self.from_worker: deque[m.Message] = deque()
        self.core.connected(now_s)


class World:
    def __init__(self, seed: int, gateways: int, policy: EnginePolicy = POLICY) -> None:
        self._policy = policy
        self.random = Random(seed)
        self.now_s = 100.0
        self.disk = MemoryDisk()
        self.gateways = [SimulatedGateway(f"gateway-{number}", self.now_s) for number in range(gateways)]
        self._standing: SimulatedGateway | None = None
        self._starts = 0
        self.start_worker()

    def start_worker(self) -> None:
        self._starts += 1
        owner = f"w0/{self._starts}"
        self.store = MemoryStore(self.disk)
        owned = self.store.ownership()
        expected = {group: owned[group].epoch if group in owned else 0 for group in range(KEY_GROUPS)}
        self.dispatcher = Dispatcher(Engine(ToyModel(), self._policy), "w0", owner, Tokens({}), DispatchPolicy())
        self.dispatcher.own(self.store.claim(owner, expected))
        self._jobs: deque[StoreJob] = deque()

    # ---- faults ----

    def crash_worker(self) -> None:
        """What it knew is gone; what it had sent may still arrive."""
        self.start_worker()

    def cut(self, gateway: SimulatedGateway) -> None:
        """The connection is lost with all that was on its way."""
        self.dispatcher.gone(gateway.identity)
        gateway.connect(self.now_s)

    def restart_gateway(self, gateway: SimulatedGateway) -> None:
        self.dispatcher.gone(gateway.identity)
        gateway.restart(self.now_s)

    # ---- time ----

    def step(self) -> None:
        """One thing happens, somewhere."""
        self.now_s += TICK_S
        gateway = self.random.choice(self.gateways)
        match self.random.randrange(5):
            case 0:
                self._send(gateway)
            case 1 if gateway.to_worker:
                frames = gateway.to_worker.popleft()
                self.dispatcher.receive(gateway.identity, frames, self.now_s, self.now_s)
            case 2 if gateway.from_worker:
                gateway.core.receive(gateway.from_worker.popleft(), self.now_s)
            case 3:
                self._work()
            case 4 if self._jobs:
                job = self._jobs.popleft()
                self.dispatcher.store.finish(job, job.run(self.store), self.now_s)

    def _send(self, gateway: SimulatedGateway) -> None:
        if gateway is self._standing:
            return
        gateway.core.tick(self.now_s)
        if gateway.core.link.is_lost:
            self.cut(gateway)
        message = gateway.core.outgoing(self.now_s)
        if message is not None:
            gateway.to_worker.append([bytes(frame) for frame in encode(message)])

    def _work(self) -> None:
        self.dispatcher.work(self.now_s)
        self._jobs.extend(self.dispatcher.store.take())
        by_identity = {gateway.identity: gateway for gateway in self.gateways}
        for identity, message in self.dispatcher.outbox.take():
            gateway = by_identity.get(identity)
            if gateway is not None:  # else it went to a connection that is no more
                received = decode([bytes(frame) for frame in encode(message)])
                gateway.from_worker.append(received)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def stand_still(self, gateway: SimulatedGateway, steps: int) -> None:
        """It sends nothing for so many steps."""
        self._standing = gateway
        self.run(steps)
        self._standing = None

    def delete(self, session: str, through: SimulatedGateway) -> None:
        """As whoever asks this gateway does; the others do not hear of it."""
        through.core.forget_session(session)
        through.to_worker.append([bytes(frame) for frame in encode(m.Delete(1, session))])

    def stored(self, session: str) -> SessionRecord | None:
        key = SessionKey("default", session)
        return self.store.load([key]).get(key)


class Poster:
    """Posts 1..last of one stream through any gateway, several at once, each again until it is told `durable`."""

    def __init__(self, world: World, session: str, last: int, at_once: int) -> None:
        self._world = world
        self._session = session
        self._last = last
        self._at_once = at_once
        self.durable: set[int] = set()
        self.refusals: list[str] = []
        self._waiting: dict[int, tuple[SimulatedGateway, RelayCore, Posted]] = {}

    @property
    def is_done(self) -> bool:
        return len(self.durable) == self._last

    def act(self) -> None:
        """Look at the answers; post what is not durable, lowest number first; now and then one that is."""
        for number, (gateway, core, posted) in list(self._waiting.items()):
            if posted.is_durable:
                self.durable.add(number)
            elif posted.code:
                self.refusals.append(posted.code)
            if (
                posted.is_final or gateway.core is not core or self._world.random.random() < 0.01
            ):  # answered, dead, late
                del self._waiting[number]
        open_numbers = [number for number in range(1, self._last + 1) if number not in self.durable]
        for number in open_numbers[: self._at_once]:
            if number not in self._waiting:
                self._post(number)
                return
        if self.durable and self._world.random.random() < 0.2:
            self._post(self._world.random.choice(sorted(self.durable)))

    def _post(self, number: int) -> None:
        gateway = self._world.random.choice(self._world.gateways)
        posted = Posted(float(number), FRAMES, number, self._world.now_s)
        posted = gateway.core.post(self._session, "wrist", "imu", posted, 1)
        if number not in self.durable:
            self._waiting[number] = (gateway, gateway.core, posted)
