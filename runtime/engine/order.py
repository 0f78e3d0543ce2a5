"""Fusion order and the watermark of one session. No model, no clock: time is an argument.

A session's unsettled segments form a chain in fusion order; the settled context stands before its first entry,
the live context after the last entry that has been fused:

    settled context | e0  e1  e2  e3 | e4  e5
                      fused -------^   waiting for their step

- A segment that lands at the end waits for its step.
- A segment that lands before an entry already fused *rewinds*: the chain is cut back to the snapshot before the
  newcomer, and the entries behind it wait for their step again.
- The watermark follows the stream that is furthest behind, at the allowed lateness of the slowest modality with
  an open stream. A stream that is silent for the idle time-out while others go on, or has ended, holds it back no
  longer.
  Entries at or before it settle as soon as they are fused: no segment can land before them any more.
"""

from __future__ import annotations

from bisect import bisect_left
from math import inf, nextafter
from typing import NamedTuple

from grf_core.step import NO_SLOT
from runtime.engine.policies import OrderPolicy
from runtime.messages import Float32Array

ENTRY_OVERHEAD_BYTES = 512
"""what an entry costs beside its frames: its objects, its snapshot row"""


class FusionKey(NamedTuple):
    """Fusion order. Two segments of a session never share a key."""

    event_time_s: float
    rank: int
    stream: str
    sequence: int


class Entry:
    """One unsettled segment and, once it has been fused, the slot of the context after it."""

    __slots__ = ("arrived_s", "frames", "key", "n_bytes", "slot")

    def __init__(self, key: FusionKey, frames: Float32Array, arrived_s: float) -> None:
        self.key = key
        self.frames = frames
        self.arrived_s = arrived_s
        self.n_bytes = frames.nbytes + ENTRY_OVERHEAD_BYTES
        self.slot = NO_SLOT


class StreamClock:
    """How far one stream is complete, and until when it is waited for (processing time)."""

    __slots__ = ("ended", "newest_s", "wait_until_s", "was_excused")

    def __init__(self, newest_s: float, wait_until_s: float) -> None:
        self.newest_s = newest_s
        self.wait_until_s = wait_until_s
        self.ended = False
        self.was_excused = False
        """it was silent only while all others were, and has not been heard of since"""


class Timeline:
    """The chain of one session's unsettled segments, its stream clocks and its watermark."""

    __slots__ = (
        "clocks",
        "entries",
        "fused",
        "gather_until_s",
        "heard_s",
        "lateness_s",
        "n_bytes",
        "newest_s",
        "policy",
        "watermark_s",
    )

    def __init__(self, policy: OrderPolicy, watermark_s: float = -inf, newest_s: float = -inf) -> None:
        self.policy = policy
        self.entries: list[Entry] = []
        self.fused = 0
        """how many entries, from the first, are in the live context"""
        self.n_bytes = 0
        self.clocks: dict[str, StreamClock] = {}
        self.lateness_s = 0.0
        """the largest lateness of any stream's modality"""
        self.newest_s = newest_s
        self.watermark_s = watermark_s
        self.gather_until_s = -inf
        """processing time: until then the watermark stays where it is, for streams that are still to open"""
        self.heard_s = inf
        """processing time: when a segment of any stream landed last; inf while none has since the session is here"""

    # ---- what may enter ----

    def open_stream(self, stream: str, modality: str, wait_until_s: float, newest_s: float = -inf) -> None:
        """Wait for this stream until then, and keep its modality's lateness from now on."""
        self.lateness_s = max(self.lateness_s, self.policy.lateness_of(modality))
        clock = self.clocks.setdefault(stream, StreamClock(newest_s, wait_until_s))
        clock.newest_s = max(clock.newest_s, self.watermark_s)
        clock.wait_until_s = max(clock.wait_until_s, wait_until_s)
        clock.ended = False

    def waits_for(self, stream: str, now_s: float) -> bool:
        return stream in self.clocks and self.clocks[stream].wait_until_s > now_s

    def holds_back(self, stream: str, now_s: float) -> bool:
        """Is it this stream, or one that is just as far, that the watermark follows?"""
        waited_for = [clock.newest_s for clock in self.clocks.values() if clock.wait_until_s > now_s]
        return self.clocks[stream].newest_s <= min(waited_for, default=inf)

    def end_stream(self, stream: str) -> None:
        """Nothing more comes on this stream: do not wait for it."""
        if stream in self.clocks:
            self.clocks[stream].wait_until_s = -inf
            self.clocks[stream].ended = True

    def is_late(self, event_time_s: float) -> bool:
        return event_time_s <= self.watermark_s

    def is_jump(self, event_time_s: float, idle_s: float) -> bool:
        """A stamp so far ahead that it would make its whole session late; believed once the session is idle."""
        if self.newest_s == -inf or idle_s >= self.policy.idle_timeout_s:
            return False
        return event_time_s - self.newest_s > self.policy.max_jump_s + idle_s

    @property
    def is_full(self) -> bool:
        """No more may land. At twice the limit of `cut`, for what that lets settle is held until it has been fused."""
        limit = self.policy
        return len(self.entries) >= 2 * limit.max_unsettled_segments or self.n_bytes >= 2 * limit.max_unsettled_bytes

    def just_after_watermark(self) -> float:
        return nextafter(self.watermark_s, inf)

    def rewinds(self, key: FusionKey) -> bool:
        """Would a segment with this key land before one that has been fused already?"""
        return self.fused > 0 and key < self.entries[self.fused - 1].key

    def insert(self, entry: Entry) -> list[int]:
        """Put a segment in its place; return the slots of the snapshots that this made worthless.

        The caller has refused what is late, and moves the watermark next (`land`).
        """
        key, entries = entry.key, self.entries
        self.n_bytes += entry.n_bytes
        if key.event_time_s > self.newest_s:
            self.newest_s = key.event_time_s
            if self.policy.mode == "arrival":
                self.watermark_s = key.event_time_s
        if not entries or key > entries[-1].key:
            entries.append(entry)
            return []
        position = bisect_left(entries, key, key=_fusion_key)
        stale = self._rewind_to(position) if position < self.fused else []
        entries.insert(position, entry)
        return stale

    def remove(self, entry: Entry) -> list[int]:
        """Take out an entry whose step failed; return the slots of snapshots that held it."""
        position = self.entries.index(entry)
        stale = self._rewind_to(position) if position < self.fused else []
        del self.entries[position]
        self.n_bytes -= entry.n_bytes
        return stale

    def _rewind_to(self, position: int) -> list[int]:
        stale = []
        for entry in self.entries[position : self.fused]:
            stale.append(entry.slot)
            entry.slot = NO_SLOT
        self.fused = position
        return stale

    # ---- the watermark ----

    def reach(self, stream: str, reached_s: float) -> None:
        """The stream is complete up to this event time; the watermark follows at the next `land`."""
        clock = self.clocks[stream]
        if reached_s > clock.newest_s:
            clock.newest_s = reached_s

    def land(self, stream: str, reached_s: float, now_s: float, read_upto_s: float) -> None:
        """Segments of this stream have landed, and the stream is complete up to `reached_s`.

        A stream with a gap in its sequence numbers is complete only up to the gap, so that the watermark does not pass
        what its publisher still holds. All that came until `read_upto_s` has been taken: later than that no stream is
        known to have been silent, for its next segment may have come and wait to be taken.
        """
        clock = self.clocks[stream]
        if clock.wait_until_s <= now_s and self.idle_at_s <= now_s:
            self._wake(now_s)
        elif now_s - self.heard_s >= self.policy.idle_timeout_s / 2:
            self._excuse(now_s)
        self.heard_s = now_s
        if reached_s > clock.newest_s:
            clock.newest_s = reached_s
        clock.wait_until_s = max(clock.wait_until_s, now_s + self.policy.idle_timeout_s)
        clock.ended = clock.was_excused = False
        self.advance_watermark(read_upto_s)

    def _wake(self, now_s: float) -> None:
        """The session was silent: where one stream goes on, the others are expected to, and are waited for again."""
        for clock in self.clocks.values():
            if not clock.ended:
                clock.wait_until_s = now_s + self.policy.idle_timeout_s

    def _excuse(self, now_s: float) -> None:
        """All were silent for a while, some for so long that they are not waited for any more. These may have paused
        with the others and go on with them: they are waited for once more. Only once, or a stream that is gone would
        be waited for again after every pause of the others."""
        for clock in self.clocks.values():
            if self.heard_s < clock.wait_until_s <= now_s and not clock.was_excused:
                clock.wait_until_s = now_s + self.policy.idle_timeout_s
                clock.was_excused = True

    def wait_longer(self, stream: str, until_s: float) -> None:
        """The stream's next segment was seen but cannot be taken yet: its publisher will send it again."""
        clock = self.clocks[stream]
        clock.wait_until_s = max(clock.wait_until_s, until_s)

    def advance_watermark(self, read_upto_s: float) -> None:
        """Move the watermark as far as the streams allow; to the newest event when none is waited for."""
        if self.policy.mode == "arrival":
            self.watermark_s = max(self.watermark_s, self.newest_s)
            return
        if self.gather_until_s > read_upto_s:
            return
        least_s = inf
        for clock in self.clocks.values():
            if clock.wait_until_s > read_upto_s and clock.newest_s < least_s:
                least_s = clock.newest_s
        # Just below: a segment that is late by exactly what is allowed is not too late, nor is one with an equal stamp.
        reached_s = self.newest_s if least_s == inf else nextafter(least_s - self.lateness_s, -inf)
        if reached_s > self.watermark_s:
            self.watermark_s = reached_s

    @property
    def settled_watermark_s(self) -> float:
        """The watermark as far as it has settled: entries it has passed may still wait for their step.

        This is what a checkpoint saves, for those entries will be sent again after a crash and must not be late.
        """
        waiting_s = self.entries[0].key.event_time_s if self.entries else inf
        return min(self.watermark_s, nextafter(waiting_s, -inf))

    @property
    def idle_at_s(self) -> float:
        """Processing time from which no stream is waited for; -inf when that is so already."""
        idle_at_s = self.gather_until_s
        for clock in self.clocks.values():
            if clock.wait_until_s > idle_at_s:
                idle_at_s = clock.wait_until_s
        return idle_at_s

    def cut(self) -> bool:
        """Keep the chain in its limits by settling the oldest entries early; True if that moved the watermark."""
        excess = len(self.entries) - self.policy.max_unsettled_segments
        if excess <= 0 and self.n_bytes <= self.policy.max_unsettled_bytes:
            return False
        n_bytes = self.n_bytes - sum(entry.n_bytes for entry in self.entries[: max(excess, 0)])
        position = max(excess, 0)
        while n_bytes > self.policy.max_unsettled_bytes and position < len(self.entries) - 1:
            n_bytes -= self.entries[position].n_bytes
            position += 1
        if position == 0 or self.entries[position - 1].key.event_time_s <= self.watermark_s:
            return False
        self.watermark_s = self.entries[position - 1].key.event_time_s
        return True

    # ---- progress ----

    def next_entry(self) -> Entry | None:
        """The next segment to fuse, or None while there is nothing to do."""
        if self.fused == len(self.entries):
            return None
        entry = self.entries[self.fused]
        if self.policy.mode == "hold" and entry.key.event_time_s > self.watermark_s:
            return None
        return entry

    @property
    def last_fused_key(self) -> FusionKey | None:
        """Of the last unsettled entry that has been fused."""
        return self.entries[self.fused - 1].key if self.fused else None

    def advance(self, slot: int) -> None:
        """The next entry has been fused; the context after it stands in `slot`."""
        self.entries[self.fused].slot = slot
        self.fused += 1

    def settle(self) -> list[Entry]:
        """Take out the fused entries at or before the watermark, in fusion order. They are final."""
        count = 0
        while count < self.fused and self.entries[count].key.event_time_s <= self.watermark_s:
            self.n_bytes -= self.entries[count].n_bytes
            count += 1
        if not count:
            return []
        settled = self.entries[:count]
        del self.entries[:count]
        self.fused -= count
        return settled


def _fusion_key(entry: Entry) -> FusionKey:
    return entry.key
