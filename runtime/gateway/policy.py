"""The limits of one gateway process: nothing in it grows beyond them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class GatewayPolicy:
    replicas: int = 1
    """gateway processes behind Serve's proxy; any of them may die"""
    max_body_bytes: int = 4 << 20
    """of one request"""
    max_callers: int = 64
    """pairs of tenant and token that are connected to a worker at once; the longest unused one makes room"""
    max_held_bytes: int = 8 << 20
    """per caller: posted segments that are not durable yet"""
    max_event_streams: int = 500
    """open at once, server-sent and WebSocket"""
    max_event_streams_per_tenant: int = 250
    """of those: half, so that one tenant leaves room to the others"""
    keep_alive_s: float = 15.0
    """between two signs of life on an event stream that has nothing to say"""
    answer_timeout_s: float = 10.0
    """how long a worker may take to answer"""
    send_timeout_s: float = 60.0
    """an event stream whose reader takes nothing for so long is closed"""
    idle_caller_s: float = 300.0
    """unused connections to a worker are closed after this"""
    idle_stream_s: float = 60.0
    """what is known of a stream nobody posts to is forgotten after this"""
    give_up_s: float = 600.0
    """a posted segment that no worker has made durable for so long is given up, and counted"""
    allowed_origins: tuple[str, ...] = ()
    """web pages from elsewhere that may ask, as `https://host`; those of the gateway's own address may"""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, tuple) and not value > 0:
                raise ValueError(f"{field.name} must be positive: {value}")
        for origin in self.allowed_origins:
            parts = urlsplit(origin)
            if not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
                raise ValueError(f"allowed_origins: {origin!r} is not scheme://host:port, without a path")
