"""Updates of a session, or of all, as events: the same for server-sent events and WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from typing import Any, NamedTuple

from runtime.client import AsyncStateClient, Refused, RequestTimeout
from runtime.gateway.errors import ApiError
from runtime.gateway.json_answer import to_json
from runtime.gateway.metrics import GatewayMetrics

FIRST_STATE_WITHIN_S = 5.0


class Event(NamedTuple):
    kind: str
    """update, correction (the live state was fused again in a better order), or missed"""
    version: int
    data: dict[str, Any]
    """the session's state as in GET /v1/sessions/{session}; for missed: session and how many"""

    def as_sse(self) -> bytes:
        return f"id: {self.version}\nevent: {self.kind}\ndata: {to_json(self.data)}\n\n".encode()

    def as_json(self) -> str:
        return to_json({"event": self.kind, "id": self.version, "data": self.data})


async def follow(state: AsyncStateClient, session: str, keep_alive_s: float) -> AsyncGenerator[Event | None, None]:
    """Events of one session, its present state first; of all for "". None when there was nothing for a while.

    A reader that is slow makes the worker skip; what it missed is told before what comes next.
    """
    updates = state.subscribe(session)
    coming = asyncio.ensure_future(anext(updates))
    try:
        await asyncio.sleep(0)  # subscribed before the present state is asked for: nothing falls in between
        if session:
            with contextlib.suppress(Refused, RequestTimeout):  # not there yet: it will come as an update
                present = await state.state(session, timeout_s=FIRST_STATE_WITHIN_S)
                yield Event("update", present["version"], present)
        while state.refusal is None:
            done, _ = await asyncio.wait({coming}, timeout=keep_alive_s)
            if not done:
                yield None
                continue
            update = coming.result()
            coming = asyncio.ensure_future(anext(updates))
            if update.missed:
                missed = {"session": update.state["session"], "missed": update.missed}
                yield Event("missed", update.state["version"], missed)
            yield Event("correction" if update.correction else "update", update.state["version"], update.state)
    finally:
        coming.cancel()
        await asyncio.wait({coming})
        await updates.aclose()


class EventStreams:
    """How many event streams are open: a bounded number, and of one tenant fewer, so that it leaves some to others."""

    def __init__(self, limit: int, limit_per_tenant: int, metrics: GatewayMetrics) -> None:
        self._limit = limit
        self._limit_per_tenant = limit_per_tenant
        self._metrics = metrics
        self._by_tenant: Counter[str] = Counter()
        """tenants without any are not in it"""

    @contextlib.contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """Count one of a tenant while it is open. Raises ApiError when there are too many."""
        self._check_room(tenant)
        self._by_tenant[tenant] += 1
        self._metrics.event_streams.set(self._by_tenant.total())
        try:
            yield
        finally:
            self._by_tenant[tenant] -= 1
            if not self._by_tenant[tenant]:
                del self._by_tenant[tenant]
            self._metrics.event_streams.set(self._by_tenant.total())

    def _check_room(self, tenant: str) -> None:
        if self._by_tenant[tenant] >= self._limit_per_tenant:
            raise ApiError("slow_down", f"{self._limit_per_tenant} event streams of tenant {tenant!r} are open")
        if self._by_tenant.total() >= self._limit:
            raise ApiError("slow_down", f"{self._limit} event streams of all tenants are open")
