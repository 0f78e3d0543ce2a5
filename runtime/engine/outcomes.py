"""What the engine answers, and what it tells of its progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from runtime.engine.order import Entry
from runtime.keys import SessionKey


class Verdict(NamedTuple):
    """What became of a segment: "accepted", "duplicate", or a Nack code with its text."""

    code: str
    text: str = ""
    retry_after_ms: int = 0


ACCEPTED = Verdict("accepted")
DUPLICATE = Verdict("duplicate")


class Failure(NamedTuple):
    key: SessionKey
    stream: str
    sequence: int
    text: str


@dataclass(slots=True)
class Progress:
    """What has changed since it was last taken."""

    streams: dict[SessionKey, dict[str, None]] = field(default_factory=dict)
    """streams whose fused, durable or duplicate state is to be acknowledged"""
    held_back: dict[SessionKey, dict[str, None]] = field(default_factory=dict)
    """streams with segments that have landed and cannot be fused yet, for want of rows or by the policy"""
    states: dict[SessionKey, bool] = field(default_factory=dict)
    """sessions whose live or settled state is new; True for a correction"""
    deleted: list[SessionKey] = field(default_factory=list)
    """sessions that are not there any more, by somebody's wish"""
    failures: list[Failure] = field(default_factory=list)
    accepted: list[tuple[SessionKey, Entry]] = field(default_factory=list)
    """segments that were accepted, while the engine is `tapped`"""

    def forget(self, key: SessionKey) -> None:
        """A session has left: nothing of it is to be told but what it accepted."""
        self.streams.pop(key, None)
        self.held_back.pop(key, None)
        self.states.pop(key, None)
        self.failures = [failure for failure in self.failures if failure.key != key]
