from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from grf_core.data import archives
from grf_core.data.archives import DataFileError, locate, read_npz, read_unpacked, split_rows, tar_members
from tests.grf_core.data.npz import npz_bytes


class SomeDataError(DataFileError):
    pass


def test_without_a_path_the_error_names_the_option() -> None:
    with pytest.raises(SomeDataError, match=r"set\.npz.*--data"):
        locate(None, ["set.npz"], SomeDataError)


def test_a_folder_gives_the_first_name_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "other.npz").touch()
    assert locate(tmp_path, ["set.npz", "*.npz"], SomeDataError) == tmp_path / "other.npz"
    (tmp_path / "set.npz").touch()
    assert locate(tmp_path, ["set.npz", "*.npz"], SomeDataError) == tmp_path / "set.npz"


def test_a_folder_with_two_files_for_one_pattern_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    (tmp_path / "b.npz").touch()
    with pytest.raises(SomeDataError, match="2 files"):
        locate(tmp_path, ["set.npz", "*.npz"], SomeDataError)


def test_what_is_not_there_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(SomeDataError, match="gone: is not there"):
        locate(tmp_path / "gone", ["set.npz"], SomeDataError)
    with pytest.raises(SomeDataError, match=r"has none of set\.npz"):
        locate(tmp_path, ["set.npz"], SomeDataError)


@pytest.mark.parametrize("pack", [bytes, lzma.compress, gzip.compress], ids=["plain", "xz", "gzip"])
def test_packing_is_told_by_content_not_by_name(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pack(b"content"))
    assert read_unpacked(tmp_path / "file", SomeDataError) == b"content"


@pytest.mark.parametrize("pack", [bytes, lzma.compress, gzip.compress], ids=["plain", "xz", "gzip"])
def test_a_file_that_unpacks_beyond_its_limit_is_refused(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pack(bytes(100_001)))
    with pytest.raises(SomeDataError, match="100000 bytes"):
        read_unpacked(tmp_path / "file", SomeDataError, 100_000)


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress], ids=["xz", "gzip"])
def test_a_packed_file_that_breaks_off_is_refused(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pack(np.random.default_rng(0).bytes(1000))[:-30])
    with pytest.raises(SomeDataError, match="cannot be read"):
        read_unpacked(tmp_path / "file", SomeDataError)


def test_xz_that_wants_more_memory_than_ordinary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(lzma.compress(b"content", preset=9))
    monkeypatch.setattr(archives, "LZMA_MEMORY_BYTES", 1 << 20)
    with pytest.raises(SomeDataError, match="cannot be read"):
        read_unpacked(tmp_path / "file", SomeDataError)


def test_only_the_arrays_asked_for_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz_bytes(a=np.arange(6).reshape(2, 3), b=np.array([None], object)))
    read = read_npz(tmp_path / "a.npz", {"a": 2}, SomeDataError)
    assert list(read) == ["a"]
    assert read["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_column_major_arrays_keep_their_values(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz_bytes(a=np.asfortranarray([[1, 2], [3, 4], [5, 6]])))
    assert read_npz(tmp_path / "a.npz", {"a": 2}, SomeDataError)["a"].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_pickles_missing_arrays_and_other_dimensions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz_bytes(pickled=np.array([{}], object), a=np.zeros(3)))
    for dimensions, reason in (({"pickled": 1}, "pickled"), ({"b": 1}, "has no b"), ({"a": 2}, "expected 2 dim")):
        with pytest.raises(SomeDataError, match=reason):
            read_npz(tmp_path / "a.npz", dimensions, SomeDataError)


def test_a_header_that_claims_more_than_the_file_holds_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", member.getvalue() + bytes(64))
    with pytest.raises(SomeDataError, match="not as long as its shape"):
        read_npz(tmp_path / "a.npz", {"a": 1}, SomeDataError)


@pytest.mark.parametrize(
    "content", [b"", b"no archive", npz_bytes(a=np.zeros(100))[:-40]], ids=["empty", "text", "cut"]
)
def test_what_is_no_npz_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(SomeDataError, match="no readable"):
        read_npz(tmp_path / "a.npz", {"a": 1}, SomeDataError)


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_any_damage_to_an_array_gives_an_array_or_the_datasets_own_error(tmp_path: Path) -> None:
    sound, rng = io.BytesIO(), np.random.default_rng(0)
    np.save(sound, np.arange(8))
    outcomes = {"read": 0, "refused": 0}
    for _ in range(600):
        damaged = bytearray(sound.getvalue())
        for place in rng.integers(0, 100, 2):
            damaged[place] = rng.integers(0, 256)
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:  # with the checksum of what is damaged
            archive.writestr("a.npy", bytes(damaged))
        try:
            read_npz(tmp_path / "a.npz", {"a": 1}, SomeDataError)
            outcomes["read"] += 1
        except SomeDataError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 400


def test_tar_members_are_regular_files_only(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind, target in (
            ("./folder", tarfile.DIRTYPE, ""),
            ("hosts", tarfile.SYMTYPE, "/etc/hosts"),
            ("again", tarfile.LNKTYPE, "./folder/a.txt"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        info = tarfile.TarInfo("./folder/a.txt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"text"))
    assert list(tar_members(tmp_path / "a.tar", SomeDataError)) == [("folder/a.txt", b"text")]
    with pytest.raises(SomeDataError, match=r"a\.txt is larger than 3 bytes"):
        list(tar_members(tmp_path / "a.tar", SomeDataError, 3))


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(SomeDataError, match=r"no readable \.tar"):
        list(tar_members(tmp_path / "a.tar", SomeDataError))


def test_lengths_must_add_up_to_the_rows() -> None:
    rows = np.arange(5)
    parts = split_rows(Path("f"), "rows", rows, np.array([2, 0, 3], np.int16), SomeDataError)
    assert [part.tolist() for part in parts] == [[0, 1], [], [2, 3, 4]]
    for lengths in ([2, 2], [6, -1]):
        with pytest.raises(SomeDataError, match="add up"):
            split_rows(Path("f"), "rows", rows, np.array(lengths), SomeDataError)
