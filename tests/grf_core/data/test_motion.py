from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from grf_core.data import motion
from grf_core.data.conversion import read_sessions
from grf_core.data.motion import MotionDataError, motion_dataset, parse_ts, read_motion, write_motion_recording
from grf_core.recording import RecordedSegment, read_recording

TS = "#a remark\n@classLabel true Standing Running\n@data\n"


def test_each_half_has_ten_recordings_of_each_activity() -> None:
    dataset = motion_dataset()
    for half in (dataset.train, dataset.test):
        assert Counter(session.labels["activity"] for session in half) == dict.fromkeys(motion.ACTIVITIES, 10)
    assert len({session.session for session in dataset.train + dataset.test}) == 80


def test_a_recording_is_ten_seconds_of_two_sensors() -> None:
    for session in read_motion("train"):
        assert [(s.stream, s.frames.shape) for s in session.streams] == [
            ("accelerometer", (100, 3)),
            ("gyroscope", (100, 3)),
        ]
        assert session.streams[0].times_s[[0, 1, -1]].tolist() == pytest.approx([0.0, 0.1, 9.9])


def test_the_first_values_are_those_of_the_file() -> None:
    accelerometer, gyroscope = read_motion("train")[0].streams
    np.testing.assert_allclose(accelerometer.frames[0], [0.079106, 0.394032, 0.551444], rtol=1e-6)
    assert np.isfinite(gyroscope.frames).all()


def test_ts_columns_become_frames() -> None:
    ((label, frames),) = parse_ts(TS + "1,2,3:4,5,6:Running\n\n", channels=2, frames=3)
    assert label == "Running"
    assert frames.tolist() == [[1, 4], [2, 5], [3, 6]]


@pytest.mark.parametrize(
    "text",
    [
        "1,2,3:4,5,6:Running",
        TS + "1,2,3:Running",
        TS + "1,2:4,5,6:Running",
        TS + "1,x,3:4,5,6:Running",
        TS + "1,nan,3:4,5,6:R",
    ],
    ids=["no data line", "a column less", "ragged", "no number", "not finite"],
)
def test_a_ts_file_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(MotionDataError):
        parse_ts(text, channels=2, frames=3)


def test_a_folder_without_the_files_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(MotionDataError, match=r"BasicMotions_TEST\.ts"):
        read_motion("test", tmp_path)


def test_without_aeon_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motion, "find_spec", lambda _: None)
    with pytest.raises(MotionDataError, match="pip install --no-deps aeon"):
        read_motion("train")


def test_a_half_as_a_recording_holds_every_frame_and_label(tmp_path: Path) -> None:
    write_motion_recording(tmp_path / "motion.grfrec", "test")
    head = read_recording(tmp_path / "motion.grfrec").head
    assert head.modalities == {"accelerometer": 3, "gyroscope": 3}
    assert "BSD-3-Clause" in head.licence
    recorded = read_sessions(tmp_path / "motion.grfrec")
    for session, original in zip(recorded, read_motion("test"), strict=True):
        assert (session.session, session.labels) == (original.session, original.labels)
        for stream in original.streams:
            frames = [segment.frames for segment in session.segments if segment.stream == stream.stream]
            np.testing.assert_array_equal(np.concatenate(frames), stream.frames)


def test_sessions_are_recorded_side_by_side_in_event_time(tmp_path: Path) -> None:
    write_motion_recording(tmp_path / "motion.grfrec", "train")
    segments = [record for record in read_recording(tmp_path / "motion.grfrec") if isinstance(record, RecordedSegment)]
    times_s = [segment.event_time_s for segment in segments]
    assert times_s == sorted(times_s)
    assert len({segment.session for segment in segments[:80]}) == 40
