"""Files of datasets, found and opened within bounds: they come from anywhere, and nothing in them is trusted.

Nothing is unpacked onto the disk, no link is followed, no pickle is read, and no size that a file claims is believed
before it is compared with a limit. What cannot be read is an error of the dataset's own kind, with file and reason.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST_BYTES = 1 << 30
"""Of a file, compressed and unpacked, and of a member of an archive unless its reader says less."""
LZMA_MEMORY_BYTES = 256 << 20
"""The strongest ordinary compression (`xz -9`) needs 65 MiB to unpack."""
XZ_MAGIC = b"\xfd7zXZ\x00"

Arrays = dict[str, npt.NDArray[Any]]


class DataFileError(ValueError):
    """A dataset's file is missing or not as expected. Each dataset has its own kind."""

    def __init__(self, file: Path | str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason

    def __reduce__(self) -> tuple[type[DataFileError], tuple[Path | str, str]]:
        """It may be raised in another process."""
        return type(self), (self.file, self.reason)


def locate(path: Path | None, names: Sequence[str], error: type[DataFileError]) -> Path:
    """The file itself, or in a folder the first of the names that is there; a name may be a pattern for one file."""
    if path is None:
        raise error(names[0], "the data are not part of the product: say with --data where they are")
    if path.is_file():
        return path
    if not path.is_dir():
        raise error(path, "is not there")
    for name in names:
        found = sorted(path.glob(name))
        if len(found) > 1:
            raise error(path, f"{len(found)} files fit {name}: name one of them")
        if found:
            return found[0]
    raise error(path, f"has none of {', '.join(names)}")


def read_unpacked(path: Path, error: type[DataFileError], largest_bytes: int = LARGEST_BYTES) -> bytes:
    """The content of a file; unpacked, if it was packed by xz or gzip."""
    try:
        if path.stat().st_size > largest_bytes:
            raise error(path, f"is larger than {largest_bytes} bytes")
        content = path.read_bytes()
        if content.startswith(XZ_MAGIC):
            content = _unpacked_xz(content, largest_bytes)
        elif content.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(content)) as packed:
                content = packed.read(largest_bytes + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as e:
        raise error(path, f"cannot be read: {e}") from None
    if len(content) > largest_bytes:
        raise error(path, f"unpacks to more than {largest_bytes} bytes")
    return content


def read_npz(path: Path, dimensions: Mapping[str, int], error: type[DataFileError]) -> Arrays:
    """The arrays named, each with so many dimensions, of an `.npz` or `.npz.xz`; whatever else it holds is left."""
    content = read_unpacked(path, error)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            missing = sorted(name for name in dimensions if f"{name}.npy" not in archive.namelist())
            if missing:
                raise error(path, f"has no {', '.join(missing)}")
            arrays = {name: _array(archive, f"{name}.npy") for name in dimensions}
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError) as e:
        raise error(path, f"is no readable .npz: {e}") from None
    except error:
        raise
    except (ValueError, TokenError) as e:  # TokenError: numpy's, on a header that is no Python literal
        raise error(path, f"is no readable .npz: {e}") from None
    for name, array in arrays.items():
        if array.ndim != dimensions[name]:
            raise error(path, f"{name} has shape {array.shape}, expected {dimensions[name]} dimensions")
    return arrays


def tar_members(
    path: Path, error: type[DataFileError], largest_member_bytes: int = LARGEST_BYTES
) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every regular file of a `.tar` or `.tar.xz`, in its order; links and devices are left out."""
    content = read_unpacked(path, error)
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                if not member.isreg():
                    continue
                if member.size > largest_member_bytes:
                    raise error(path, f"{member.name} is larger than {largest_member_bytes} bytes")
                opened = archive.extractfile(member)
                yield member.name.removeprefix("./"), opened.read() if opened else b""
    except (tarfile.TarError, OSError, EOFError, OverflowError) as e:
        raise error(path, f"is no readable .tar: {e}") from None


def split_rows(
    path: Path, name: str, rows: npt.NDArray[Any], lengths: npt.NDArray[Any], error: type[DataFileError]
) -> list[npt.NDArray[Any]]:
    """One array after the other out of their concatenation."""
    counts = lengths.astype(np.int64)
    if (counts < 0).any() or counts.sum() != len(rows):
        raise error(path, f"{name} has {len(rows)} rows, its lengths add up to {counts.sum()}")
    return np.split(rows, np.cumsum(counts)[:-1]) if len(counts) else []


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """Its header is held against the member's true size first: numpy allocates what a header claims."""
    if archive.getinfo(name).file_size > LARGEST_BYTES:
        raise ValueError(f"{name} is larger than {LARGEST_BYTES} bytes")
    member = io.BytesIO(archive.read(name))
    version = np.lib.format.read_magic(member)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(member)
    claimed = dtype.itemsize
    for extent in shape:
        claimed *= extent
    if claimed != len(member.getbuffer()) - member.tell():
        raise ValueError(f"{name} is not as long as its shape {shape} says")
    member.seek(0)
    array: np.ndarray = np.load(member, allow_pickle=False)
    return array


def _unpacked_xz(content: bytes, largest_bytes: int) -> bytes:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LZMA_MEMORY_BYTES)
    unpacked = unpacker.decompress(content, largest_bytes + 1)
    if not unpacker.eof and len(unpacked) <= largest_bytes:
        raise EOFError("it ends before its end mark")
    return unpacked
