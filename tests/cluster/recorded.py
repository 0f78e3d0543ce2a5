"""A recording of the reproducible load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grf_core.recording import RecordedSegment, RecordingHead, RecordingWriter
from tests.cluster.load import make

STREAMS = (("left", "accelerometer", 0), ("right", "gyroscope", 1))


def write_recording(path: Path, sessions: Sequence[str], segments: int) -> None:
    head = RecordingHead("load", "made by the tests", "", {modality: 3 for _, modality, _ in STREAMS})
    with RecordingWriter(path, head) as writer:
        for sequence in range(1, segments + 1):
            for session in sessions:
                for stream, modality, rank in STREAMS:
                    made = make(session, stream, rank, sequence)
                    writer.write(RecordedSegment(session, stream, modality, sequence, made.event_time_s, made.frames))
