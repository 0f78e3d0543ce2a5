"""The clients for asyncio programs; the same cores as `sync_clients`, the same methods, arguments and errors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, Literal, Self, SupportsFloat, SupportsIndex, TypeVar

import numpy.typing as npt

from runtime import messages as m
from runtime.client.asking import Asking, ask_history, ask_sessions, ask_state, ask_to_delete
from runtime.client.async_driver import AsyncDriver
from runtime.client.errors import ClientClosed
from runtime.client.given import as_frames, as_sequence, as_time_s
from runtime.client.locate import Locate, locator
from runtime.client.published import ENTRY_OVERHEAD_BYTES, Receipt
from runtime.client.publisher_account import PublisherEvent, PublisherPolicy, PublisherStats
from runtime.client.publisher_fleet import PublisherFleet
from runtime.client.state_core import Subscription
from runtime.client.state_fleet import StateFleet
from runtime.client.sync_clients import new_identity

T = TypeVar("T")


class AsyncPublisher:
    """As `Publisher`; use it as `async with`, or call `open` in the event loop that it lives in."""

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
        core = PublisherFleet(new_identity(client, tenant, token, "publisher"), policy or PublisherPolicy(), on_event)
        self._driver = AsyncDriver(core, locator(address, token))

    @property
    def stats(self) -> PublisherStats:
        return self._driver.core.stats

    @property
    def is_connected(self) -> bool:
        """A worker has welcomed this client and answers."""
        return self._driver.is_running and self._driver.core.is_connected

    @property
    def unfinished(self) -> int:
        return self._driver.core.unfinished

    def open(self) -> None:
        self._driver.start()

    async def check(self, timeout_s: float) -> None:
        await wait_for_welcome(self._driver, timeout_s)

    async def publish(
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
        array, time_s, number = as_frames(frames), as_time_s(event_time_s), as_sequence(sequence)
        core = self._driver.core
        if core.policy.when_full == "block":
            n_bytes = array.nbytes + ENTRY_OVERHEAD_BYTES
            if not await self._driver.wait(lambda: core.has_room(n_bytes) or core.refusal is not None, timeout_s):
                raise core.full(timeout_s)
            if not core.has_room(n_bytes):
                core.raise_refusal()
        if number is not None and core.is_leaving(session, stream):
            await self._driver.wait(lambda: not core.is_leaving(session, stream), timeout_s)
        self._driver.wake()  # first: what a closed client refuses is not counted as published
        return core.publish(session, stream, modality, array, time_s, time.monotonic(), number)

    def begin(self, session: str, stream: str, modality: str, *, sequence: SupportsIndex | None = None) -> None:
        self._driver.wake()
        self._driver.core.begin(session, stream, modality, as_sequence(sequence))

    def end(self, session: str, stream: str) -> None:
        self._driver.core.end(session, stream)
        self._driver.wake()

    def forget(self, session: str, stream: str) -> None:
        self._driver.core.forget(session, stream)
        self._driver.wake()

    async def wait(
        self, receipt: Receipt, *, until: Literal["fused", "durable"] = "durable", timeout_s: float | None = None
    ) -> Receipt:
        core = self._driver.core
        if not await self._driver.wait(lambda: core.has_reached(receipt, until), timeout_s):
            raise core.timed_out(f"segment {receipt.sequence} is not {until} after {timeout_s} s")
        return core.check(receipt)

    async def wait_until(self, is_done: Callable[[], bool], timeout_s: float | None = None) -> None:
        core = self._driver.core
        if not await self._driver.wait(lambda: is_done() or core.refusal is not None, timeout_s):
            raise core.timed_out(f"it is not so after {timeout_s} s")
        core.raise_refusal()

    async def flush(self, timeout_s: float | None = None) -> None:
        core = self._driver.core
        if not await self._driver.wait(lambda: core.is_flushed, timeout_s):
            raise core.timed_out(f"{core.unfinished} segments are not durable after {timeout_s} s")
        if core.unfinished:
            core.raise_refusal()

    async def close(self) -> None:
        if self._driver.is_running:
            self._driver.core.tell_what_is_left()
        await self._driver.close()

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class AsyncStateClient:
    """As `StateClient`; use it as `async with`, or call `open` in the event loop that it lives in."""

    def __init__(self, address: str | Locate, *, tenant: str = "default", token: str = "", client: str = "") -> None:
        core = StateFleet(new_identity(client, tenant, token, "reader"))
        self._driver = AsyncDriver(core, locator(address, token))

    def open(self) -> None:
        self._driver.start()

    @property
    def welcome(self) -> m.Welcome | None:
        """What the worker said of itself; None while there is no connection."""
        return self._driver.core.welcome

    @property
    def refusal(self) -> m.Nack | None:
        """Why the worker does not welcome this client; None if it does, or has not answered."""
        return self._driver.core.refusal

    async def check(self, timeout_s: float) -> None:
        await wait_for_welcome(self._driver, timeout_s)

    async def state(
        self,
        session: str,
        *,
        after_version: int = 0,
        wait_s: float = 0.0,
        include_context: bool = False,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        return await self._ask(ask_state(session, after_version, wait_s, include_context), timeout_s)

    async def sessions(self, *, after: str = "", limit: int = 100, timeout_s: float = 10.0) -> tuple[list[str], bool]:
        return await self._ask(ask_sessions(after, limit), timeout_s)

    async def history(
        self,
        session: str,
        *,
        from_s: float = float("-inf"),
        to_s: float = float("inf"),
        limit: int = 1000,
        timeout_s: float = 10.0,
    ) -> list[dict[str, Any]]:
        return await self._ask(ask_history(session, from_s, to_s, limit), timeout_s)

    async def delete(self, session: str, *, timeout_s: float = 10.0) -> bool:
        return await self._ask(ask_to_delete(session), timeout_s)

    def subscribe(self, session: str = "", *, timeout_s: float | None = None) -> AsyncGenerator[m.Update, None]:
        subscription = self._driver.core.subscribe(session)
        self._driver.wake()
        return self._updates(subscription, timeout_s)

    async def _updates(self, subscription: Subscription, timeout_s: float | None) -> AsyncGenerator[m.Update, None]:
        core = self._driver.core
        try:
            while await self._driver.wait(lambda: bool(subscription.updates) or core.refusal is not None, timeout_s):
                if not subscription.updates:
                    core.raise_refusal()
                update = core.next_update(subscription)
                self._driver.wake()
                if update is not None:
                    yield update
        finally:
            core.unsubscribe(subscription)
            with contextlib.suppress(ClientClosed):
                self._driver.wake()  # the worker is told at once

    def signature(self) -> dict[str, Any]:
        return self._driver.core.signature()

    def tenant(self) -> str:
        return self._driver.core.tenant()

    def tap(self, *, timeout_s: float) -> AsyncGenerator[list[m.Tapped], None]:
        self._driver.core.tap()
        self._driver.wake()
        return self._taps(timeout_s)

    async def _taps(self, timeout_s: float) -> AsyncGenerator[list[m.Tapped], None]:
        core = self._driver.core
        while True:
            await self._driver.wait(lambda: core.has_tapped, timeout_s)
            tapped = core.take_tapped()
            self._driver.wake()
            yield tapped

    async def _ask(self, asking: Asking[T], timeout_s: float) -> T:
        core = self._driver.core
        pending = core.ask(asking.question)
        self._driver.wake()
        if not await self._driver.wait(lambda: pending.is_done, timeout_s + asking.held_s):
            core.give_up(pending)
            raise core.timed_out(f"no answer within {timeout_s + asking.held_s:g} s")
        return asking.read(pending.result())

    async def close(self) -> None:
        await self._driver.close()

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def wait_for_welcome(driver: AsyncDriver[PublisherFleet] | AsyncDriver[StateFleet], timeout_s: float) -> None:
    driver.raise_if_closed()
    if not await driver.wait(lambda: driver.core.is_answered, timeout_s):
        raise driver.core.timed_out(f"no answer within {timeout_s:g} s")
    driver.core.raise_refusal()
