"""A publisher of several workers: each stream goes over the lane of its session, and moves when the session does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from runtime import messages as m
from runtime.client.errors import PublisherFull
from runtime.client.fleet import StreamFleet
from runtime.client.link import Identity
from runtime.client.published import Receipt
from runtime.client.publisher_account import Account, PublisherEvent, PublisherPolicy, PublisherStats
from runtime.client.publisher_core import PublisherCore
from runtime.messages import Float32Array

log = logging.getLogger(__name__)


class PublisherFleet(StreamFleet[PublisherCore]):
    def __init__(
        self, identity: Identity, policy: PublisherPolicy, on_event: Callable[[PublisherEvent], None] | None = None
    ) -> None:
        self._account = Account(policy, on_event)
        super().__init__(lambda: PublisherCore(identity, policy, account=self._account))

    @property
    def policy(self) -> PublisherPolicy:
        return self._account.policy

    @property
    def stats(self) -> PublisherStats:
        return self._account.stats

    def has_room(self, n_bytes: int) -> bool:
        """One segment always fits, however large."""
        return self.home.has_room(n_bytes)

    def full(self, timeout_s: float | None) -> PublisherFull:
        """The error for room that has not come in time."""
        return PublisherFull(str(self.timed_out(f"{self.unfinished} segments are not durable after {timeout_s} s")))

    def receive(self, lane: PublisherCore, message: m.Message, now_s: float) -> None:
        is_news = self.refusal is None
        super().receive(lane, message, now_s)
        if is_news and lane is self.home and message is self.refusal:
            log.error("the runtime refuses this publisher, nothing is sent: %s: %s", message.code, message.text)

    def tell_what_is_left(self) -> None:
        """Before it is closed."""
        if unfinished := self.unfinished:
            text = "the publisher is closed while %d segments are not durable: `flush` first what must not be lost"
            log.warning(text, unfinished)

    def publish(
        self,
        session: str,
        stream: str,
        modality: str,
        frames: Float32Array,
        event_time_s: float,
        now_s: float,
        sequence: int | None = None,
    ) -> Receipt:
        """As `PublisherCore.publish`."""
        lane = self.lane_of(session)
        return lane.publish(session, stream, modality, frames, event_time_s, now_s, sequence)

    def begin(self, session: str, stream: str, modality: str, sequence: int | None = None) -> None:
        self.lane_of(session).begin(session, stream, modality, sequence)

    def end(self, session: str, stream: str) -> None:
        self.lane_of(session).end(session, stream)

    def forget(self, session: str, stream: str) -> None:
        self.lane_of(session).forget(session, stream)

    def is_leaving(self, session: str, stream: str) -> bool:
        return self.lane_of(session).is_leaving(session, stream)

    def has_reached(self, receipt: Receipt, until: Literal["fused", "durable"]) -> bool:
        return self.home.has_reached(receipt, until)

    def check(self, receipt: Receipt) -> Receipt:
        return self.home.check(receipt)

    @property
    def is_done(self) -> bool:
        return self.is_flushed

    @property
    def is_flushed(self) -> bool:
        """Everything is durable or refused, or never will be."""
        return self.unfinished == 0 or self.refusal is not None

    @property
    def unfinished(self) -> int:
        return self._account.unfinished
