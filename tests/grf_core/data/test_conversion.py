from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from grf_core.data.conversion import (
    MixedStream,
    fitted_session,
    labelled_session,
    misnumbered,
    read_sessions,
    write_sessions,
)
from grf_core.data.recordings import read_recordings
from grf_core.data.sessions import Cutting, LabelledSession, Labels, LabelTrack, StreamFrames
from grf_core.recording import RecordedSegment, RecordedSession, RecordingHead, RecordingWriter

HEAD = RecordingHead("a walk", "made up", "CC0-1.0", {"imu": 1, "pulse": 1})


def frames(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def write(path: Path, *records: RecordedSession | RecordedSegment) -> Path:
    with RecordingWriter(path, HEAD) as writer:
        for record in records:
            writer.write(record)
    return path


def track(path: Path, head: str = "alarm") -> tuple[list[float], tuple[object, ...]]:
    (session,) = read_sessions(path)
    label = session.labels[head]
    assert isinstance(label, LabelTrack)
    return label.times_s.tolist(), label.values


def test_labels_written_again_with_a_time_are_a_track_in_the_order_of_their_times(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.grfrec",
        RecordedSession("s", {"alarm": "high", "load": 2.0}, event_time_s=7.0),
        RecordedSession("s", {"alarm": "none"}, event_time_s=1.0),
        RecordedSession("s", {"alarm": "low"}, event_time_s=7.0),
    )
    assert track(path) == ([1.0, 7.0], ("none", "low"))
    assert track(path, "load") == ([7.0], (2.0,))


def test_a_label_without_a_time_holds_before_the_first_with_one(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.grfrec",
        RecordedSession("s", {"alarm": "high"}, event_time_s=7.0),
        RecordedSession("s", {"alarm": "none", "outcome": "good"}),
    )
    assert track(path) == ([-math.inf, 7.0], ("none", "high"))
    assert read_sessions(path)[0].labels["outcome"] == "good"


def test_without_times_the_later_labels_replace_the_earlier_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "x.grfrec", RecordedSession("s", {"a": 1.0}), RecordedSession("s", {"b": 2.0}))
    assert read_sessions(path)[0].labels == {"b": 2.0}


@pytest.mark.parametrize("first_s", [0.5, -math.inf])
def test_tracks_survive_being_recorded(tmp_path: Path, first_s: float) -> None:
    stream = StreamFrames("watch", "imu", frames(1, 2, 3), np.arange(3.0))
    labels: Labels = {"alarm": LabelTrack(np.array([first_s, 2.0]), ("none", "high")), "outcome": "good"}
    write_sessions(tmp_path / "x.grfrec", HEAD, [LabelledSession("s", labels, (stream,))], Cutting(1.0, 1.0), 8)
    assert track(tmp_path / "x.grfrec") == ([first_s, 2.0], ("none", "high"))
    assert read_sessions(tmp_path / "x.grfrec")[0].labels["outcome"] == "good"


def test_a_recorded_session_becomes_streams_whose_frames_fill_the_time_between_segments(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.grfrec",
        RecordedSession("s", {"outcome": "good"}),
        RecordedSegment("s", "watch", "imu", 1, 1.0, frames(1, 2)),
        RecordedSegment("s", "clip", "pulse", 1, 3.0, frames(9)),
        RecordedSegment("s", "watch", "imu", 2, 2.0, frames(3, 4, 5, 6)),
        RecordedSegment("s", "watch", "imu", 2, 2.0, frames(3, 4, 5, 6)),
    )
    session = labelled_session(read_sessions(path)[0])
    clip, watch = session.streams
    assert watch.frames[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(watch.times_s, [0.75, 1.0, 1.25, 1.5, 1.75, 2.0])
    assert clip.times_s.tolist() == [3.0]
    assert session.end_s == 3.0


def test_a_session_is_fitted_to_what_a_model_takes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.grfrec",
        RecordedSegment("s", "clip", "pulse", 1, 3.0, frames(9)),
        RecordedSegment("s", "watch", "imu", 2, 2.0, frames(3, 4, 5, 6, 7)),
        RecordedSegment("s", "watch", "imu", 1, 1.0, frames(1, 2)),
        RecordedSegment("s", "watch", "imu", 1, 1.0, frames(1, 2)),
    )
    (session,) = read_sessions(path)
    shorter = fitted_session(session, {"imu": 2}).segments
    assert [(s.stream, s.sequence, s.frames[:, 0].tolist()) for s in shorter] == [
        ("watch", 1, [1, 2]),
        ("watch", 2, [3, 4]),
        ("watch", 3, [5, 6]),
        ("watch", 4, [7]),
    ]
    np.testing.assert_allclose([s.event_time_s for s in shorter], [1.0, 1.4, 1.8, 2.0])
    as_recorded = fitted_session(session, {"imu": 5, "pulse": 1}).segments
    assert [(s.stream, s.sequence) for s in as_recorded] == [("clip", 1), ("watch", 2), ("watch", 1)]


def test_sessions_of_other_tenants_have_names_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path / "x.grfrec", RecordedSession("s", {"a": 1.0}), RecordedSession("s", {}, tenant="ward"))
    assert [session.name for session in read_sessions(path)] == ["s", "ward/s"]


def test_a_stream_of_two_modalities_is_refused_rather_than_one_of_them_lost(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.grfrec",
        RecordedSegment("s", "monitor", "imu", 1, 1.0, frames(1.0)),
        RecordedSegment("s", "monitor", "pulse", 1, 1.0, frames(1.0)),
    )
    with pytest.raises(MixedStream, match="'monitor' of session 's' is of 'imu' and of 'pulse'"):
        read_sessions(path)


def test_segments_that_share_a_number_and_not_their_time_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, again, other = (RecordedSegment("s", "watch", "imu", 1, time_s, frames(1.0)) for time_s in (1.0, 1.0, 2.0))
    (session,) = read_recordings(write(tmp_path / "x.grfrec", first, again, other)).sessions
    assert misnumbered(session.segments) == 1
    assert "1 segments are left out" in caplog.text
    (session,) = read_recordings(write(tmp_path / "y.grfrec", first, again)).sessions
    assert misnumbered(session.segments) == 0
