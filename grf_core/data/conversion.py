"""Datasets into recordings, and recordings back into sessions of segments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from grf_core.data.sessions import Cutting, Label, LabelledSession, Segment, cut_session
from grf_core.recording import RecordedSegment, RecordedSession, RecordingHead, RecordingWriter, read_recording


@dataclass(slots=True)
class RecordedSessionSegments:
    """All that a recording holds of one session."""

    tenant: str
    session: str
    labels: Mapping[str, Label] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    """In the order of the recording."""


def write_sessions(
    path: Path | str, head: RecordingHead, sessions: Iterable[LabelledSession], cutting: Cutting, longest: int
) -> None:
    """Record sessions side by side, as if all had started at once: their segments in ascending event time.

    `longest` is the most frames of a segment. The cutting draws from a fixed seed, so the file is always the same.
    """
    rng = np.random.default_rng(0)
    most = dict.fromkeys(head.modalities, longest)
    cut = [(session, cut_session(session, cutting, most, rng)) for session in sessions]
    segments = [(session.session, segment) for session, of_session in cut for segment in of_session]
    with RecordingWriter(path, head) as writer:
        for session, _ in cut:
            writer.write(RecordedSession(session.session, session.labels))
        for name, s in sorted(segments, key=lambda pair: pair[1].event_time_s):
            writer.write(RecordedSegment(name, s.stream, s.modality, s.sequence, s.event_time_s, s.frames))


def read_sessions(path: Path | str) -> list[RecordedSessionSegments]:
    """Every session of a recording, in the order of its first record; RecordingError for what is none."""
    sessions: dict[tuple[str, str], RecordedSessionSegments] = {}
    for record in read_recording(path):
        key = (record.tenant, record.session)
        session = sessions.setdefault(key, RecordedSessionSegments(*key))
        if isinstance(record, RecordedSession):
            session.labels = record.labels
        else:
            session.segments.append(
                Segment(record.stream, record.modality, record.sequence, record.event_time_s, record.frames)
            )
    return list(sessions.values())
