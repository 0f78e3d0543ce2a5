"""The segments of one stream that are not durable yet, and how far each step of their way has come.

oldest ........ taken_upto ........ sent_upto ........ next_sequence - 1
  kept until durable     in flight           waiting to be sent
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from runtime import messages as m
from runtime.client.published import NO_FRAMES, Entry, left_out

MAX_BURST = 1 << 20
MAX_LEFT_OUT = 10_000
"""sequence numbers that a user may leave out in one go"""


class StreamBuffer:
    def __init__(self, session: str, stream: str, modality: str) -> None:
        self.session = session
        self.stream = stream
        self.modality = modality
        self.refusal: m.Nack | None = None
        """why nothing can be published to this stream any more"""
        self.n_bytes = 0
        self.is_leaving = False
        """it is to be forgotten as soon as it can be"""
        self._state: Literal["closed", "opening", "open"] = "closed"
        self._entries: dict[int, Entry] = {}
        """by sequence number, without gaps"""
        self._unnumbered: deque[Entry] = deque()
        """published before the worker told how far the stream had come"""
        self._next: int | None = None
        """number of the next segment to be published; None until the worker, or the user, has said where to begin"""
        self._numbered_by_user = False
        self._numbering = 0
        """as the worker calls the numbers that this client gives; 0 until it has said so"""
        self._born = 0
        """of the session, as the worker said last"""
        self._is_gone = False
        """the session was deleted while nothing was held: only what is published next makes another"""
        self._sent_upto = 0
        self._taken_upto = 0
        self._fused_upto = 0
        self._burst = MAX_BURST
        """how many may be in the window: few after the worker could not take one, or it would refuse all the others"""
        self._durable_upto = 0
        self._ended = False
        """nothing more comes, says the user"""
        self._end_sent = False
        """and the worker was told"""

    def __len__(self) -> int:
        return len(self._entries) + len(self._unnumbered)

    @property
    def is_empty(self) -> bool:
        return not len(self)

    @property
    def has_ended(self) -> bool:
        """Nothing more comes, says the user, for now."""
        return self._ended

    @property
    def can_leave(self) -> bool:
        """Nothing is kept, and the worker knows that it has ended, if it needs to."""
        is_told = self._ended and (self._end_sent or self._state == "closed")
        return self.is_empty and (is_told or self.refusal is not None)

    @property
    def is_opening(self) -> bool:
        return self._state == "opening"

    @property
    def is_open(self) -> bool:
        return self._state == "open"

    @property
    def has_unsent(self) -> bool:
        return self._next is not None and self._sent_upto + 1 < self._next

    @property
    def oldest(self) -> int:
        """Lowest sequence number still held; the next one to come if none is.

        Counted, not looked for: a dict finds its first key behind the places of all that have left it.
        """
        return (self._next or 1) - len(self._entries)

    @property
    def unfinished(self) -> int:
        return len(self._unnumbered) + sum(not entry.receipt.is_final for entry in self._entries.values())

    # ---- the user's side ----

    def begin(self, sequence: int | None) -> None:
        """Segments may follow; with a number that of the first, which the user gives then."""
        if self.is_empty:
            self._state, self._born = "closed", 0  # a session that was deleted meanwhile is to be made anew
        elif self._end_sent:
            self._state = "closed"
        self._ended = self._end_sent = self._is_gone = False
        if sequence is not None and self._next is None and not self._unnumbered:
            self._next, self._numbered_by_user = max(sequence, 1), True

    def append(self, entry: Entry, sequence: int | None) -> list[Entry]:
        """Number and keep a segment; return what is kept, numbers that the user left out included.

        Raises ValueError for a number that was passed already, or too far ahead; then nothing has changed.
        """
        kept = [entry]
        if sequence is not None:
            kept = [*self._left_out(sequence, entry), entry]
            self._numbered_by_user = True
        elif self._numbered_by_user:
            raise ValueError(f"stream {self.stream!r} is numbered by its publisher: give the sequence number")
        if self._end_sent:
            self._state = "closed"
        self._ended = self._end_sent = False
        for one in kept:
            self.n_bytes += one.n_bytes
            if self._next is None:
                self._unnumbered.append(one)
            else:
                self._number(one)
        return kept

    def _left_out(self, sequence: int, entry: Entry) -> list[Entry]:
        """Stand-ins for the numbers between the last one and this; the worker refuses and so accounts for them."""
        if not self._numbered_by_user and (self._next is not None or self._unnumbered):
            raise ValueError(f"stream {self.stream!r} is numbered by the client: give no sequence number")
        expected = max(sequence, 1) if self._next is None else self._next
        missing = sequence - expected
        if not 0 <= missing <= MAX_LEFT_OUT:
            raise ValueError(f"sequence {sequence} of stream {self.stream!r}: the next one is {expected}")
        self._next = expected
        return [left_out(entry) for _ in range(missing)]

    def _number(self, entry: Entry) -> None:
        assert self._next is not None
        entry.receipt.sequence = self._next
        self._entries[self._next] = entry
        self._next += 1

    def end(self) -> None:
        self._ended = True

    def drop_oldest(self) -> Entry | None:
        """Give up the oldest segment; its number counts as a gap at the worker, if it never arrived."""
        if self._entries:
            entry = self._entries.pop(self.oldest)
        elif self._unnumbered:
            entry = self._unnumbered.popleft()
        else:
            return None
        self.n_bytes -= entry.n_bytes
        entry.receipt.is_dropped = not entry.receipt.is_final
        return entry

    # ---- sending ----

    def open_or_end(self) -> m.Open | m.End | None:
        """The control message that is due, if one is."""
        if self.refusal is not None:
            return None
        if self._state == "closed" and (len(self) or not (self._ended or self._is_gone)):
            self._state = "opening"
            # Whoever holds nothing makes no session anew that was deleted: it would be one with a name alone.
            born = 0 if len(self) else self._born
            # A number that the user gave means the same segment, whoever else has published it.
            numbering = 0 if self._numbered_by_user else self._numbering
            return m.Open(self.session, self.stream, self.modality, self.oldest, self._durable_upto, born, numbering)
        if self._ended and not self._end_sent and self._state == "open" and self._sent_upto + 1 >= (self._next or 1):
            self._end_sent = True
            return m.End(self.session, self.stream, (self._next or 1) - 1)
        return None

    @property
    def next_unsent(self) -> Entry | None:
        """The segment that may be sent next."""
        if self._state != "open" or self.refusal is not None or self._in_window >= self._burst:
            return None
        return self._entries.get(max(self._sent_upto + 1, self.oldest))

    def sent(self, entry: Entry) -> None:
        """It is under way: the one that was `next_unsent`."""
        self._sent_upto = entry.receipt.sequence

    @property
    def _in_window(self) -> int:
        return max(0, self._sent_upto - max(self._taken_upto, self.oldest - 1))

    def in_flight(self) -> tuple[int, int]:
        """How many segments are sent and not taken, and their bytes."""
        entries = self._between(self._taken_upto, self._sent_upto)
        return len(entries), sum(entry.n_bytes for entry in entries)

    # ---- what the worker says ----

    def deleted(self) -> None:
        """The session was, since the stream was opened; what was published meanwhile makes another."""
        self._state, self._born, self._is_gone = "closed", 0, True

    def opened(self, durable: int, last_sequence: int, born: int, numbering: int) -> list[Entry]:
        """The worker is ready for this stream; return what turned out to be durable."""
        self._state, self._is_gone = "open", False
        self._born, self._numbering = born, numbering
        if self._next is None:
            self._next = last_sequence + 1
            while self._unnumbered:
                self._number(self._unnumbered.popleft())
        self._durable_upto = durable  # lower than before after a reset: what the worker says counts
        done = self.durable(durable)
        self._sent_upto = self._taken_upto = self._fused_upto = self.oldest - 1
        return done

    def reconnect(self) -> int:
        """Open and send everything again; return how many segments had been sent already."""
        sent = len(self._between(0, self._sent_upto))
        self._state = "closed"
        self._sent_upto = self._taken_upto = self._fused_upto = self.oldest - 1
        self._end_sent = False
        return sent

    def send_again_from(self, sequence: int) -> int:
        """The worker could not take this segment now; return how many are sent again: one first, then ever more."""
        self._burst = 1
        if self._state == "opening":
            self._state = "closed"
        self._end_sent = False
        again = len(self._between(sequence - 1, self._sent_upto))
        self._sent_upto = min(self._sent_upto, max(sequence - 1, self.oldest - 1))
        self._taken_upto = min(self._taken_upto, self._sent_upto)
        return again

    def taken(self, upto: int) -> list[Entry]:
        """All up to here have left the window; return those that were in it."""
        upto = min(upto, self._sent_upto)
        entries = self._between(self._taken_upto, upto)
        self._taken_upto = max(self._taken_upto, upto)
        if entries:
            self._burst = min(2 * self._burst, MAX_BURST)
        return entries

    def fused(self, upto: int, version: int) -> list[Entry]:
        """All up to here are in the live state; return those of which that was not known on this connection."""
        entries = self._between(self._fused_upto, min(upto, self._sent_upto))
        self._fused_upto = max(self._fused_upto, min(upto, self._sent_upto))
        for entry in entries:
            if not entry.receipt.is_fused:
                entry.receipt.version = version
                entry.receipt.is_fused = not entry.receipt.is_refused
        return entries

    def durable(self, upto: int) -> list[Entry]:
        """All up to here are committed; return those that need not be kept any more."""
        self._durable_upto = max(self._durable_upto, upto)
        done = self._between(0, upto)
        for entry in done:
            del self._entries[entry.receipt.sequence]
            self.n_bytes -= entry.n_bytes
            if not entry.receipt.is_refused:
                entry.receipt.is_fused = entry.receipt.is_durable = True
        return done

    def refuse(self, sequence: int, code: str, text: str) -> Entry | None:
        """This segment was refused for good; None if that was known. Its number stays until it is durable."""
        entry = self._entries.get(sequence)
        if entry is None or entry.receipt.is_refused:
            return None
        entry.receipt.code, entry.receipt.text = code, text
        entry.frames = NO_FRAMES
        return entry

    def refuse_all(self, nack: m.Nack) -> list[Entry]:
        """Nothing can be published to this stream any more; return what was held."""
        self.refusal = nack
        held = [*self._entries.values(), *self._unnumbered]
        self._entries.clear()
        self._unnumbered.clear()
        self.n_bytes = 0
        refused = [entry for entry in held if not entry.receipt.is_final]
        for entry in refused:
            entry.receipt.code, entry.receipt.text = nack.code, nack.text
        return held

    def _between(self, above: int, upto: int) -> list[Entry]:
        """Entries with above < sequence <= upto, in order."""
        first, end = max(above + 1, self.oldest), min(upto + 1, self._next or 1)
        return [self._entries[sequence] for sequence in range(first, end)]
