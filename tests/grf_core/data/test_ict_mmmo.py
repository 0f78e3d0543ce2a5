from __future__ import annotations

import builtins
import io
import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from grf_core.data.ict_mmmo import MODALITIES, IctMmmoDataError, ict_mmmo_dataset, labels_of, read_ict_mmmo

Files = dict[str, bytes]
NAMES = {"text": "text_{}_emb.h5", "audio": "audio_{}.h5", "video": "video_{}.h5"}


def h5(values: npt.NDArray[Any], name: str = "d1") -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file[name] = values
    return buffer.getvalue()


def features(part: str, reviews: int, *modalities: str) -> dict[str, npt.NDArray[np.float64]]:
    rng = np.random.default_rng(len(part))
    return {NAMES[m].format(part): rng.normal(size=(reviews, 20, MODALITIES[m])) for m in modalities}


def part(name: str, ratings: list[float], *modalities: str) -> Files:
    arrays = features(name, len(ratings), *modalities)
    return {f"y_{name}.h5": h5(np.array(ratings)), **{file: h5(values) for file, values in arrays.items()}}


def write(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def three_parts() -> Files:
    return (
        part("test", [4.0, 3.5], "text", "audio", "video")
        | part("valid", [1.0], "text", "audio", "video")
        | part("train", [5.0, 2.0, 4.5], "audio", "video")
    )


def test_parts_become_sessions_train_first_and_train_lacks_text(tmp_path: Path) -> None:
    sessions = read_ict_mmmo(write(tmp_path / "ict-mmmo.tar.xz", three_parts()))
    assert [s.session for s in sessions] == ["train-000", "train-001", "train-002", "valid-000", "test-000", "test-001"]
    assert [[s.modality for s in session.streams] for session in sessions] == [["audio", "video"]] * 3 + [
        ["text", "audio", "video"]
    ] * 3
    for stream in sessions[3].streams:
        assert stream.frames.shape == (20, MODALITIES[stream.modality])
        assert stream.frames.dtype == np.float32
        assert stream.times_s.tolist() == list(range(20))


def test_train_and_valid_train_and_test_tests(tmp_path: Path) -> None:
    dataset = ict_mmmo_dataset(write(tmp_path / "ict-mmmo.tar.xz", three_parts() | part("extra", [2.0], "audio")))
    assert [s.session for s in dataset.train] == ["train-000", "train-001", "train-002", "valid-000"]
    assert [s.session for s in dataset.test] == ["test-000", "test-001", "extra-000"]


def test_ratings_are_a_value_and_a_class(tmp_path: Path) -> None:
    assert labels_of(3.5) == {"sentiment": 3.5, "positive": "negative"}
    assert labels_of(4.0) == {"sentiment": 4.0, "positive": "positive"}
    sessions = read_ict_mmmo(write(tmp_path / "ict-mmmo.tar", part("test", [4.5, 1.5], "audio")))
    assert [s.labels["sentiment"] for s in sessions] == [4.5, 1.5]


def test_values_are_those_of_the_file_and_its_own_review(tmp_path: Path) -> None:
    sessions = read_ict_mmmo(write(tmp_path / "ict-mmmo.tar", part("test", [4.5, 1.5], "audio", "text")))
    text = features("test", 2, "audio", "text")["text_test_emb.h5"]
    np.testing.assert_allclose(sessions[1].streams[0].frames, text[1], rtol=1e-6)


def test_a_folder_of_hdf5_files_is_read_as_the_archive_is(tmp_path: Path) -> None:
    for name, content in three_parts().items():
        (tmp_path / name).write_bytes(content)
    from_folder = read_ict_mmmo(tmp_path)
    from_archive = read_ict_mmmo(write(tmp_path / "ict-mmmo.tar.xz", three_parts()))
    for one, other in zip(from_folder, from_archive, strict=True):
        assert (one.session, one.labels) == (other.session, other.labels)
        for stream, same in zip(one.streams, other.streams, strict=True):
            np.testing.assert_array_equal(stream.frames, same.frames)


def test_steps_filled_up_at_the_front_are_absent_and_the_streams_stay_aligned(tmp_path: Path) -> None:
    arrays = features("test", 1, "audio", "video")
    arrays["audio_test.h5"][0, :3] = 0
    arrays["video_test.h5"][0, :3] = 0
    arrays["video_test.h5"][0, 7] = 0  # no face, but a voice
    files = {"y_test.h5": h5(np.array([4.0])), **{name: h5(values) for name, values in arrays.items()}}
    (session,) = read_ict_mmmo(write(tmp_path / "ict-mmmo.tar", files))
    for stream in session.streams:
        assert stream.times_s.tolist() == list(range(3, 20))
    assert not session.streams[1].frames[4].any()


def test_a_review_of_nothing_but_zeros_keeps_one_step(tmp_path: Path) -> None:
    files = {"y_test.h5": h5(np.array([4.0])), "audio_test.h5": h5(np.zeros((1, 20, 74)))}
    (session,) = read_ict_mmmo(write(tmp_path / "ict-mmmo.tar", files))
    assert session.streams[0].frames.shape == (1, 74)


def test_values_that_are_not_finite_become_zero(tmp_path: Path) -> None:
    arrays = features("test", 1, "audio")["audio_test.h5"]
    arrays[0, 5, :4] = (-np.inf, np.nan, np.inf, 1e300)
    files = {"y_test.h5": h5(np.array([4.0])), "audio_test.h5": h5(arrays)}
    (session,) = read_ict_mmmo(write(tmp_path / "ict-mmmo.tar", files))
    assert session.streams[0].frames[5, :4].tolist() == [0, 0, 0, 0]
    assert np.isfinite(session.streams[0].frames).all()


def pointing_elsewhere(kind: str) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        if kind == "link":
            file["d1"] = h5py.ExternalLink("other.h5", "d1")
        elif kind == "soft link":
            file["d1"] = h5py.SoftLink("/d2")
        elif kind == "values":
            file.create_dataset("d1", (1, 20, 74), "f8", external=[("secret", 0, 20 * 74 * 8)])
        else:
            layout = h5py.VirtualLayout((1, 20, 74), "f8")
            layout[:] = h5py.VirtualSource("other.h5", "d1", (1, 20, 74))
            file.create_virtual_dataset("d1", layout)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["link", "soft link", "values", "virtual"])
def test_hdf5_that_points_at_other_files_is_refused(kind: str, tmp_path: Path) -> None:
    files = {"y_test.h5": h5(np.array([4.0])), "audio_test.h5": pointing_elsewhere(kind)}
    with pytest.raises(IctMmmoDataError, match=r"audio_test\.h5"):
        read_ict_mmmo(write(tmp_path / "ict-mmmo.tar", files))


def test_any_damage_to_hdf5_gives_sessions_or_the_datasets_own_error(tmp_path: Path) -> None:
    sound, rng = part("test", [4.0], "video"), np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        damaged = bytearray(sound["video_test.h5"])
        for place in rng.integers(0, 2048, 2):
            damaged[place] = rng.integers(0, 256)
        try:
            read_ict_mmmo(write(tmp_path / "ict-mmmo.tar", sound | {"video_test.h5": bytes(damaged)}))
            outcomes["read"] += 1
        except IctMmmoDataError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


def a_dataset_of_a_tebibyte() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("d1", (1 << 20, 1 << 17), "f8", chunks=(1, 1 << 17))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"y_test.h5": b""}, "no readable HDF5"),
        ({"y_test.h5": h5(np.array([4.0]), "d2")}, "no dataset d1"),
        ({"y_test.h5": h5(np.array([6.0]))}, "from 1.0 to 5.0"),
        ({"y_test.h5": h5(np.array([np.nan]))}, "from 1.0 to 5.0"),
        ({"y_test.h5": h5(np.array([b"4"]))}, "expected numbers"),
        ({"audio_test.h5": h5(np.zeros((2, 20, 74)))}, r"expected \[1, steps, 74\]"),
        ({"audio_test.h5": h5(np.zeros((1, 20, 73)))}, r"expected \[1, steps, 74\]"),
        ({"audio_test.h5": h5(np.zeros((1, 19, 74)))}, "different lengths"),
        ({"audio_test.h5": h5(np.array(1.0))}, "different lengths"),
        ({"audio_test.h5": a_dataset_of_a_tebibyte()}, "larger than"),
        ({"y_other.h5": h5(np.array([4.0]))}, "no modality"),
        ({"audio_other.h5": h5(np.zeros((1, 20, 74)))}, r"no y_other\.h5"),
    ],
    ids=[
        "empty",
        "no d1",
        "rated 6",
        "rated nan",
        "text",
        "two reviews",
        "73 features",
        "19 steps",
        "a scalar",
        "a tebibyte",
        "no features",
        "no ratings",
    ],
)
def test_files_of_another_layout_are_refused_with_the_reason(changes: Files, reason: str, tmp_path: Path) -> None:
    files = part("test", [4.0], "audio", "video") | changes
    with pytest.raises(IctMmmoDataError, match=reason):
        read_ict_mmmo(write(tmp_path / "ict-mmmo.tar", files))


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IctMmmoDataError, match=r"has no y_PART\.h5"):
        read_ict_mmmo(write(tmp_path / "ict-mmmo.tar", {"readme.txt": b"nothing"}))


def test_without_a_path_the_error_says_where_to_give_it() -> None:
    with pytest.raises(IctMmmoDataError, match="--data"):
        ict_mmmo_dataset(None)


def test_without_h5py_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "ict-mmmo.tar", part("test", [4.0], "audio"))
    ordinary = builtins.__import__

    def without_h5py(name: str, *rest: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return ordinary(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(IctMmmoDataError, match=r"pip install grf-runtime\[data\]"):
        read_ict_mmmo(path)
