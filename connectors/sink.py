"""What a runner needs of whoever takes its segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from connectors.cutting import Values
from runtime.client.published import Receipt


class Sink(Protocol):
    """Where segments go: `AsyncPublisher`, or a test's stand-in for a runtime."""

    def begin(self, session: str, stream: str, modality: str, *, sequence: int | None) -> None:
        """Segments of this stream may follow, the first with this number. Raises StreamRefused, ValueError."""

    async def publish(
        self, session: str, stream: str, modality: str, frames: Values, event_time_s: float, *, sequence: int | None
    ) -> Receipt: ...

    @property
    def unfinished(self) -> int:
        """Segments published that are neither durable nor refused nor dropped."""

    def end(self, session: str, stream: str) -> None: ...

    def forget(self, session: str, stream: str) -> None:
        """Nothing more comes; if something does, it may have any higher number."""

    async def wait_until(self, is_done: Callable[[], bool]) -> None:
        """Wait until this is so, looking whenever something became durable or was refused. Raises Refused."""

    async def flush(self, timeout_s: float | None = None) -> None: ...
