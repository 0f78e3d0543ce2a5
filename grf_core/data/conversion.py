"""Datasets into recordings, and recordings back into sessions of segments, or of streams."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from grf_core.data.sessions import (
    Cutting,
    Label,
    LabelledSession,
    Labels,
    LabelTrack,
    Segment,
    StreamFrames,
    Times,
    cut_session,
)
from grf_core.recording import Record, RecordedSegment, RecordedSession, RecordingHead, RecordingWriter, read_recording
from grf_core.recording_format import DEFAULT_TENANT

DEFAULT_FRAME_PERIOD_S = 0.1
"""Of a stream of which a recording holds one segment only, which says nothing of its rate."""


class MixedStream(ValueError):
    """A stream whose segments are not all of one modality; the text names it."""


@dataclass(slots=True)
class RecordedSessionSegments:
    """All that a recording holds of one session."""

    tenant: str
    session: str
    labels: Labels = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    """In the order of the recording."""

    @property
    def name(self) -> str:
        """The session id, with its tenant before it unless that is the default one."""
        return self.session if self.tenant == DEFAULT_TENANT else f"{self.tenant}/{self.session}"


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
            for record in _label_records(session):
                writer.write(record)
        for name, s in sorted(segments, key=lambda pair: pair[1].event_time_s):
            writer.write(RecordedSegment(name, s.stream, s.modality, s.sequence, s.event_time_s, s.frames))


def read_sessions(path: Path | str) -> list[RecordedSessionSegments]:
    """`sessions_of` a recording; RecordingError for what is none."""
    return sessions_of(read_recording(path))


def sessions_of(records: Iterable[Record]) -> list[RecordedSessionSegments]:
    """Every session, in the order of its first record. MixedStream where one changes its modality."""
    sessions: dict[tuple[str, str], RecordedSessionSegments] = {}
    changes: dict[tuple[str, str], list[tuple[float, str, Label]]] = {}
    modalities: dict[tuple[str, str, str], str] = {}
    for record in records:
        key = (record.tenant, record.session)
        session = sessions.setdefault(key, RecordedSessionSegments(*key))
        if isinstance(record, RecordedSegment):
            _keeps_its_modality(session.name, modalities.setdefault((*key, record.stream), record.modality), record)
            session.segments.append(
                Segment(record.stream, record.modality, record.sequence, record.event_time_s, record.frames)
            )
        elif record.event_time_s is None:
            session.labels = record.labels
        else:
            changes.setdefault(key, []).extend((record.event_time_s, *label) for label in record.labels.items())
    for key, of_session in changes.items():
        sessions[key].labels = {**sessions[key].labels, **_tracks(of_session, sessions[key].labels)}
    return list(sessions.values())


def _keeps_its_modality(session: str, modality: str, segment: RecordedSegment) -> None:
    if segment.modality != modality:
        told = f"stream {segment.stream!r} of session {session!r} is of {modality!r} and of {segment.modality!r}"
        raise MixedStream(f"{told}: each modality needs a stream of its own")


def distinct_segments(segments: Sequence[Segment]) -> list[Segment]:
    """Without retransmissions: of each number of a stream, the first."""
    seen: dict[tuple[str, int], Segment] = {}
    for segment in segments:
        seen.setdefault((segment.stream, segment.sequence), segment)
    return list(seen.values())


def misnumbered(segments: Sequence[Segment]) -> int:
    """How many segments `distinct_segments` leaves out although they are no retransmission: they happened at another
    time than the one whose number they have."""
    first = {(segment.stream, segment.sequence): segment.event_time_s for segment in distinct_segments(segments)}
    return sum(segment.event_time_s != first[segment.stream, segment.sequence] for segment in segments)


def labelled_session(recorded: RecordedSessionSegments) -> LabelledSession:
    """The session as continuous streams, so that it can be cut anew.

    A recording has the time of each segment's last frame only: the others are spread evenly since the last frame of
    the segment before. In a stream's first segment they follow each other as they do in the rest of the stream.
    """
    streams = tuple(_stream(stream) for stream in _by_stream(distinct_segments(recorded.segments)))
    return LabelledSession(recorded.name, recorded.labels, streams)


def fitted_session(recorded: RecordedSessionSegments, max_frames: Mapping[str, int]) -> RecordedSessionSegments:
    """What a model takes of a session: only the modalities that `max_frames` names, and longer segments in pieces, with
    the times that `labelled_session` gives their frames."""
    segments = [segment for segment in distinct_segments(recorded.segments) if segment.modality in max_frames]
    if any(len(segment.frames) > max_frames[segment.modality] for segment in segments):
        segments = [piece for stream in _by_stream(segments) for piece in _pieces(stream, max_frames)]
    return replace(recorded, segments=segments)


def _pieces(stream: list[Segment], max_frames: Mapping[str, int]) -> list[Segment]:
    whole, begin = _stream(stream), 0
    pieces: list[Segment] = []
    for segment in stream:
        end, most = begin + len(segment.frames), max_frames[segment.modality]
        for stop in [*range(begin + most, end, most), end]:
            end_s, frames = float(whole.times_s[stop - 1]), whole.frames[begin:stop]
            pieces.append(Segment(whole.stream, whole.modality, len(pieces) + 1, end_s, frames))
            begin = stop
    return pieces


def _label_records(session: LabelledSession) -> Iterator[RecordedSession]:
    whole = {head: label for head, label in session.labels.items() if not isinstance(label, LabelTrack)}
    tracks = {head: label for head, label in session.labels.items() if isinstance(label, LabelTrack)}
    whole |= {head: track.values[0] for head, track in tracks.items() if track.times_s[0] == -math.inf}
    yield RecordedSession(session.session, whole)
    for head, track in tracks.items():
        for time_s, value in zip(track.times_s.tolist(), track.values, strict=True):
            if time_s != -math.inf:
                yield RecordedSession(session.session, {head: value}, event_time_s=time_s)


def _tracks(changes: Iterable[tuple[float, str, Label]], whole: Labels) -> dict[str, LabelTrack]:
    by_head: dict[str, dict[float, Label]] = {}
    for time_s, head, label in changes:
        before = whole.get(head)
        start: dict[float, Label] = {} if before is None or isinstance(before, LabelTrack) else {-math.inf: before}
        by_head.setdefault(head, start)[time_s] = label
    return {
        head: LabelTrack(np.array(sorted(values)), tuple(values[time_s] for time_s in sorted(values)))
        for head, values in by_head.items()
    }


def _by_stream(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Of each stream its segments in order."""
    streams: dict[str, list[Segment]] = {}
    for segment in sorted(segments, key=lambda segment: (segment.stream, segment.event_time_s, segment.sequence)):
        streams.setdefault(segment.stream, []).append(segment)
    return list(streams.values())


def _stream(ordered: list[Segment]) -> StreamFrames:
    times_s = _frame_times([segment.event_time_s for segment in ordered], [len(s.frames) for s in ordered])
    return StreamFrames(
        ordered[0].stream, ordered[0].modality, np.concatenate([segment.frames for segment in ordered]), times_s
    )


def _frame_times(ends_s: list[float], counts: list[int]) -> Times:
    spans_s, later = np.diff(ends_s), np.array(counts[1:])
    period_s = float(np.median(spans_s / later)) if len(later) else DEFAULT_FRAME_PERIOD_S
    spans_s = np.concatenate([[period_s * counts[0]], spans_s])
    spread = [
        end_s - span_s * np.arange(count - 1, -1, -1) / count
        for end_s, span_s, count in zip(ends_s, spans_s, counts, strict=True)
    ]
    return np.concatenate(spread)
