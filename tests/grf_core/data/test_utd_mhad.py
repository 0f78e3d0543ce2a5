from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from grf_core.data.utd_mhad import (
    ACTIONS,
    MODALITIES,
    UtdMhadDataError,
    body_reference,
    body_relative,
    read_utd_mhad,
    silhouette,
    silhouette_reference,
    utd_mhad_dataset,
)
from grf_core.data.utd_mhad_features import rotation
from tests.grf_core.data.npz import npz_bytes

Arrays = dict[str, npt.NDArray[Any]]


def make(*keys: tuple[int, int, int], seed: int = 0) -> Arrays:
    """Sequences of (action, subject, trial), each a little longer than the one before."""
    rng = np.random.default_rng(seed)
    meta = np.array([[*key, 160 + i, 48 + i, 48 + i] for i, key in enumerate(keys)], np.int16).reshape(-1, 6)
    inertial, skeleton, depth = (int(meta[:, column].sum()) for column in (3, 4, 5))
    return {
        "meta": meta,
        "inertial": rng.normal(size=(inertial, 6)).astype(np.float32),
        "skeleton": rng.normal([0, 0, 2.8], 1, (skeleton, 20, 3)).astype(np.float16),
        "depth": (rng.integers(0, 2800, (depth, 16, 20)) * (rng.random((depth, 16, 20)) < 0.12)).astype(np.uint16),
    }


def write(path: Path, arrays: Arrays) -> Path:
    content = npz_bytes(**arrays)
    path.write_bytes(lzma.compress(content, preset=0) if path.suffix == ".xz" else content)
    return path


def test_sequences_become_sessions_of_three_streams_at_their_rates(tmp_path: Path) -> None:
    arrays = make((1, 1, 1), (27, 8, 4))
    write(tmp_path / "utd_mhad.npz.xz", arrays)
    first, second = read_utd_mhad(tmp_path)
    assert (first.session, second.session) == ("a01-s1-t1", "a27-s8-t4")
    assert (first.labels, second.labels) == ({"action": "swipe left"}, {"action": "squat"})
    assert [(s.stream, s.modality, s.frames.shape, s.frames.dtype) for s in second.streams] == [
        ("inertial", "inertial", (40, 186), np.dtype(np.float32)),
        ("skeleton", "skeleton", (24, 594), np.dtype(np.float32)),
        ("depth", "depth", (24, 405), np.dtype(np.float32)),
    ]
    assert [s.times_s[[0, 1, -1]].tolist() for s in second.streams] == [
        [3 / 50, 7 / 50, 159 / 50],
        [1 / 19, 3 / 19, 47 / 19],
        [1 / 19, 3 / 19, 47 / 19],
    ], "of the last frame of each group"
    assert second.streams[0].measured is not None
    np.testing.assert_array_equal(second.streams[0].measured, arrays["inertial"][160:])


@pytest.mark.parametrize("name", ["utd_mhad.npz", "utd_mhad.npz.xz", "more.npz.xz"])
def test_the_file_is_read_packed_or_not_by_itself_or_in_its_folder(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, make((3, 2, 1)))
    assert [s.session for s in read_utd_mhad(path)] == [s.session for s in read_utd_mhad(tmp_path)] == ["a03-s2-t1"]


def test_odd_subjects_up_to_seven_train_and_all_others_test(tmp_path: Path) -> None:
    dataset = utd_mhad_dataset(write(tmp_path / "utd_mhad.npz", make(*((5, subject, 1) for subject in range(1, 10)))))
    assert [s.session for s in dataset.train] == ["a05-s1-t1", "a05-s3-t1", "a05-s5-t1", "a05-s7-t1"]
    assert [s.session for s in dataset.test] == ["a05-s2-t1", "a05-s4-t1", "a05-s6-t1", "a05-s8-t1", "a05-s9-t1"]


def test_there_are_27_actions_and_their_modalities_have_the_widths_stated(tmp_path: Path) -> None:
    assert len(set(ACTIONS)) == 27
    (session,) = read_utd_mhad(write(tmp_path / "utd_mhad.npz", make((1, 1, 1))))
    assert {s.modality: s.frames.shape[1] for s in session.streams} == MODALITIES


def test_a_skeleton_does_not_say_where_somebody_stands_or_how_tall_he_is() -> None:
    small = np.random.default_rng(0).normal(size=(5, 20, 3)).astype(np.float32)
    tall = small * 1.5 + np.array([0.3, -0.2, 2.9], np.float32)
    relative = body_relative(small, body_reference(small[0]))
    np.testing.assert_allclose(body_relative(tall, body_reference(tall[0])), relative, atol=1e-5)


def test_a_skeleton_does_not_say_which_way_somebody_faces() -> None:
    facing = np.random.default_rng(0).normal(size=(5, 20, 3)).astype(np.float32)
    aside = facing @ rotation(np.array([0.0, 0.7, 0.0])).T
    relative = body_relative(facing, body_reference(facing[0]))
    np.testing.assert_allclose(body_relative(aside, body_reference(aside[0])), relative, atol=1e-5)
    across = relative[0, 8] - relative[0, 4]
    assert across[2] == pytest.approx(0, abs=1e-5)
    assert across[0] > 0


def test_the_place_of_the_hips_holds_how_far_they_have_moved() -> None:
    skeleton = np.zeros((2, 20, 3), np.float32)
    skeleton[:, 0, 1] = 0.5  # the head half a metre above spine, hips and all: the scale
    skeleton[1] += np.array([0.25, 0, 0], np.float32)
    relative = body_relative(skeleton, body_reference(skeleton[0])).reshape(2, 20, 3)
    assert relative[:, 3].tolist() == [[0, 0, 0], [0.5, 0, 0]]
    assert relative[:, 0].tolist() == [[0, 1, 0], [0, 1, 0]]


def test_a_skeleton_in_one_point_stays_finite() -> None:
    skeleton = np.zeros((3, 20, 3), np.float32)
    assert np.isfinite(body_relative(skeleton, body_reference(skeleton[0]))).all()


def test_the_body_of_the_first_frame_stands_in_the_middle_at_depth_one() -> None:
    depth = np.zeros((2, 16, 20), np.float32)
    depth[:, 4:12, 3:6] = 2600.0
    pictures = silhouette(depth, silhouette_reference(depth[0])).reshape(2, 8, 10)
    columns = pictures.sum(axis=1)
    assert (columns @ np.arange(10) / columns.sum(axis=1)).tolist() == pytest.approx([4.5, 4.5])
    assert columns.sum() == pytest.approx(2 * 8 * 3 / 4)
    assert pictures.max() == pytest.approx(0.75), "three columns fill the middle two pairs to three quarters"


def test_a_silhouette_that_is_in_the_middle_is_left_where_it_is() -> None:
    depth = np.zeros((1, 16, 20), np.float32)
    depth[0, 5:10, 9:11] = 3000.0
    quarters = depth.reshape(1, 8, 2, 10, 2).mean(axis=(2, 4)) / 3000
    np.testing.assert_allclose(silhouette(depth, silhouette_reference(depth[0])).reshape(1, 8, 10), quarters)


def test_what_leaves_the_picture_sideways_does_not_come_back_on_the_other_side() -> None:
    depth = np.zeros((2, 16, 20), np.float32)
    depth[0, :, 0] = 2800.0
    depth[1, :, 19] = 2800.0
    pictures = silhouette(depth, silhouette_reference(depth[0])).reshape(2, 8, 10)
    assert pictures[0].sum() == pytest.approx(16 / 4)
    assert pictures[1].sum() == 0


def test_an_empty_first_depth_frame_stays_finite() -> None:
    depth = np.zeros((2, 16, 20), np.float32)
    depth[1, 5, 5] = 1400.0
    picture = silhouette(depth, silhouette_reference(depth[0])).reshape(2, 8, 10)
    assert picture[1, 2, 2] == pytest.approx(0.5 / 4)


def test_frames_depend_on_nothing_later(tmp_path: Path) -> None:
    arrays = make((1, 1, 1))
    (whole,) = read_utd_mhad(write(tmp_path / "whole.npz", arrays))
    arrays["meta"][0, 3:] = (72, 20, 20)
    cut = {"meta": arrays["meta"], **{n: arrays[n][:t] for n, t in (("inertial", 72), ("skeleton", 20), ("depth", 20))}}
    (start,) = read_utd_mhad(write(tmp_path / "start.npz", cut))
    for begun, complete in zip(start.streams, whole.streams, strict=True):
        np.testing.assert_array_equal(begun.frames, complete.frames[: len(begun.frames)])


def broken(**changes: npt.NDArray[Any] | None) -> Arrays:
    return {name: array for name, array in (make((1, 1, 1), (2, 1, 1)) | changes).items() if array is not None}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (broken(depth=None), "has no depth"),
        (broken(meta=np.zeros((2, 5), np.int16)), "meta is"),
        (broken(meta=np.zeros((2, 6))), "meta is float64"),
        (broken(inertial=np.zeros((321, 5), np.float32)), "inertial is"),
        (broken(inertial=np.zeros((320, 6), np.float32)), "add up to 321"),
        (broken(inertial=np.full((321, 6), np.nan, np.float32)), "not finite"),
        (broken(skeleton=np.zeros((97, 20, 3), "S1")), "skeleton is"),
        (make((28, 1, 1)), "no action 28"),
        (make((0, 1, 1)), "no action 0"),
        (make((1, 1, 1), (1, 1, 1)), "more than once"),
        (broken(meta=np.array([[1, 1, 1, 321, 97, 97], [2, 1, 1, 0, 0, 0]], np.int16)), "no frame of inertial"),
    ],
    ids=[
        "no depth",
        "meta too narrow",
        "meta of floats",
        "five sensor axes",
        "a row less",
        "not finite",
        "joints of text",
        "action 28",
        "action 0",
        "twice",
        "without frames",
    ],
)
def test_a_file_of_another_layout_is_refused_with_the_reason(arrays: Arrays, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UtdMhadDataError, match=reason):
        read_utd_mhad(write(tmp_path / "utd_mhad.npz", arrays))


def test_without_a_path_the_error_says_where_to_give_it() -> None:
    with pytest.raises(UtdMhadDataError, match="--data"):
        utd_mhad_dataset(None)
