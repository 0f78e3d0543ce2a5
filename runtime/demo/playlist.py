"""Which recording plays when. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle

from grf_core.recording import RecordedSegment


@dataclass(frozen=True, slots=True)
class Play:
    """One recording, played as one session from `start_s` on."""

    session: str
    lane: int
    label: str
    start_s: float
    segments: tuple[RecordedSegment, ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    session: str
    label: str
    segments: tuple[RecordedSegment, ...]
    length_s: float


def playlist(recordings: Sequence[Recorded], lanes: int, rounds: int) -> list[Play]:
    """`lanes` recordings side by side, `rounds` times one after another; started over when all have been played.

    Recordings are interleaved so that a lane plays a different activity each time.
    """
    order = cycle(_interleaved_by_label(recordings))
    played: dict[str, int] = {}
    plays = []
    starts_s = [0.0] * lanes
    for _ in range(rounds):
        for lane in range(lanes):
            recording = next(order)
            times = played[recording.session] = played.get(recording.session, 0) + 1
            session = recording.session if times == 1 else f"{recording.session}.{times}"
            segments = tuple(replace(segment, session=session) for segment in recording.segments)
            plays.append(Play(session, lane, recording.label, starts_s[lane], segments))
            starts_s[lane] += recording.length_s
    return plays


def rounds_in(seconds: float, recordings: Sequence[Recorded]) -> int:
    """How many recordings fit one after another; at least one is played."""
    longest_s = max(recording.length_s for recording in recordings)
    return max(1, int(seconds // longest_s))


def _interleaved_by_label(recordings: Sequence[Recorded]) -> list[Recorded]:
    by_label: dict[str, list[Recorded]] = {}
    for recording in recordings:
        by_label.setdefault(recording.label, []).append(recording)
    longest = max(map(len, by_label.values()), default=0)
    return [group[turn] for turn in range(longest) for group in by_label.values() if turn < len(group)]
