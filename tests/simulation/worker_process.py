"""A worker in virtual time: what `runtime.worker_loop` and `runtime.store_thread` do with sockets and threads.

It can be killed between any two steps, and it can be frozen and thawed, as by SIGSTOP and SIGCONT. Its own clock has
an origin of its own, as `time.monotonic` has in every process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Protocol

import numpy as np

from runtime import messages as m
from runtime.dispatch.dispatcher import Dispatcher
from runtime.dispatch.policy import DispatchPolicy
from runtime.dispatch.store_jobs import StoreJob
from runtime.dispatch.turn_clock import TurnClock
from runtime.engine.engine import Engine
from runtime.engine.policies import EnginePolicy
from runtime.keys import KEY_GROUPS
from runtime.records import RecordError
from runtime.security import Tokens
from runtime.store.base import Store, StoreError, StoreUnavailable
from runtime.wire import encode
from tests.runtime.toy_model import ToyModel
from tests.simulation.network import Connection, Frames
from tests.simulation.virtual_time import Timer, VirtualTime

POLL_S = 0.25


class Witness(Protocol):
    """Told of every step; may end the process between two."""

    def step(self, kind: str) -> None: ...

    def worker_says(self, tenant: str, message: m.WorkerMessage) -> None: ...

    def worker_fenced(self) -> None: ...


class WorkerProcess:
    def __init__(
        self,
        name: str,
        engine_policy: EnginePolicy,
        dispatch_policy: DispatchPolicy,
        store: Store,
        time: VirtualTime,
        random: Random,
        witness: Witness,
    ) -> None:
        self.name = name
        self.is_listening = False
        self.dispatcher = Dispatcher(Engine(ToyModel(), engine_policy), "w", name, Tokens({}), dispatch_policy)
        self._time = time
        self._random = random
        self._witness = witness
        offset_s = random.uniform(-500.0, 500.0)
        self._clock = TurnClock(lambda: time.now_s + offset_s)
        self._connections: dict[bytes, Connection] = {}
        self._tenants: dict[bytes, str] = {}
        self._is_frozen = False
        self._held_up: list[Callable[[], None]] = []
        """what has come while it was frozen"""
        self._turn_timer: Timer | None = None
        self._turn_at_s = 0.0
        self._store = store
        self._jobs: deque[StoreJob] = deque()
        self._job_is_running = False

    @property
    def engine(self) -> Engine:
        return self.dispatcher.engine

    # ---- life ----

    def start(self) -> None:
        """Claim every key group and listen. Raises StoreUnavailable."""
        owned = self._store.ownership()
        expected = {group: owned[group].epoch if group in owned else 0 for group in range(KEY_GROUPS)}
        self.dispatcher.own(self._store.claim(self.name, expected))
        self.is_listening = True
        self._turn_soon()

    def kill(self, silently: bool = False) -> None:
        """All that was in memory is gone. `silently`: its connections do not break, they only lead nowhere."""
        self.is_listening = False
        self._jobs.clear()
        if self._turn_timer is not None:
            self._turn_timer.cancel()
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.worker_died(silently)

    def disown(self) -> None:
        """The controller has given its groups to another worker."""
        self.dispatcher.own({})
        self._turn_soon()

    def freeze(self) -> None:
        self._is_frozen = True

    def thaw(self) -> None:
        """Go on as if nothing had happened."""
        self._is_frozen = False
        held_up, self._held_up = self._held_up, []
        for event in held_up:
            event()

    # ---- connections ----

    def connected(self, identity: bytes, connection: Connection) -> None:
        self._connections[identity] = connection

    def disconnected(self, identity: bytes) -> None:
        self._connections.pop(identity, None)

    def deliver(self, identity: bytes, frames: Frames) -> None:
        self._do(lambda: self._receive(identity, frames))

    def _receive(self, identity: bytes, frames: Frames) -> None:
        self.dispatcher.receive(identity, frames, self._clock(), self._time.now_s)
        self._turn_soon()
        self._witness.step("worker hears")

    def _send(self) -> None:
        for identity, message in self.dispatcher.outbox.take():
            if isinstance(message, m.Welcome):
                self._tenants[identity] = message.tenant
            self._witness.worker_says(self._tenants.get(identity, ""), message)
            connection = self._connections.get(identity)
            if connection is None:
                self.dispatcher.gone(identity)
            else:
                connection.answer([bytes(frame) for frame in encode(message)])

    # ---- turns ----

    def _do(self, event: Callable[[], None]) -> None:
        """Handle an event now, or when the process is thawed; never once it is dead."""
        if self._is_frozen:
            self._held_up.append(lambda: self._do(event))
        elif self.is_listening:
            event()

    def _turn_soon(self) -> None:
        self._turn_in(self._random.uniform(0.0001, 0.002))

    def _turn_in(self, delay_s: float) -> None:
        at_s = self._time.now_s + delay_s
        if self._turn_timer is not None:
            if self._turn_at_s <= at_s:
                return
            self._turn_timer.cancel()
        self._turn_at_s = at_s
        self._turn_timer = self._time.at(at_s, lambda: self._do(self._turn))

    def _turn(self) -> None:
        self._turn_timer = None
        dispatcher = self.dispatcher
        with np.errstate(all="ignore"):  # of poisoned segments
            dispatcher.work(self._clock())
        self._jobs.extend(dispatcher.store.take())
        self._run_next_job()
        self._send()
        dispatcher.turn_took(0.0, self._clock())
        if dispatcher.store.health.fenced:  # what the worker's shell does then
            self._witness.worker_fenced()
            self.kill()
            return
        if dispatcher.has_work:
            self._turn_soon()
        else:
            self._turn_in(min(max(dispatcher.wake_at_s - self._clock(), 0.0005), POLL_S))
        self._witness.step("worker turns")

    # ---- the store thread ----

    def _run_next_job(self) -> None:
        if self._jobs and not self._job_is_running:
            self._job_is_running = True
            job = self._jobs.popleft()
            self._time.after(self._random.uniform(0.0005, 0.01), lambda: self._do(lambda: self._run(job)))

    def _run(self, job: StoreJob) -> None:
        outcome = self._outcome(job)
        self._time.after(self._random.uniform(0.0005, 0.01), lambda: self._do(lambda: self._answer(job, outcome)))
        self._witness.step("store runs")

    def _outcome(self, job: StoreJob) -> object:
        try:
            outcome: object = job.run(self._store)
        except (StoreError, RecordError) as error:
            return error
        if getattr(self._store, "loses_answers", False):
            return StoreUnavailable("it did what was asked, but its answer was lost")
        return outcome

    def _answer(self, job: StoreJob, outcome: object) -> None:
        self.dispatcher.store.finish(job, outcome, self._clock())
        self._job_is_running = False
        self._run_next_job()
        self._turn_soon()
        self._witness.step("store answers")
