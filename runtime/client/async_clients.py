"""The clients for asyncio programs; the same cores as `sync_clients`, the same arguments and errors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, Literal, Self

import numpy.typing as npt

from runtime import messages as m
from runtime.client.async_driver import AsyncDriver
from runtime.client.errors import ClientClosed, PublisherFull, Refused, RequestTimeout
from runtime.client.locate import Locate, locator
from runtime.client.publisher_account import PublisherEvent, PublisherPolicy, PublisherStats
from runtime.client.publisher_fleet import PublisherFleet
from runtime.client.state_core import Answer, Question
from runtime.client.state_fleet import StateFleet
from runtime.client.stream_buffer import ENTRY_OVERHEAD_BYTES, Receipt
from runtime.client.sync_clients import as_frames, new_identity


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
        return self._driver.core.is_connected

    def open(self) -> None:
        self._driver.start()

    async def publish(
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
        array = as_frames(frames)
        core = self._driver.core
        if core.policy.when_full == "block":
            n_bytes = array.nbytes + ENTRY_OVERHEAD_BYTES
            if not await self._driver.wait(lambda: core.has_room(n_bytes), timeout_s):
                raise PublisherFull(f"{core.unfinished} segments are not durable after {timeout_s} s")
        if sequence is not None and core.is_leaving(session, stream):
            await self._driver.wait(lambda: not core.is_leaving(session, stream), timeout_s)
        receipt = core.publish(session, stream, modality, array, event_time_s, time.monotonic(), sequence)
        self._driver.wake()
        return receipt

    def end(self, session: str, stream: str) -> None:
        self._driver.core.end(session, stream)
        self._driver.wake()

    def forget(self, session: str, stream: str) -> None:
        """End a stream and free its memory once all of it is durable. What comes for it later opens it again.

        A stream numbered by its publisher may then go on at any higher number: `publish` waits until it is forgotten.
        """
        self._driver.core.forget(session, stream)
        self._driver.wake()

    async def wait(
        self, receipt: Receipt, *, until: Literal["fused", "durable"] = "durable", timeout_s: float | None = None
    ) -> Receipt:
        core = self._driver.core
        if not await self._driver.wait(lambda: core.has_reached(receipt, until), timeout_s):
            raise RequestTimeout(f"segment {receipt.sequence} is not {until} after {timeout_s} s")
        return core.check(receipt)

    async def wait_until(self, is_done: Callable[[], bool]) -> None:
        """Wait until this is so, looking again whenever something became fused or durable, or was refused.

        For conditions over many receipts, each looked at once: `wait` would visit them one by one. Raises Refused if
        the runtime refuses this publisher as a whole.
        """
        core = self._driver.core
        await self._driver.wait(lambda: is_done() or core.refusal is not None, None)
        if core.refusal is not None:
            raise Refused(core.refusal.code, core.refusal.text)

    async def flush(self, timeout_s: float | None = None) -> None:
        core = self._driver.core
        if not await self._driver.wait(lambda: core.unfinished == 0 or core.refusal is not None, timeout_s):
            raise RequestTimeout(f"{core.unfinished} segments are not durable after {timeout_s} s")
        if core.unfinished and core.refusal is not None:
            raise Refused(core.refusal.code, core.refusal.text)

    async def close(self) -> None:
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
        """Why the worker does not welcome this client, for good; None if it does, or has not answered."""
        return self._driver.core.refusal

    async def check(self, timeout_s: float) -> None:
        """Wait until a worker has welcomed this client. Raises Refused for a bad token, RequestTimeout."""
        core = self._driver.core
        if not await self._driver.wait(lambda: core.welcome is not None or core.refusal is not None, timeout_s):
            raise RequestTimeout(f"no answer within {timeout_s:g} s")
        if core.refusal is not None:
            raise Refused(core.refusal.code, core.refusal.text)

    async def ask(self, ask: Callable[[int], Question], timeout_s: float = 10.0) -> Answer:
        """Ask a question of `runtime.messages`; `ask` builds it from the request number."""
        core = self._driver.core
        pending = core.ask(ask)
        self._driver.wake()
        if not await self._driver.wait(lambda: pending.is_done, timeout_s):
            core.give_up(pending)
            raise RequestTimeout(f"no answer within {timeout_s:g} s")
        if pending.error is not None:
            raise pending.error
        assert pending.answer is not None
        return pending.answer

    async def state(
        self,
        session: str,
        *,
        after_version: int = 0,
        wait_s: float = 0.0,
        include_context: bool = False,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        wait_ms = int(wait_s * 1000)
        answer = await self.ask(
            lambda request: m.Query(request, session, after_version, wait_ms, include_context), timeout_s + wait_s
        )
        assert isinstance(answer, m.State)
        return answer.state | {"timed_out": answer.timed_out}

    async def subscribe(self, session: str = "") -> AsyncGenerator[m.Update, None]:
        """Updates of one session, or of all, as they come."""
        core = self._driver.core
        subscription = core.subscribe(session)
        self._driver.wake()
        try:
            while True:
                await self._driver.wait(lambda: bool(subscription.updates), None)
                update = core.next_update(subscription)
                self._driver.wake()
                if update is not None:
                    yield update
        finally:
            core.unsubscribe(subscription)
            with contextlib.suppress(ClientClosed):
                self._driver.wake()  # the worker is told at once

    async def close(self) -> None:
        await self._driver.close()

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
