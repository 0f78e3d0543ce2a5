from __future__ import annotations

import numpy as np
import pytest

from grf_core.data.sessions import StreamFrames
from grf_core.data.utd_mhad import MODALITIES
from grf_core.data.utd_mhad_features import (
    PHASES_S,
    in_phases,
    rotation,
    sensor_features,
    silhouette_features,
    skeleton_features,
    somebody_else,
)
from grf_core.step import Float32Array

RNG = np.random.default_rng(0)
SENSOR = RNG.normal(scale=[1, 1, 1, 100, 100, 100], size=(152, 6)).astype(np.float32)
BODY = RNG.normal(size=(51, 20, 3)).astype(np.float32)
FRAMES = {
    "inertial": sensor_features(SENSOR),
    "skeleton": skeleton_features(BODY),
    "depth": silhouette_features(RNG.random((40, 80)).astype(np.float32)),
}
MEASURED = {"inertial": SENSOR, "skeleton": BODY}


TOLD = {name: in_phases(frames, np.arange(len(frames), dtype=np.float64)) for name, frames in FRAMES.items()}


def stream(modality: str) -> StreamFrames:
    times_s = np.arange(len(TOLD[modality]), dtype=np.float64)
    return StreamFrames("camera", modality, TOLD[modality], times_s, MEASURED.get(modality))


@pytest.mark.parametrize("modality", MODALITIES)
def test_groups_have_the_width_stated(modality: str) -> None:
    assert FRAMES[modality].shape[1] * len(PHASES_S) == TOLD[modality].shape[1] == MODALITIES[modality]


def test_a_mean_over_frames_tells_the_beginning_from_the_end() -> None:
    features, times_s = np.array([[1.0], [2.0], [4.0], [8.0]], np.float32), np.array([0.0, 0.6, 2.4, 60.0])
    told = in_phases(features, times_s)
    assert told.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 4], [0, 0, 8]]
    assert told.sum(axis=1).tolist() == features[:, 0].tolist()
    assert told[::-1].mean(axis=0).tolist() != in_phases(features[::-1], times_s).mean(axis=0).tolist()


def test_a_group_is_the_mean_of_its_frames_and_what_is_left_waits() -> None:
    moved = (BODY - BODY[:1]).reshape(51, 60)
    assert len(FRAMES["skeleton"]) == 25
    np.testing.assert_allclose(FRAMES["skeleton"][3, :60], moved[6:8].mean(axis=0), atol=1e-5)


def test_filters_run_through_the_frames_one_by_one() -> None:
    keep = np.exp(-1 / (0.4 * 50))
    gravity = [SENSOR[0, :3].astype(np.float64)]
    for acceleration in SENSOR[1:, :3]:
        gravity.append(keep * gravity[-1] + (1 - keep) * acceleration)
    smooth = np.array(gravity).reshape(38, 4, 3).mean(axis=1)
    np.testing.assert_allclose(FRAMES["inertial"][:, 2:5], smooth, atol=1e-5)


def test_a_stream_of_one_frame_gives_one_group() -> None:
    assert len(sensor_features(SENSOR[:1])) == len(skeleton_features(BODY[:1])) == 1


def test_a_sensor_at_rest_and_a_body_at_rest_do_not_move() -> None:
    assert np.abs(skeleton_features(np.repeat(BODY[:1], 20, axis=0))).max() == 0
    assert np.ptp(sensor_features(np.repeat(SENSOR[:1], 20, axis=0))[:, 15:], axis=0).max() < 1e-5


def test_a_silhouette_that_moves_sideways_moves_its_centre() -> None:
    cells = np.zeros((4, 8, 10), np.float32)
    cells[:2, 2:6, 3] = cells[2:, 2:6, 5] = 1.0
    features = silhouette_features(cells.reshape(4, 80))
    assert np.abs(features[0]).max() == 0
    assert features[1, 21] == pytest.approx(2.0, rel=1e-3), "two columns"
    assert features[1, 20] == features[1, 22] == 0, "as large, and as high"


@pytest.fixture(autouse=True)
def nobody_stays_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grf_core.data.utd_mhad_features.THEMSELVES", 0.0)


def test_half_of_the_streams_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grf_core.data.utd_mhad_features.THEMSELVES", 0.5)
    rng = np.random.default_rng(0)
    kept = [somebody_else(stream("skeleton"), rng).frames is TOLD["skeleton"] for _ in range(40)]
    assert 10 < sum(kept) < 30


@pytest.mark.parametrize("modality", MODALITIES)
def test_somebody_else_does_the_same_in_as_many_frames(modality: str) -> None:
    other = somebody_else(stream(modality), np.random.default_rng(1))
    assert other.frames.shape == TOLD[modality].shape
    assert other.frames.dtype == np.float32
    assert np.abs(other.frames - TOLD[modality]).max() > 0.01
    np.testing.assert_array_equal(other.times_s, stream(modality).times_s)


def test_somebody_else_is_drawn_anew_and_by_the_seed() -> None:
    def frames(seed: int) -> Float32Array:
        return somebody_else(stream("inertial"), np.random.default_rng(seed)).frames

    np.testing.assert_array_equal(frames(1), frames(1))
    assert np.abs(frames(1) - frames(2)).max() > 0.01


def test_a_silhouette_is_the_same_at_another_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    other = somebody_else(stream("depth"), np.random.default_rng(1)).frames.reshape(len(TOLD["depth"]), 3, -1)
    np.testing.assert_allclose(other.sum(axis=1), FRAMES["depth"], atol=1e-5)
    monkeypatch.setattr("grf_core.data.utd_mhad_features.PACE", 0.0)
    monkeypatch.setattr("grf_core.data.utd_mhad_features.BEGINNING_S", 0.0)
    same = somebody_else(stream("depth"), np.random.default_rng(1)).frames
    np.testing.assert_allclose(same, TOLD["depth"], atol=1e-5)


def test_a_sensor_worn_askew_feels_the_same_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUILD", "PACE", "BEGINNING_S"):
        monkeypatch.setattr(f"grf_core.data.utd_mhad_features.{name}", 0.0)
    other = somebody_else(stream("inertial"), np.random.default_rng(1)).frames
    np.testing.assert_allclose(other[:, 0:2], TOLD["inertial"][:, 0:2], rtol=1e-4)


def test_a_rotation_keeps_lengths_and_its_axis() -> None:
    turn = rotation(np.array([0.0, 0.5, 0.0]))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(turn @ [0, 1, 0], [0, 1, 0], atol=1e-6)
