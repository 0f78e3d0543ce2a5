"""One published segment: what may be one, what is kept of it until it is durable, and what has become of it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import numpy as np

from runtime import messages as m
from runtime.messages import Float32Array
from runtime.wire import MAX_EVENT_TIME_S, MAX_MESSAGE_BYTES, MAX_SEQUENCE

ENTRY_OVERHEAD_BYTES = 400
"""what a segment costs beside its frames: its objects, its place in the buffer"""
NO_FRAMES: Float32Array = np.empty((0, 0), dtype=np.float32)


class Receipt:
    """What has become of one published segment."""

    __slots__ = ("code", "is_dropped", "is_durable", "is_fused", "sequence", "text", "version")

    def __init__(self) -> None:
        self.sequence = 0
        """0 until the stream is open and the segment numbered"""
        self.is_fused = False
        self.is_durable = False
        """it need not be published again: it is in the stored state, or was refused before this publisher began"""
        self.is_dropped = False
        """given up by this publisher, because its buffer was full"""
        self.code = ""
        """why it was refused, "" if it was not"""
        self.text = ""
        self.version = 0
        """live version that holds it, once fused"""

    def __repr__(self) -> str:
        return f"<Receipt {self.sequence or 'not numbered yet'}: {self._fate}>"

    @property
    def _fate(self) -> str:
        if self.is_refused:
            return f"refused, {self.code}: {self.text}"
        if self.is_dropped:
            return "dropped"
        return "durable" if self.is_durable else "fused" if self.is_fused else "on its way"

    @property
    def is_refused(self) -> bool:
        return bool(self.code)

    @property
    def is_final(self) -> bool:
        return self.is_durable or self.is_dropped or self.is_refused


class Entry:
    """A segment in the buffer of its stream."""

    __slots__ = ("counted", "event_time_s", "frames", "n_bytes", "place", "published_s", "receipt")

    def __init__(self, event_time_s: float, frames: Float32Array, published_s: float, place: int) -> None:
        """`place` is its number among all that its publisher published: many may be published at one moment."""
        self.event_time_s = event_time_s
        self.frames = frames
        self.published_s = published_s
        self.place = place
        self.n_bytes = frames.nbytes + ENTRY_OVERHEAD_BYTES
        self.receipt = Receipt()
        self.counted = False
        """in the publisher's count of fused segments"""

    def on_wire(self) -> m.SegmentEntry:
        """A refused segment is sent again without frames, if at all: its number is refused again, and so accounted."""
        return m.SegmentEntry(self.receipt.sequence, self.event_time_s, self.frames)


def stream_segments(
    session: str, stream: str, oldest: int, entries: Iterable[m.SegmentEntry]
) -> list[m.StreamSegments]:
    """Groups for the wire: one tensor holds frames of one width, and refused segments may have any, or none."""
    runs = groupby(entries, key=_width)
    return [m.StreamSegments(session, stream, oldest, tuple(run)) for _, run in runs]


def _width(entry: m.SegmentEntry) -> int:
    return int(entry.frames.shape[1])


def check_readable(frames: Float32Array, event_time_s: float, sequence: int | None) -> None:
    """Raises ValueError for what no worker could read."""
    if not -MAX_EVENT_TIME_S < event_time_s < MAX_EVENT_TIME_S:
        raise ValueError(f"event time {event_time_s} is not a finite number of seconds below {MAX_EVENT_TIME_S:g}")
    if len(frames) and not frames.shape[1]:
        raise ValueError("frames have width 0")
    if frames.nbytes > MAX_MESSAGE_BYTES:
        raise ValueError(f"segment has {frames.nbytes} bytes, more than {MAX_MESSAGE_BYTES}")
    if sequence is not None and sequence > MAX_SEQUENCE:
        raise ValueError(f"sequence {sequence} is more than 2**62")


def left_out(like: Entry) -> Entry:
    """A stand-in for a number that the user has left out: refused from the start."""
    entry = Entry(like.event_time_s, NO_FRAMES, like.published_s, like.place)
    entry.receipt.code, entry.receipt.text = "left_out", "the publisher left this number out"
    return entry
