"""Plays recorded segments back into a runtime, at any speed.

Segments keep their recorded sequence numbers and event times. Playing the same recording again changes nothing: what
is durable is recognised by its number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf

from grf_core.recording import RecordedSegment
from runtime.client import Publisher

PAUSE_AT_MOST_S = 0.25


@dataclass(frozen=True, slots=True)
class Due:
    """A segment and when it is to be published, in seconds after the start."""

    at_s: float
    segment: RecordedSegment


def schedule(segments: Iterable[RecordedSegment], speed: float) -> list[Due]:
    """When each segment is due: as it arrived where that was recorded, else at its event time; `inf` means at once.

    A stream is played in the order of its sequence numbers; what arrived out of turn is due with its successor.
    """
    if not speed > 0:
        raise ValueError(f"speed must be positive: {speed}")
    streams: dict[tuple[str, str], list[RecordedSegment]] = {}
    for segment in segments:
        streams.setdefault((segment.session, segment.stream), []).append(segment)
    timed = [item for stream in streams.values() for item in _in_sequence(stream)]
    timed.sort(key=lambda item: item[0])
    first_s = timed[0][0] if timed else 0.0
    return [Due(0.0 if speed == inf else (at_s - first_s) / speed, segment) for at_s, segment in timed]


def _in_sequence(stream: list[RecordedSegment]) -> Iterator[tuple[float, RecordedSegment]]:
    at_s = -inf
    for segment in sorted(stream, key=lambda item: item.sequence):
        at_s = max(at_s, segment.event_time_s if segment.arrival_s is None else segment.arrival_s)
        yield at_s, segment


def play(
    due: Iterable[Due],
    publisher_of: Callable[[RecordedSegment], Publisher],
    *,
    stopped: Callable[[], bool] = lambda: False,
    on_published: Callable[[RecordedSegment], None] = lambda segment: None,
    rename: Callable[[str], str] = lambda session: session,
) -> None:
    """Publish each segment when it is due; ends its stream after its last one."""
    due = list(due)
    last = {(item.segment.session, item.segment.stream): item.segment.sequence for item in due}
    started_s = time.monotonic()
    for item in due:
        while (pause_s := started_s + item.at_s - time.monotonic()) > 0:
            if stopped():
                return
            time.sleep(min(pause_s, PAUSE_AT_MOST_S))
        segment = item.segment
        publisher, session = publisher_of(segment), rename(segment.session)
        publisher.publish(
            session,
            segment.stream,
            segment.modality,
            segment.frames,
            segment.event_time_s,
            sequence=segment.sequence,
        )
        on_published(segment)
        if last[segment.session, segment.stream] == segment.sequence:
            publisher.end(session, segment.stream)
