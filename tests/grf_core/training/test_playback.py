from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grf_core.data.sessions import Cutting, LabelledSession, LabelTrack, StreamFrames
from grf_core.normalisation import Normalisation, Statistics
from grf_core.training.checks import RecipeError
from grf_core.training.playback import disturbed, elapsed_s, normalised, play, play_labelled, restricted
from grf_core.training.recipe import Augmentation
from tests.grf_core.models import small_config

CONFIG = small_config()
CUTTING = Cutting(0.5, 0.5)
TIMES_S = np.arange(100.0) * 0.1
SESSION = LabelledSession(
    "s",
    {"mood": "low"},
    (
        StreamFrames("cam", "text", np.ones((100, 5), np.float32), TIMES_S),
        StreamFrames("mic", "audio", np.ones((100, 3), np.float32), TIMES_S + 0.01),
    ),
)


def played(augmentation: Augmentation, seed: int = 0) -> list[tuple[str, int]]:
    segments = play(SESSION, CONFIG, CUTTING, np.random.default_rng(seed), augmentation)
    return [(segment.stream, segment.sequence) for segment in segments]


def test_calm_playback_is_every_segment_in_fusion_order() -> None:
    assert played(Augmentation()) == [(stream, k) for k in range(1, 21) for stream in ("cam", "mic")]


def test_arrival_jitter_changes_the_order_and_loses_nothing() -> None:
    calm, jittered = played(Augmentation()), played(Augmentation(arrival_jitter_s=1.0))
    assert jittered != calm
    assert sorted(jittered) == sorted(calm)
    assert jittered.index(("cam", 1)) < jittered.index(("cam", 20))


def test_one_stream_always_speaks_and_one_segment_is_never_lost() -> None:
    lossy = Augmentation(drop_stream=1.0, drop_segment=1.0)
    streams = {played(lossy, seed)[0][0] for seed in range(20)}
    assert all(len(played(lossy, seed)) == 1 for seed in range(20))
    assert streams == {"cam", "mic"}


def test_a_crop_cuts_the_beginning() -> None:
    lengths = {len(played(Augmentation(crop=0.5), seed)) for seed in range(20)}
    assert min(lengths) >= 20
    assert len(lengths) > 5


def test_noise_and_scale_change_values_but_not_the_recording() -> None:
    noisy = Augmentation(noise=0.1, scale=0.1)
    segments = play(SESSION, CONFIG, CUTTING, np.random.default_rng(0), noisy)
    assert segments[0].frames.dtype == np.float32
    assert segments[0].frames.std() == pytest.approx(0.1, abs=0.05)
    assert (SESSION.streams[0].frames == 1).all()


def test_mixing_leaks_features_into_each_other_the_same_way_for_a_whole_stream() -> None:
    segments = play(SESSION, CONFIG, CUTTING, np.random.default_rng(0), Augmentation(mix=0.5))
    camera = np.concatenate([segment.frames for segment in segments if segment.stream == "cam"])
    assert (camera == camera[0]).all()
    assert len(np.unique(camera[0])) == 5


def test_elapsed_seconds_never_run_backwards() -> None:
    segments = play(SESSION, CONFIG, CUTTING, np.random.default_rng(0))[:4]
    assert elapsed_s(segments) == pytest.approx([0.0, 0.01, 0.49, 0.01])
    assert elapsed_s(segments[::-1]) == [0.0] * 4


def test_restricted_leaves_out_modalities_and_what_comes_later() -> None:
    heard = restricted(SESSION, silent=("text",), until_s=2.0)
    assert [(stream.stream, len(stream.frames)) for stream in heard.streams] == [("mic", 20)]


def test_normalised_frames_have_mean_zero_and_deviation_one_and_bounds() -> None:
    frames = np.array([[0.0, 0, 0], [4, 4, 1e9]], np.float32)
    session = replace(SESSION, streams=(StreamFrames("mic", "audio", frames, TIMES_S[:2]),))
    statistics = Statistics((2.0, 2.0, 0.0), (2.0, 4.0, 1.0))
    (stream,) = normalised(session, Normalisation({"audio": statistics}, {})).streams
    assert stream.frames.tolist() == [[-1.0, -0.5, 0.0], [1.0, 0.5, 1e4]]


def test_a_session_cannot_be_stretched_beyond_reason() -> None:
    with pytest.raises(RecipeError, match=r"stretch.*1000 is not from 0\.0 to 2\.0"):
        Augmentation(stretch=1000)


def test_a_stretched_session_says_the_same_in_another_time_at_the_same_rate() -> None:
    times_s = np.arange(20.0) * 0.1
    ramp = StreamFrames("x", "x", (times_s[:, None] * [1.0, -2.0]).astype(np.float32), times_s)
    session = LabelledSession("s", {}, (ramp, replace(ramp, stream="y")))
    lengths = set()
    for seed in range(20):
        first, second = disturbed(session, Augmentation(stretch=0.3), np.random.default_rng(seed)).streams
        np.testing.assert_array_equal(first.times_s, second.times_s)
        np.testing.assert_allclose(first.frames[[0, -1]], ramp.frames[[0, -1]], atol=1e-6)
        np.testing.assert_allclose(np.diff(first.times_s), 0.1, rtol=0.2)
        factor = first.times_s[-1] / times_s[-1]
        np.testing.assert_allclose(first.frames[:, 0], first.times_s / factor, atol=1e-5)
        lengths.add(len(first.frames))
    assert len(lengths) > 5


def test_a_label_that_changes_keeps_to_the_time_of_a_stretched_session() -> None:
    loud_from_s = 5.0
    track = LabelTrack(np.array([-np.inf, loud_from_s]), (0.0, 1.0))
    loud = (loud_from_s <= TIMES_S).astype(np.float32)[:, None] * np.ones((1, 3), np.float32)
    session = replace(SESSION, labels={"loud": track}, streams=(StreamFrames("mic", "audio", loud, TIMES_S),))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        segments, labels = play_labelled(session, CONFIG, Cutting(0.1, 0.1), rng, Augmentation(stretch=0.5))
        stretched = labels["loud"]
        assert isinstance(stretched, LabelTrack)
        heard = [segment.frames[-1, 0] for segment in segments]
        told = stretched.positions(np.array([segment.event_time_s for segment in segments]))
        # where frames are interpolated, one lies between quiet and loud
        assert np.abs(told - heard).max() < 1
        assert set(stretched.positions(np.array([-1e9, 1e9]))) == {0, 1}


def test_a_stream_of_one_frame_is_stretched_as_the_others_are() -> None:
    once = StreamFrames("lab", "audio", np.ones((1, 3), np.float32), TIMES_S[-1:])
    session = replace(SESSION, streams=(SESSION.streams[0], once))
    for seed in range(5):
        often, once = disturbed(session, Augmentation(stretch=0.5), np.random.default_rng(seed)).streams
        assert once.times_s[0] == pytest.approx(often.times_s[-1])
