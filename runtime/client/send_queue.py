"""Which segments are due to be sent, and which of them share the next message. No socket, thread or clock.

Sessions take turns; within one the order is that of publishing. No more is on its way than the worker's window allows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from math import inf

from runtime import messages as m
from runtime.client.published import Entry, stream_segments
from runtime.client.stream_buffer import StreamBuffer

MESSAGE_SEGMENTS = 256
MESSAGE_BYTES = 1 << 20
TURN_SEGMENTS = 16
"""of a session, before the next session has its turn: as many as a worker looks at in one go"""

StreamName = tuple[str, str]
"""session and stream"""


class SendQueue:
    """Of one connection. `streams` belongs to whoever owns the queue, and changes under it."""

    def __init__(self, streams: Mapping[StreamName, StreamBuffer], linger_s: float) -> None:
        self._streams = streams
        self._linger_s = linger_s
        self._turns: OrderedDict[str, dict[StreamName, None]] = OrderedDict()
        """sessions that may have something to send, next turn first, and their streams that may"""
        self._paused: dict[StreamName, float] = {}
        """streams told to come again later, and when"""
        self._unsent = 0
        """segments published since there was nothing to send"""
        self._due_s = inf
        """when there is to be sent what there is: -inf at once, inf never"""
        self.in_flight_segments = 0
        self.in_flight_bytes = 0

    # ---- what may be sent ----

    def published(self, name: StreamName, now_s: float) -> None:
        """One segment more, which may linger."""
        self._unsent += 1
        self.add(name, now_s + self._linger_s)

    def add(self, name: StreamName, due_s: float = -inf) -> None:
        """This stream may have something to send."""
        names = self._turns.setdefault(name[0], {})
        if name not in names:
            names[name] = None
            self._due_s = min(self._due_s, due_s)

    def pause(self, name: StreamName, until_s: float) -> None:
        self._paused[name] = until_s

    def is_paused(self, name: StreamName) -> bool:
        return name in self._paused

    def pauses_over(self, now_s: float) -> list[StreamName]:
        """Streams whose pause is over: let them go on."""
        return [name for name, until_s in self._paused.items() if until_s <= now_s]

    def go_on(self, name: StreamName) -> bool:
        """A pause does not hold any more; False if there was none."""
        if self._paused.pop(name, None) is None:
            return False
        self.add(name)
        return True

    @property
    def wake_at_s(self) -> float:
        due_s = self._due_s if self._due_s > -inf else inf  # due already: it waits for the worker, not for time
        return min(due_s, min(self._paused.values(), default=inf))

    # ---- the next message ----

    def next_message(self, window: m.Welcome, now_s: float) -> m.Segments | None:
        """What is due and fits into the window of the worker that welcomed us."""
        if self._due_s > now_s and self._unsent < MESSAGE_SEGMENTS:
            return None
        self._due_s = -inf
        entries: dict[StreamBuffer, list[Entry]] = {}
        n_segments = n_bytes = 0
        while self._turns and n_segments < MESSAGE_SEGMENTS and n_bytes < MESSAGE_BYTES:
            room = min(window.window_segments - self.in_flight_segments, MESSAGE_SEGMENTS - n_segments, TURN_SEGMENTS)
            if room <= 0 or self.in_flight_bytes >= window.window_bytes:
                break
            taken = self._take_turn(room, MESSAGE_BYTES - n_bytes)
            for buffer, entry in taken:
                entries.setdefault(buffer, []).append(entry)
            sent_bytes = sum(entry.n_bytes for _, entry in taken)
            n_segments, n_bytes = n_segments + len(taken), n_bytes + sent_bytes
            self.in_flight_segments += len(taken)
            self.in_flight_bytes += sent_bytes
        if not self._turns:
            self._due_s, self._unsent = inf, 0
        groups: list[m.StreamSegments] = []
        for buffer, sent in entries.items():
            groups += stream_segments(buffer.session, buffer.stream, buffer.oldest, [entry.on_wire() for entry in sent])
        return m.Segments(tuple(groups)) if groups else None

    def _take_turn(self, max_segments: int, max_bytes: int) -> list[tuple[StreamBuffer, Entry]]:
        """Of the session whose turn it is; one that had something may have more, and is last in the queue again."""
        _, names = self._turns.popitem(last=False)
        taken = _take_oldest(self._ready_of(names), max_segments, max_bytes)
        if taken:
            for name in names:
                self.add(name)
        return taken

    def _ready_of(self, names: Iterable[StreamName]) -> list[StreamBuffer]:
        return [self._streams[name] for name in names if name in self._streams and name not in self._paused]

    # ---- what is on its way ----

    def left_window(self, entries: Iterable[Entry]) -> None:
        """The worker has taken these."""
        for entry in entries:
            self.in_flight_segments -= 1
            self.in_flight_bytes -= entry.n_bytes

    def recount(self) -> None:
        """Some are to be sent again, or belong to another connection now."""
        counts = [buffer.in_flight() for buffer in self._streams.values()]
        self.in_flight_segments = sum(segments for segments, _ in counts)
        self.in_flight_bytes = sum(n_bytes for _, n_bytes in counts)

    def recount_one(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """The same of one stream: thousands may be opened at once, and of each all would be counted."""
        self.in_flight_segments += after[0] - before[0]
        self.in_flight_bytes += after[1] - before[1]


def _take_oldest(
    buffers: Sequence[StreamBuffer], max_segments: int, max_bytes: int
) -> list[tuple[StreamBuffer, Entry]]:
    """What a session's streams may send next, in the order in which it was published; one segment if any is waiting.

    A stream that runs ahead of its session's others has its segments fused again when theirs arrive, and makes theirs
    late once it is further ahead than the worker waits.
    """
    waiting = {buffer: entry for buffer in buffers if (entry := buffer.next_unsent) is not None}
    taken: list[tuple[StreamBuffer, Entry]] = []
    n_bytes = 0
    while waiting and len(taken) < max_segments:
        buffer, entry = min(waiting.items(), key=_place)
        del waiting[buffer]
        n_bytes += entry.n_bytes
        if taken and n_bytes > max_bytes:
            break
        buffer.sent(entry)
        taken.append((buffer, entry))
        following = buffer.next_unsent
        if following is not None:
            waiting[buffer] = following
    return taken


def _place(item: tuple[StreamBuffer, Entry]) -> int:
    return item[1].place
