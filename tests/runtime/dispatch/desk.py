"""A dispatcher on a desk: the test is the transport, the store's thread and the clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from grf_core.step import StepModel
from runtime import messages as m
from runtime.dispatch.dispatcher import Dispatcher
from runtime.dispatch.policy import DispatchPolicy
from runtime.dispatch.store_jobs import StoreJob
from runtime.engine.engine import Engine
from runtime.engine.policies import EnginePolicy
from runtime.keys import KEY_GROUPS
from runtime.records import RecordError
from runtime.security import Tokens
from runtime.store.base import StoreError
from runtime.store.memory import MemoryDisk, MemoryStore
from runtime.wire import decode, encode
from tests.runtime.toy_model import ToyModel

FRAMES = np.ones((2, 3), np.float32)
MessageT = TypeVar("MessageT")


class Desk:
    """A dispatcher with its store, and what each connection has been told."""

    def __init__(
        self,
        disk: MemoryDisk | None = None,
        *,
        digest: str = "toy-1",
        model: StepModel | None = None,
        incarnation: str = "",
        **policy: Any,
    ) -> None:
        self.disk = disk or MemoryDisk()
        self.store = MemoryStore(self.disk)
        tokens = Tokens(policy.pop("tokens", {}))
        engine = Engine(model or ToyModel(digest), EnginePolicy(**policy))
        incarnation = incarnation or f"incarnation of {digest}"
        self.dispatcher = Dispatcher(engine, "w", incarnation, tokens, DispatchPolicy())
        expected = {group: self.store.ownership()[group].epoch for group in self.store.ownership()}
        self.dispatcher.own(self.store.claim("w", {group: expected.get(group, 0) for group in range(KEY_GROUPS)}))
        self.now_s = 100.0
        self.told: list[tuple[bytes, m.Message]] = []
        self.store_is_stuck = False
        """jobs wait for `run_jobs`"""
        self.jobs: list[StoreJob] = []

    def say(self, who: bytes, *messages: m.Message) -> None:
        for message in messages:
            self.deliver_message(who, message)
        self.work()

    def deliver_message(self, who: bytes, message: m.Message) -> None:
        self.deliver(who, [bytes(frame) for frame in encode(message)])

    def deliver(self, who: bytes, frames: Sequence[bytes]) -> None:
        self.dispatcher.receive(who, frames, self.now_s, 1e6 + self.now_s)

    def work(self, seconds: float = 0.0) -> None:
        """Turns until there is nothing to do; jobs run at once."""
        self.now_s += seconds
        for _ in range(200):
            self.now_s += 0.005
            self.dispatcher.work(self.now_s)
            self.jobs += self.dispatcher.store.take()
            is_busy = self.dispatcher.has_work
            if not self.store_is_stuck:
                is_busy = is_busy or bool(self.jobs) or not self.dispatcher.saver.is_clean
                self.run_jobs()
            # Encoded at once, as the worker does: the numbers of updates are the slab's own until the next step.
            self.told += [(to, decode(encode(message))) for to, message in self.dispatcher.outbox.take()]
            if not is_busy:
                return

    def run_jobs(self) -> None:
        """The store does what it was asked, and answers."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            try:
                outcome: object = job.run(self.store)
            except (StoreError, RecordError) as error:
                outcome = error
            self.dispatcher.store.finish(job, outcome, self.now_s)

    def heard(self, who: bytes, kind: type[MessageT]) -> list[MessageT]:
        """What this connection was told of this kind since this was last asked; the rest is forgotten."""
        heard: Sequence[object] = self.all_heard(who)
        return [message for message in heard if isinstance(message, kind)]

    def hello(self, who: bytes, tenant: str = "default", token: str = "") -> None:
        self.say(who, m.Hello(who.decode(), tenant, token))

    def publish(self, who: bytes, session: str, *numbers: int, stream: str = "mic") -> None:
        entries = tuple(m.SegmentEntry(number, number / 10, FRAMES) for number in numbers)
        self.say(who, m.Segments((m.StreamSegments(session, stream, 1, entries),)))

    def all_heard(self, who: bytes) -> list[m.Message]:
        heard = [message for identity, message in self.told if identity == who]
        self.told = [(identity, message) for identity, message in self.told if identity != who]
        return heard

    def codes(self, who: bytes) -> list[tuple[str, int]]:
        """Codes and sequence numbers of the refusals that this connection was told."""
        return [(nack.code, nack.sequence) for nack in self.heard(who, m.Nack)]

    def crash(self, **policy: Any) -> Desk:
        """Another worker on the same store; this one is gone."""
        incarnation = f"after {self.dispatcher.incarnation}"
        after = Desk(self.disk, incarnation=incarnation, **policy)
        after.now_s = self.now_s
        return after

    def settle(self, who: bytes, session: str, *numbers: int) -> None:
        """Open, publish, end: everything is durable afterwards."""
        self.say(who, m.Open(session, "mic", "audio", 1))
        self.publish(who, session, *numbers)
        self.say(who, m.End(session, "mic"))
        self.work(3.0)
        self.work(0.1)
