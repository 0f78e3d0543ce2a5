"""Which streams of a source are remembered. Pure: what is forgotten follows from the samples alone.

A source may run for months, and every session that ever was has streams. `max_streams` are remembered; before one more
begins, the one whose last sample is longest ago is forgotten. A replay after a crash forgets at the same samples, so
segments come out as they did, whatever the batches were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from connectors.errors import SourceBroken
from connectors.routes import Target

MAX_STREAMS = 10_000

StreamName = tuple[str, str]
"""session and stream"""


class KnownStreams:
    def __init__(self, max_streams: int) -> None:
        self.max_streams = max_streams
        self._targets: dict[StreamName, Target] = {}
        """the stream whose last sample is longest ago first"""

    def touch(self, target: Target) -> None:
        """A sample has come for it. Raises SourceBroken if the stream is made by two routes."""
        known = self._targets.pop(target.name, target)
        self._targets[target.name] = known
        if known.route != target.route:
            raise SourceBroken(f"two routes make stream {target.stream!r} of session {target.session!r}")

    def fits(self, targets: Sequence[Sequence[Target]]) -> int:
        """How many samples, with these targets each, there is room for before a stream has to be forgotten."""
        room = self.max_streams - len(self._targets)
        if room >= sum(map(len, targets)):
            return len(targets)
        begun = set[StreamName]()
        for count, of_sample in enumerate(targets):
            begun.update(target.name for target in of_sample if target.name not in self._targets)
            if len(begun) > room:
                return count
        return len(targets)

    @property
    def longest_silent(self) -> Target:
        return next(iter(self._targets.values()))

    def forget(self, name: StreamName) -> None:
        del self._targets[name]

    def snapshot(self) -> list[Any]:
        return [list(target) for target in self._targets.values()]

    def restore(self, targets: Iterable[Any]) -> None:
        self._targets = {target.name: target for target in (Target(*known) for known in targets)}
