"""What connections have been told and do not read: it waits here, in bounded memory, until the transport takes it.

The transport's own queues are bounded in messages alone, and an answer may be a thousand times as large as another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from runtime.wire import Frame

CONNECTION_BYTES = 16 << 20
"""of a connection, what the transport has taken not counted: one that reads nothing is dropped beyond"""
ALL_BYTES = 256 << 20
"""of all together: beyond, the connection is dropped for which most waits"""
MESSAGE_OVERHEAD_BYTES = 256
"""what Python takes for a message beside its bytes"""

Frames = Sequence[Frame]


class Unsent:
    def __init__(self) -> None:
        self._waiting: dict[bytes, deque[Frames]] = {}
        """by connection, longest untried first"""
        self._bytes: dict[bytes, int] = {}
        self.n_bytes = 0

    def __contains__(self, identity: bytes) -> bool:
        return identity in self._waiting

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def add(self, identity: bytes, frames: Frames) -> list[bytes]:
        """Keep a message, behind those that wait. Returns connections to be dropped for it; what waited for them is
        forgotten."""
        n_bytes = _size_of(frames)
        is_first = identity not in self._waiting
        self._waiting.setdefault(identity, deque()).append(frames)
        self._bytes[identity] = self._bytes.get(identity, 0) + n_bytes
        self.n_bytes += n_bytes
        dropped = []
        if self._bytes[identity] > CONNECTION_BYTES and not is_first:  # one message always fits
            self.forget(identity)
            dropped.append(identity)
        while self.n_bytes > ALL_BYTES:
            heaviest = max(self._bytes, key=self._bytes.__getitem__)
            self.forget(heaviest)
            dropped.append(heaviest)
        return dropped

    def send(self, sends: Callable[[bytes, Frames], bool], is_over: Callable[[], bool]) -> bool:
        """Send what waits, each connection's as far as `sends` says that it was taken, until `is_over`.

        True if anything was, or not all were tried.
        """
        n_bytes = self.n_bytes
        for identity in list(self._waiting):
            messages = self._waiting[identity] = self._waiting.pop(identity)  # the last to be tried again
            while messages and sends(identity, messages[0]):
                size = _size_of(messages.popleft())
                self._bytes[identity] -= size
                self.n_bytes -= size
                if is_over():
                    break
            if not messages:
                self.forget(identity)
            if is_over():
                return True
        return self.n_bytes < n_bytes

    def forget(self, identity: bytes) -> None:
        self.n_bytes -= self._bytes.pop(identity)
        del self._waiting[identity]


def _size_of(frames: Frames) -> int:
    return sum([len(frame) for frame in frames]) + MESSAGE_OVERHEAD_BYTES
