"""Clients in virtual time: around the real cores, what `runtime.client.thread_driver` does with socket and thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Protocol

from runtime import messages as m
from runtime.client.link import Core, Identity
from runtime.client.published import ENTRY_OVERHEAD_BYTES, Receipt
from runtime.client.publisher_account import PublisherEvent, PublisherPolicy
from runtime.client.publisher_core import PublisherCore
from runtime.client.state_core import Pending, StateCore, Subscription
from runtime.wire import decode, encode
from tests.simulation.network import Connection, Frames, Network
from tests.simulation.scenario import Planned
from tests.simulation.virtual_time import Timer, VirtualTime

POLL_S = 0.5


class Witness(Protocol):
    def step(self, kind: str) -> None: ...


class ClientProcess:
    def __init__(
        self,
        core: Core,
        locate: Callable[[], str],
        network: Network,
        time: VirtualTime,
        random: Random,
        witness: Witness,
    ) -> None:
        self._core = core
        self._locate = locate
        self._network = network
        self._time = time
        self._witness = witness
        self._clock_offset_s = random.uniform(-500.0, 500.0)
        self._connection: Connection | None = None
        self._timer: Timer | None = None
        self.is_stopped = False

    @property
    def now_s(self) -> float:
        return self._time.now_s + self._clock_offset_s

    @property
    def connection(self) -> Connection | None:
        return self._connection

    def pump(self) -> None:
        """A turn of the driver: connect if need be, send what there is, wait for what comes."""
        if self.is_stopped:
            return
        if self._connection is None or self._core.link.is_lost:
            self._reconnect()
        assert self._connection is not None
        while (message := self._core.outgoing(self.now_s)) is not None:
            self._connection.send([bytes(frame) for frame in encode(message)])
        if self._timer is not None:
            self._timer.cancel()
        wait_s = min(max(self._core.wake_at_s - self.now_s, 0.0005), POLL_S)
        self._timer = self._time.after(wait_s, self._wake)

    def stop(self) -> None:
        self.is_stopped = True
        if self._connection is not None:
            self._connection.close()

    def _reconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        connection = self._network.open(self._locate(), lambda frames: self._receive(connection, frames))
        self._connection = connection
        self._core.connected(self.now_s)

    def _receive(self, connection: Connection, frames: Frames) -> None:
        if connection is self._connection and not self.is_stopped:
            self.hear(decode(frames))
            self._core.tick(self.now_s)
            self.pump()
            self._witness.step("client hears")

    def hear(self, message: m.Message) -> None:
        self._core.receive(message, self.now_s)

    def _wake(self) -> None:
        if not self.is_stopped:
            self._core.tick(self.now_s)
            self.pump()


class PublisherProcess(ClientProcess):
    """Publishes a plan, and ends its streams behind it if told so."""

    def __init__(
        self,
        name: str,
        tenant: str,
        plan: list[Planned],
        ends: bool,
        policy: PublisherPolicy,
        locate: Callable[[], str],
        network: Network,
        time: VirtualTime,
        random: Random,
        witness: Witness,
    ) -> None:
        self.name = name
        self.core = PublisherCore(Identity(name, tenant), policy, self._on_event)
        super().__init__(self.core, locate, network, time, random, witness)
        self.plan = plan
        self.receipts: list[tuple[Planned, Receipt]] = []
        self.events: list[PublisherEvent] = []
        self._ends = ends
        self._due = deque(plan)
        self._paused_until_s = 0.0

    def start(self, at_s: float = 0.0) -> None:
        if self._due:
            self._time.at(max(self._due[0].at_s, at_s), self._publish_due)

    def pause(self, duration_s: float) -> None:
        """The program publishes nothing for a while; its client goes on."""
        self._paused_until_s = self._time.now_s + duration_s

    @property
    def is_done(self) -> bool:
        return self.is_stopped or (not self._due and self.core.unfinished == 0)

    def _publish_due(self) -> None:
        if self.is_stopped:
            return
        while self._due and self._due[0].at_s <= self._time.now_s:
            planned = self._due[0]
            if self._time.now_s < self._paused_until_s or not self._has_room(planned):
                break
            self._due.popleft()
            self._publish(planned)
        else:
            if not self._due and self._ends:
                for session, stream in dict.fromkeys((planned.key.session, planned.stream) for planned in self.plan):
                    self.core.end(session, stream)
        self.pump()
        if self._due:
            again_s = self._due[0].at_s if self._due[0].at_s > self._time.now_s else self._time.now_s + 0.02
            self._time.at(max(again_s, self._paused_until_s), self._publish_due)

    def _has_room(self, planned: Planned) -> bool:
        n_bytes = planned.frames.nbytes + ENTRY_OVERHEAD_BYTES
        return self.core.policy.when_full == "drop_oldest" or self.core.has_room(n_bytes)

    def _publish(self, planned: Planned) -> None:
        receipt = self.core.publish(
            planned.key.session,
            planned.stream,
            planned.modality,
            planned.frames,
            planned.event_time_s,
            self.now_s,
            planned.sequence,
        )
        self.receipts.append((planned, receipt))

    def _on_event(self, event: PublisherEvent) -> None:
        self.events.append(event)


class ReaderProcess(ClientProcess):
    """Follows every session of its tenant, asks for the state of one now and then, and may delete one."""

    def __init__(
        self,
        name: str,
        tenant: str,
        sessions: list[str],
        locate: Callable[[], str],
        network: Network,
        time: VirtualTime,
        random: Random,
        witness: Witness,
    ) -> None:
        self.core = StateCore(Identity(name, tenant))
        self.name = name
        super().__init__(self.core, locate, network, time, random, witness)
        self._sessions = sessions
        self._random = random
        self._subscription: Subscription | None = None
        self.asked: list[Pending] = []
        self.updates: list[m.Update] = []

    def start(self) -> None:
        self._subscription = self.core.subscribe("")
        self.pump()
        self._ask()

    def delete(self, session: str) -> Pending:
        pending = self.core.ask(lambda request: m.Delete(request, session))
        self.asked.append(pending)
        self.pump()
        return pending

    def finish(self) -> None:
        """Ask nothing more."""
        self._sessions = []

    def _ask(self) -> None:
        if not self._sessions:
            return
        session = self._random.choice(self._sessions)
        version = self._random.choice((0, 0, 3, 10))
        self.asked.append(self.core.ask(lambda request: m.Query(request, session, version, 300)))
        self.pump()
        self._time.after(self._random.uniform(0.1, 1.0), self._ask)

    def hear(self, message: m.Message) -> None:
        super().hear(message)
        assert self._subscription is not None
        while (update := self.core.next_update(self._subscription)) is not None:
            self.updates.append(update)
