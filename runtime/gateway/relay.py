"""Drives a `RelayFleet` in the gateway's event loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from runtime.client.async_driver import AsyncDriver
from runtime.client.errors import PublisherFull, Refused
from runtime.client.link import Identity
from runtime.client.locate import Locate
from runtime.client.published import ENTRY_OVERHEAD_BYTES
from runtime.gateway.posted import Posted
from runtime.gateway.relay_fleet import RelayFleet
from runtime.messages import Float32Array


class Relay:
    """Publishes what is posted over HTTP, and keeps each segment until it is durable or refused."""

    def __init__(
        self, locate: Locate, identity: Identity, max_held_bytes: int, on_refused: Callable[[str, int], None]
    ) -> None:
        self._core = RelayFleet(identity, max_held_bytes, on_refused)
        self._driver = AsyncDriver(self._core, locate)
        self._driver.start()

    async def post(
        self,
        session: str,
        stream: str,
        modality: str,
        frames: Float32Array,
        event_time_s: float,
        *,
        sequence: int = 0,
        oldest: int = 1,
        timeout_s: float,
    ) -> tuple[Posted, bool]:
        """Hold and send a segment; sequence 0 lets the gateway number it. Raises PublisherFull, Refused, ClientClosed.

        Returns it, or the one that was posted under its number before, and whether it is that one.
        """
        n_bytes = frames.nbytes + ENTRY_OVERHEAD_BYTES
        if not await self._driver.wait(lambda: self._core.has_room(n_bytes), timeout_s):
            raise PublisherFull(f"{self._core.held.n_bytes} bytes of posted segments are not durable yet")
        mine = Posted(event_time_s, frames, sequence, time.monotonic())
        posted = self._core.post(session, stream, modality, mine, oldest)
        if posted.code:
            raise Refused(posted.code, posted.text)
        self._driver.wake()
        return posted, posted is not mine

    async def wait(self, posted: Posted, until: Literal["fused", "durable"], timeout_s: float) -> bool:
        """Wait until a segment is fused or durable; False if the time was over first. Raises Refused if it was."""
        core = self._core
        by_then = await self._driver.wait(
            lambda: posted.is_final or (posted.is_fused and until == "fused") or core.refusal is not None, timeout_s
        )
        if posted.code:
            raise Refused(posted.code, posted.text)
        core.raise_refusal()
        return by_then

    def withdraw(self, session: str, stream: str, posted: Posted) -> bool:
        """Take back a segment that was never sent; False if the worker may have it."""
        return self._core.withdraw(session, stream, posted)

    def fused_upto(self, session: str, stream: str) -> int:
        """The worker has every number of the stream up to this one."""
        return self._core.fused_upto(session, stream)

    def forget_session(self, session: str) -> None:
        """The session is being deleted: nothing of it may be sent again."""
        self._core.forget_session(session)

    def tidy(self, unused_since_s: float, posted_before_s: float) -> int:
        return self._core.tidy(unused_since_s, posted_before_s)

    @property
    def is_idle(self) -> bool:
        return self._core.is_idle

    @property
    def held_bytes(self) -> int:
        return self._core.held.n_bytes

    async def close(self) -> None:
        await self._driver.close()
