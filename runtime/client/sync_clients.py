"""The clients for ordinary, threaded programs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from runtime import messages as m
from runtime.client.errors import PublisherFull, Refused, RequestTimeout
from runtime.client.link import Identity
from runtime.client.locate import Locate, locator
from runtime.client.publisher_account import PublisherEvent, PublisherPolicy, PublisherStats
from runtime.client.publisher_fleet import PublisherFleet
from runtime.client.state_core import Answer, Question
from runtime.client.state_fleet import StateFleet
from runtime.client.stream_buffer import ENTRY_OVERHEAD_BYTES, Receipt
from runtime.client.thread_driver import ThreadDriver


def as_frames(frames: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """A private float32 copy [T, F]: the caller may reuse its array. Raises ValueError for another shape."""
    array = np.array(frames, dtype=np.float32, order="C")
    if array.ndim != 2:
        raise ValueError(f"frames have shape {array.shape}, expected [T, F]")
    return array


def new_identity(client: str, tenant: str, token: str, kind: str) -> Identity:
    return Identity(client or f"{kind}-{uuid.uuid4().hex[:12]}", tenant, token)


def wait_for_welcome(driver: ThreadDriver[PublisherFleet] | ThreadDriver[StateFleet], timeout_s: float) -> None:
    core = driver.core
    with driver.changed:
        if not driver.wait(lambda: core.welcome is not None or core.refusal is not None, timeout_s):
            raise RequestTimeout(f"no answer within {timeout_s:g} s")
        if core.refusal is not None:
            raise Refused(core.refusal.code, core.refusal.text)


class Publisher:
    """Publishes segments of any number of streams; keeps each until it is durable, resends by itself.

    `address` is a gateway (`http://host:port`) or a worker (`tcp://host:port`). Safe to use from several threads.
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
        event_time_s: float,
        *,
        sequence: int | None = None,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Hand over one segment, `frames` [T, F]; returns at once unless the buffer is full and the policy blocks.

        `sequence` is for sources that can be replayed: number their segments 1, 2, 3, ..., and what was durable
        before is recognised. Raises PublisherFull after `timeout_s` of waiting for room, StreamRefused for a stream
        that the runtime has refused, ValueError for frames that are not [T, F].
        """
        array = as_frames(frames)
        core = self._driver.core
        with self._driver.changed:
            if core.policy.when_full == "block":
                n_bytes = array.nbytes + ENTRY_OVERHEAD_BYTES
                if not self._driver.wait(lambda: core.has_room(n_bytes), timeout_s):
                    raise PublisherFull(f"{core.unfinished} segments are not durable after {timeout_s} s")
            receipt = core.publish(session, stream, modality, array, event_time_s, time.monotonic(), sequence)
            self._driver.wake()
        return receipt

    def end(self, session: str, stream: str) -> None:
        """Nothing more comes on this stream for now: its session settles without waiting for it."""
        with self._driver.changed:
            self._driver.core.end(session, stream)
            self._driver.wake()

    def wait(
        self, receipt: Receipt, *, until: Literal["fused", "durable"] = "durable", timeout_s: float | None = None
    ) -> Receipt:
        """Wait until a segment is fused or durable; raises Refused if it was refused, RequestTimeout in time."""
        core = self._driver.core
        with self._driver.changed:
            if not self._driver.wait(lambda: core.has_reached(receipt, until), timeout_s):
                raise RequestTimeout(f"segment {receipt.sequence} is not {until} after {timeout_s} s")
            return core.check(receipt)

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything published is durable or refused. Raises RequestTimeout, or Refused for a bad token."""
        core = self._driver.core
        with self._driver.changed:
            if not self._driver.wait(lambda: core.unfinished == 0 or core.refusal is not None, timeout_s):
                raise RequestTimeout(f"{core.unfinished} segments are not durable after {timeout_s} s")
            if core.unfinished and core.refusal is not None:
                raise Refused(core.refusal.code, core.refusal.text)

    def close(self) -> None:
        """Stop at once; `flush` first what must not be lost."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class StateClient:
    """Queries and follows fused state. Safe to use from several threads."""

    def __init__(self, address: str | Locate, *, tenant: str = "default", token: str = "", client: str = "") -> None:
        identity = new_identity(client, tenant, token, "reader")
        self._driver = ThreadDriver(StateFleet(identity), locator(address, token), identity.client)

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
        """Live and settled state, once the live version is at least `after_version`, or after `wait_s`.

        `timed_out` in the answer tells whether that version was not reached.
        Raises Refused("not_found") for a session that does not exist, RequestTimeout if no worker answers.
        """
        wait_ms = int(wait_s * 1000)
        answer = self._ask(
            lambda request: m.Query(request, session, after_version, wait_ms, include_context), timeout_s + wait_s
        )
        assert isinstance(answer, m.State)
        return answer.state | {"timed_out": answer.timed_out}

    def sessions(self, *, after: str = "", limit: int = 100, timeout_s: float = 10.0) -> tuple[list[str], bool]:
        """One page of session ids greater than `after`, and whether there are more."""
        answer = self._ask(lambda request: m.ListSessions(request, after, limit), timeout_s)
        assert isinstance(answer, m.Sessions)
        return answer.sessions, answer.more

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
        answer = self._ask(lambda request: m.QueryHistory(request, session, from_s, to_s, limit), timeout_s)
        assert isinstance(answer, m.History)
        return answer.rows

    def delete(self, session: str, *, timeout_s: float = 10.0) -> bool:
        """Forget a session for good; True if there was one."""
        answer = self._ask(lambda request: m.Delete(request, session), timeout_s)
        assert isinstance(answer, m.Deleted)
        return answer.existed

    def subscribe(self, session: str = "", *, timeout_s: float | None = None) -> Iterator[m.Update]:
        """Updates of one session, or of all, as they come; ends after `timeout_s` without one."""
        core = self._driver.core
        with self._driver.changed:
            subscription = core.subscribe(session)
            self._driver.wake()
        try:
            while True:
                with self._driver.changed:
                    if not self._driver.wait(lambda: bool(subscription.updates), timeout_s):
                        return
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
            welcome = self._driver.core.welcome
        if welcome is None:
            raise RequestTimeout("no worker has answered yet")
        return welcome.signature

    def tap(self, *, timeout_s: float) -> Iterator[list[m.Tapped]]:
        """Every segment of the tenant as the worker accepts it, for a recorder; an empty list after `timeout_s`.

        After a crash of the worker a segment that was not durable is accepted, and so tapped, again.
        """
        core = self._driver.core
        with self._driver.changed:
            core.tap()
            self._driver.wake()
        while True:
            with self._driver.changed:
                self._driver.wait(lambda: core.has_tapped, timeout_s)
                tapped = core.take_tapped()
                self._driver.wake()
            yield tapped

    def _ask(self, ask: Callable[[int], Question], timeout_s: float) -> Answer:
        core = self._driver.core
        with self._driver.changed:
            pending = core.ask(ask)
            self._driver.wake()
            if not self._driver.wait(lambda: pending.is_done, timeout_s):
                core.give_up(pending)
                raise RequestTimeout(f"no answer within {timeout_s:g} s")
        if pending.error is not None:
            raise pending.error
        assert pending.answer is not None
        return pending.answer

    def close(self) -> None:
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
