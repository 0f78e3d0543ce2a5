"""What all connections of a publisher share: what the user wants, is told, and may count on."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Literal, NamedTuple


@dataclass(frozen=True, slots=True)
class PublisherPolicy:
    max_buffer_bytes: int = 64 << 20
    """of segments that are not durable yet"""
    when_full: Literal["block", "drop_oldest"] = "block"
    """block: `publish` waits. drop_oldest: the oldest segment is given up, and counted"""
    linger_ms: float = 0.0
    """how long a segment may wait for others to share its message with; a full message goes at once. Without it, what
    is published while the last message is being sent shares the next one"""

    def __post_init__(self) -> None:
        if self.when_full not in ("block", "drop_oldest"):
            raise ValueError(f"when_full must be block or drop_oldest: {self.when_full!r}")
        if self.max_buffer_bytes < 1:
            raise ValueError("max_buffer_bytes must be positive")
        if not 0 <= self.linger_ms < inf:
            raise ValueError(f"linger_ms must be finite and not negative: {self.linger_ms}")


log = logging.getLogger(__name__)
MOST_LOGGED = 100
"""warnings of one publisher"""


class PublisherEvent(NamedTuple):
    """Something the user may want to know: a segment refused or fused late, a session reset, a stream taken."""

    code: str
    text: str
    session: str
    stream: str
    sequence: int
    segments: int = 1
    """how many were refused: all that a refused stream had on their way, none where it is only a notice"""


@dataclass(slots=True)
class PublisherStats:
    published: int = 0
    fused: int = 0
    durable: int = 0
    refused: int = 0
    """answered by a final Nack, late ones included"""
    late: int = 0
    dropped: int = 0
    """given up because the buffer was full"""
    resent: int = 0
    reconnects: int = 0
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=100_000), repr=False)
    """from publish to the acknowledgement `fused`, of the newest segments"""


@dataclass(slots=True)
class Account:
    """What all connections of a publisher share."""

    policy: PublisherPolicy
    on_event: Callable[[PublisherEvent], None] | None = None
    stats: PublisherStats = field(default_factory=PublisherStats)
    n_bytes: int = 0
    """of segments that are not durable yet"""
    _logged: set[tuple[str, str, str]] = field(default_factory=set)

    @property
    def unfinished(self) -> int:
        """Segments that are neither durable nor refused, nor given up. Whoever flushes asks at every answer: to look at
        all that is kept would take longer than all the rest of publishing it."""
        return self.stats.published - self.stats.durable - self.stats.refused - self.stats.dropped

    def tell(self, event: PublisherEvent) -> None:
        """The user, or the log if the user does not want to hear: there once of each kind and stream."""
        if self.on_event is not None:
            try:
                self.on_event(event)
            except Exception:
                log.exception("on_event failed at %s; the publisher goes on", event)
            return
        kind = event.code, event.session, event.stream
        if kind not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(kind)
            log.warning(
                "segment %d of stream %r of session %r: %s: %s; others are only counted, unless `on_event` is given",
                *(event.sequence, event.stream, event.session, event.code, event.text),
            )
