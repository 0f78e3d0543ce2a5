"""Updates of a session, or of all, as events: the same for server-sent events and WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
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
    """How many event streams are open: a bounded number."""

    def __init__(self, limit: int, metrics: GatewayMetrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._open = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        if self._open >= self._limit:
            raise ApiError("slow_down", f"{self._limit} event streams are open")
        self._open += 1
        self._metrics.event_streams.set(self._open)
        try:
            yield
        finally:
            self._open -= 1
            self._metrics.event_streams.set(self._open)
