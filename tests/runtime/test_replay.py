from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from grf_core.recording import RecordedSegment, RecordingReader
from runtime import recorder as recorder_module
from runtime.cli.replaying import record
from runtime.client import StateClient
from runtime.demo.playlist import Recorded, playlist, rounds_in
from runtime.digest import SettledSession, digest_of
from runtime.messages import Tapped
from runtime.recorder import Recorder
from runtime.replay import schedule
from tests.runtime.worker_harness import RunningWorker

FRAMES = np.ones((2, 3), np.float32)


def segment(sequence: int, event_time_s: float, arrival_s: float | None = None) -> RecordedSegment:
    return RecordedSegment("s", "mic", "audio", sequence, event_time_s, FRAMES, arrival_s)


def test_segments_are_due_at_their_event_times_divided_by_the_speed() -> None:
    due = schedule([segment(3, 12.0), segment(1, 10.0), segment(2, 11.0)], speed=2.0)
    assert [(item.at_s, item.segment.sequence) for item in due] == [(0.0, 1), (0.5, 2), (1.0, 3)]


def test_recorded_arrivals_count_more_than_event_times() -> None:
    due = schedule([segment(1, 10.0, arrival_s=100.0), segment(2, 9.0, arrival_s=100.5)], speed=1.0)
    assert [(item.at_s, item.segment.sequence) for item in due] == [(0.0, 1), (0.5, 2)]


def test_a_stream_is_played_in_the_order_of_its_numbers_whatever_its_event_times() -> None:
    due = schedule([segment(1, 10.0), segment(2, 12.0), segment(3, 11.0), segment(4, 13.0)], speed=1.0)
    assert [(item.at_s, item.segment.sequence) for item in due] == [(0.0, 1), (2.0, 2), (2.0, 3), (3.0, 4)]


def test_at_full_speed_everything_is_due_at_once_and_in_order() -> None:
    due = schedule([segment(2, 12.0), segment(1, 10.0)], speed=inf)
    assert [(item.at_s, item.segment.sequence) for item in due] == [(0.0, 1), (0.0, 2)]


def test_a_speed_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="speed"):
        schedule([], speed=0.0)


def test_a_recorder_writes_each_accepted_segment_once(tmp_path: Path) -> None:
    signature = {"name": "toy", "modalities": [{"name": "audio", "width": 3, "max_frames": 8}]}
    tapped = [Tapped("s", "mic", "audio", n, n / 10, 1000 + n / 10, 0, FRAMES) for n in (7, 8, 7, 6, 9, 8)]
    with Recorder(tmp_path / "live.grfrec", signature, "acme") as recorder:
        recorder.write(tapped)
    assert (recorder.recorded, recorder.missed) == (4, 0)
    recorded = list(RecordingReader(tmp_path / "live.grfrec"))
    assert [item.sequence for item in recorded if isinstance(item, RecordedSegment)] == [7, 8, 6, 9]
    assert {item.tenant for item in recorded} == {"acme"}


def test_a_recorder_remembers_the_streams_that_spoke_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may run for a year, and every session that ever was has streams."""
    monkeypatch.setattr(recorder_module, "MAX_STREAMS", 2)
    signature = {"name": "toy", "modalities": [{"name": "audio", "width": 3, "max_frames": 8}]}
    with Recorder(tmp_path / "live.grfrec", signature, "acme") as recorder:
        recorder.write([Tapped(s, "mic", "audio", 7, 0.7, 1000.7, 0, FRAMES) for s in ("a", "b", "a", "c", "a", "c")])
        assert recorder.recorded == 3
        assert [session for session, _ in recorder._seen] == ["a", "c"]


def test_a_recorder_counts_what_the_worker_could_not_send(tmp_path: Path) -> None:
    signature = {"name": "toy", "modalities": [{"name": "audio", "width": 3, "max_frames": 8}]}
    with Recorder(tmp_path / "live.grfrec", signature, "acme") as recorder:
        recorder.write([Tapped("s", "mic", "audio", 1, 0.1, 1000.0, 5, FRAMES)])
    assert recorder.missed == 5


def test_a_recording_is_of_the_tenant_of_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = [[Tapped("s", "mic", "audio", 1, 0.1, 1000.0, 0, FRAMES)]]
    monkeypatch.setattr(StateClient, "tap", lambda client, *, timeout_s: iter(heard))
    file = tmp_path / "live.grfrec"
    with RunningWorker(tmp_path, tokens={"secret": "acme"}) as worker:
        CliRunner().invoke(
            record, [str(file), "--address", worker.endpoint, "--token", "secret"], catch_exceptions=False
        )
    assert [item.tenant for item in RecordingReader(file)] == ["acme"]


def recorded(name: str, label: str) -> Recorded:
    return Recorded(name, label, (RecordedSegment(name, "mic", "audio", 1, 0.5, FRAMES),), 10.0)


def test_a_playlist_fills_lanes_side_by_side_and_starts_over_under_new_names() -> None:
    plays = playlist([recorded("a", "walk"), recorded("b", "walk"), recorded("c", "run")], lanes=2, rounds=2)
    assert [(play.session, play.lane, play.start_s) for play in plays] == [
        ("a", 0, 0.0),
        ("c", 1, 0.0),
        ("b", 0, 10.0),
        ("a.2", 1, 10.0),
    ]
    assert plays[3].segments[0].session == "a.2"


def test_only_whole_recordings_are_played_but_always_one() -> None:
    recordings = [recorded("a", "walk")]
    assert [rounds_in(seconds, recordings) for seconds in (3.0, 10.0, 29.9, 30.0)] == [1, 1, 2, 3]


def test_the_digest_does_not_depend_on_the_order_of_sessions_and_does_on_everything_else() -> None:
    one, other = SettledSession("t", "a", 3, "00ff"), SettledSession("t", "b", 3, "11ff")
    digest = digest_of([one, other])
    assert digest == digest_of([other, one])
    changed = [
        [one],
        [one, other._replace(version=4)],
        [one, other._replace(lineage="11fe")],
        [one, other._replace(session="c")],
        [one, other._replace(tenant="u")],
        [SettledSession("t", "a3", 0, "0ff"), other],
    ]
    assert digest not in map(digest_of, changed)
