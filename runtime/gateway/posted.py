"""A segment that was posted over HTTP, until it is durable or refused."""

from __future__ import annotations

from runtime.client.published import ENTRY_OVERHEAD_BYTES
from runtime.messages import Float32Array


class Posted:
    """One segment that was posted, and what has become of it."""

    __slots__ = (
        "code",
        "event_time_s",
        "frames",
        "is_admitted",
        "is_duplicate",
        "is_durable",
        "is_fused",
        "is_given",
        "is_sent",
        "n_bytes",
        "notice",
        "posted_s",
        "sequence",
        "text",
        "version",
    )

    def __init__(self, event_time_s: float, frames: Float32Array, sequence: int, posted_s: float) -> None:
        self.event_time_s = event_time_s
        self.frames = frames
        self.n_bytes = frames.nbytes + ENTRY_OVERHEAD_BYTES
        self.sequence = sequence
        """0 until the gateway has numbered it"""
        self.is_given = sequence > 0
        """numbered by the poster, who may post it again"""
        self.posted_s = posted_s
        self.is_admitted = False
        """its number was found to follow what the worker has"""
        self.is_sent = False
        """on the present connection"""
        self.is_fused = False
        self.is_durable = False
        self.is_duplicate = False
        """the worker had this number before it was posted here"""
        self.version = 0
        """live version that holds it, once fused"""
        self.code = ""
        """why it was refused, "" if it was not"""
        self.text = ""
        self.notice: tuple[str, str] | None = None
        """code and text of a remark: it was late and fused all the same, or its session was reset"""

    @property
    def is_final(self) -> bool:
        return self.is_durable or bool(self.code)

    def refuse(self, code: str, text: str) -> None:
        self.code, self.text = code, text


class Held:
    """What all streams of a caller hold together."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self.in_flight: set[Posted] = set()
        """sent, and neither fused nor refused"""
