"""The clients for ordinary, threaded programs."""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal, Self, SupportsFloat, SupportsIndex, TypeVar

import numpy.typing as npt

from runtime import messages as m
from runtime.client.asking import Asking, ask_history, ask_sessions, ask_state, ask_to_delete
from runtime.client.given import as_frames, as_sequence, as_time_s
from runtime.client.link import Identity
from runtime.client.locate import Locate, locator
from runtime.client.published import ENTRY_OVERHEAD_BYTES, Receipt
from runtime.client.publisher_account import PublisherEvent, PublisherPolicy, PublisherStats
from runtime.client.publisher_fleet import PublisherFleet
from runtime.client.state_core import Subscription
from runtime.client.state_fleet import StateFleet
from runtime.client.thread_driver import ThreadDriver

T = TypeVar("T")


def new_identity(client: str, tenant: str, token: str, kind: str) -> Identity:
    return Identity(client or f"{kind}-{uuid.uuid4().hex[:12]}", tenant, token)


def wait_for_welcome(driver: ThreadDriver[PublisherFleet] | ThreadDriver[StateFleet], timeout_s: float) -> None:
    with driver.changed:
        driver.raise_if_closed()
        if not driver.wait(lambda: driver.core.is_answered, timeout_s):
            raise driver.core.timed_out(f"no answer within {timeout_s:g} s")
        driver.core.raise_refusal()


def abandon(client: Publisher | StateClient, driver: ThreadDriver[Any]) -> None:
    if driver.is_running:
        driver.abandon()  # first: a warning may be an error
        warnings.warn(f"unclosed {client!r}", ResourceWarning, source=client, stacklevel=2)


class Publisher:
    """Publishes segments of any number of streams; keeps each until it is durable, resends by itself.

    `address` is a gateway (`http://host:port`) or a worker (`tcp://host:port`). Safe to use from several threads;
    a forked process makes a client of its own.

    One that is collected without `close` sends what it holds, and ends then.

    `on_event` is called by the thread that sends and receives: it should return soon, and may publish where there is
    room, but wait for nothing of this client. What it raises is logged.
    """

    def __init__(
        self,
        address: str | Locate,
        *,
        tenant: str = "default",
        token: str = "",
        client: str = "",
        policy: PublisherPolicy | None = None,
        on_event: Callable[[PublisherEvent], None] | None = None,
    ) -> None:
        identity = new_identity(client, tenant, token, "publisher")
        core = PublisherFleet(identity, policy or PublisherPolicy(), on_event)
        self._driver = ThreadDriver(core, locator(address, token), identity.client)

    @property
    def stats(self) -> PublisherStats:
        return self._driver.core.stats

    @property
    def is_connected(self) -> bool:
        """A worker has welcomed this client and answers."""
        return self._driver.is_running and self._driver.core.is_connected

    @property
    def unfinished(self) -> int:
        """Segments that are neither durable nor refused nor dropped: lost if the client is closed now."""
        with self._driver.changed:
            return self._driver.core.unfinished

    def check(self, timeout_s: float) -> None:
        """Wait until a worker has welcomed this client. Raises Refused for a bad token, RequestTimeout.

        There is no need to: what is published before is sent as soon as there is a connection.
        """
        wait_for_welcome(self._driver, timeout_s)

    def publish(
        self,
        session: str,
        stream: str,
        modality: str,
        frames: npt.ArrayLike,
        event_time_s: SupportsFloat,
        *,
        sequence: SupportsIndex | None = None,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Hand over one segment, `frames` [T, F]; returns at once unless the buffer is full and the policy blocks.

        `sequence` is for sources that can be replayed: number their segments 1, 2, 3, ..., and what was durable
        before is recognised; so is what was refused then, which counts as durable now. A segment that is refused later
        is told to `on_event`, or logged. Raises PublisherFull after `timeout_s` of waiting for room, StreamRefused for
        a stream that the runtime has refused, ValueError for frames that are not [T, F]; Refused, where it would wait
        for room, for a bad token.
        """
        array, time_s, number = as_frames(frames), as_time_s(event_time_s), as_sequence(sequence)
        core = self._driver.core
        with self._driver.changed:
            if core.policy.when_full == "block":
                n_bytes = array.nbytes + ENTRY_OVERHEAD_BYTES
                if not self._driver.wait(lambda: core.has_room(n_bytes) or core.refusal is not None, timeout_s):
                    raise core.full(timeout_s)
                if not core.has_room(n_bytes):
                    core.raise_refusal()
            if number is not None and core.is_leaving(session, stream):
                self._driver.wait(lambda: not core.is_leaving(session, stream), timeout_s)
            self._driver.wake()  # first: what a closed client refuses is not counted as published
            return core.publish(session, stream, modality, array, time_s, time.monotonic(), number)

    def begin(self, session: str, stream: str, modality: str, *, sequence: SupportsIndex | None = None) -> None:
        """Segments of this stream may follow, though the first is not there yet.

        For one whose segments come late, as a transcript does: from now on its session keeps the lateness of this
        modality, where it would have settled beyond the first; one that was deleted is made anew. `sequence` is the
        number of the first, if you number them. Raises StreamRefused, ValueError.
        """
        number = as_sequence(sequence)
        with self._driver.changed:
            self._driver.wake()
            self._driver.core.begin(session, stream, modality, number)

    def end(self, session: str, stream: str) -> None:
        """Nothing more comes on this stream for now: its session settles without waiting for it.

        Of the streams that have ended, and are durable, the last 10,000 are remembered; of the others all.
        """
        with self._driver.changed:
            self._driver.core.end(session, stream)
            self._driver.wake()

    def forget(self, session: str, stream: str) -> None:
        """End a stream and free its memory once all of it is durable. What comes for it later opens it again.

        A stream numbered by its publisher may then go on at any higher number: `publish` waits until it is forgotten.
        """
        with self._driver.changed:
            self._driver.core.forget(session, stream)
            self._driver.wake()

    def wait(
        self, receipt: Receipt, *, until: Literal["fused", "durable"] = "durable", timeout_s: float | None = None
    ) -> Receipt:
        """Wait until a segment is fused or durable; raises Refused if it was refused, RequestTimeout in time."""
        core = self._driver.core
        with self._driver.changed:
            if not self._driver.wait(lambda: core.has_reached(receipt, until), timeout_s):
                raise core.timed_out(f"segment {receipt.sequence} is not {until} after {timeout_s} s")
            return core.check(receipt)

    def wait_until(self, is_done: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Wait until this is so, looking again whenever something became fused or durable, or was refused.

        For conditions over many receipts, each looked at once: `wait` would visit them one by one. Raises Refused if
        the runtime refuses this publisher as a whole, RequestTimeout in time.
        """
        core = self._driver.core
        with self._driver.changed:
            if not self._driver.wait(lambda: is_done() or core.refusal is not None, timeout_s):
                raise core.timed_out(f"it is not so after {timeout_s} s")
            core.raise_refusal()

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything published is durable or refused. Raises RequestTimeout, or Refused for a bad token."""
        core = self._driver.core
        with self._driver.changed:
            if not self._driver.wait(lambda: core.is_flushed, timeout_s):
                raise core.timed_out(f"{core.unfinished} segments are not durable after {timeout_s} s")
            if core.unfinished:
                core.raise_refusal()

    def close(self) -> None:
        """Stop at once; `flush` first what must not be lost. The log tells how many segments are not durable."""
        if self._driver.is_running:
            with self._driver.changed:
                self._driver.core.tell_what_is_left()
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_driver"):
            abandon(self, self._driver)


class StateClient:
    """Queries and follows fused state. Safe to use from several threads."""

    def __init__(self, address: str | Locate, *, tenant: str = "default", token: str = "", client: str = "") -> None:
        identity = new_identity(client, tenant, token, "reader")
        self._driver = ThreadDriver(StateFleet(identity), locator(address, token), identity.client)

    @property
    def welcome(self) -> m.Welcome | None:
        """What the worker said of itself; None while there is no connection."""
        return self._driver.core.welcome

    @property
    def refusal(self) -> m.Nack | None:
        """Why the worker does not welcome this client; None if it does, or has not answered."""
        return self._driver.core.refusal

    def check(self, timeout_s: float) -> None:
        """Wait until a worker has welcomed this client. Raises Refused for a bad token, RequestTimeout."""
        wait_for_welcome(self._driver, timeout_s)

    def state(
        self,
        session: str,
        *,
        after_version: int = 0,
        wait_s: float = 0.0,
        include_context: bool = False,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        """Live and settled state, once the live version is at least `after_version`, or after `wait_s` (60 s at most).

        `timed_out` in the answer tells whether that version was not reached.
        Raises Refused("not_found") for a session that does not exist, RequestTimeout if no worker answers.
        """
        return self._ask(ask_state(session, after_version, wait_s, include_context), timeout_s)

    def sessions(self, *, after: str = "", limit: int = 100, timeout_s: float = 10.0) -> tuple[list[str], bool]:
        """One page of session ids greater than `after`, and whether there are more."""
        return self._ask(ask_sessions(after, limit), timeout_s)

    def history(
        self,
        session: str,
        *,
        from_s: float = float("-inf"),
        to_s: float = float("inf"),
        limit: int = 1000,
        timeout_s: float = 10.0,
    ) -> list[dict[str, Any]]:
        """Settled versions with event time in [from_s, to_s], oldest first, the newest `limit` of them."""
        return self._ask(ask_history(session, from_s, to_s, limit), timeout_s)

    def delete(self, session: str, *, timeout_s: float = 10.0) -> bool:
        """Forget a session for good; True if there was one."""
        return self._ask(ask_to_delete(session), timeout_s)

    def subscribe(self, session: str = "", *, timeout_s: float | None = None) -> Iterator[m.Update]:
        """Updates of one session, or of all, from now on as they come; ends after `timeout_s` without one.

        Raises Refused for a bad token.
        """
        with self._driver.changed:
            subscription = self._driver.core.subscribe(session)
            self._driver.wake()
        return self._updates(subscription, timeout_s)

    def _updates(self, subscription: Subscription, timeout_s: float | None) -> Iterator[m.Update]:
        core = self._driver.core
        try:
            while True:
                with self._driver.changed:
                    if not self._driver.wait(lambda: bool(subscription.updates) or core.refusal is not None, timeout_s):
                        return
                    if not subscription.updates:
                        core.raise_refusal()
                    update = core.next_update(subscription)
                    self._driver.wake()
                if update is not None:
                    yield update
        finally:
            with self._driver.changed:
                core.unsubscribe(subscription)

    def signature(self) -> dict[str, Any]:
        """The model's signature as the worker told it; call `check` first."""
        with self._driver.changed:
            return self._driver.core.signature()

    def tenant(self) -> str:
        """Whose sessions are read: of the token, where the runtime has tokens; call `check` first."""
        with self._driver.changed:
            return self._driver.core.tenant()

    def tap(self, *, timeout_s: float) -> Iterator[list[m.Tapped]]:
        """Every segment of the tenant from now on as the worker accepts it, for a recorder; an empty list after
        `timeout_s`.

        After a crash of the worker a segment that was not durable is accepted, and so tapped, again.
        """
        with self._driver.changed:
            self._driver.core.tap()
            self._driver.wake()
        return self._taps(timeout_s)

    def _taps(self, timeout_s: float) -> Iterator[list[m.Tapped]]:
        core = self._driver.core
        while True:
            with self._driver.changed:
                self._driver.wait(lambda: core.has_tapped, timeout_s)
                tapped = core.take_tapped()
                self._driver.wake()
            yield tapped

    def _ask(self, asking: Asking[T], timeout_s: float) -> T:
        core = self._driver.core
        with self._driver.changed:
            pending = core.ask(asking.question)
            self._driver.wake()
            if not self._driver.wait(lambda: pending.is_done, timeout_s + asking.held_s):
                core.give_up(pending)
                raise core.timed_out(f"no answer within {timeout_s + asking.held_s:g} s")
        return asking.read(pending.result())

    def close(self) -> None:
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_driver"):
            abandon(self, self._driver)
