"""A recording: timestamped segments of many sessions with their labels, in one append-only file, `*.grfrec`.

A writer that dies leaves at most one unfinished chunk at the end, which a reader reports as `truncated` and a resumed
writer removes. Everything else that does not fit is a `RecordingError` with its offset: a recording is untrusted input.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from grf_core.recording_format import (
    MAGIC,
    PREFIX,
    Record,
    RecordedSegment,
    RecordedSession,
    RecordingHead,
    check_sizes,
    checksum,
    decode_head,
    decode_record,
    encode_head,
    encode_record,
)

__all__ = [
    "Record",
    "RecordedSegment",
    "RecordedSession",
    "RecordingError",
    "RecordingHead",
    "RecordingReader",
    "RecordingWriter",
    "read_recording",
]


class RecordingError(ValueError):
    """Bytes that are no recording, or a record that cannot be one. `offset` is its chunk's place in the file."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason

    def __reduce__(self) -> tuple[type[RecordingError], tuple[int, str]]:
        """It may be raised in another process."""
        return type(self), (self.offset, self.reason)


class RecordingWriter:
    """Appends records to a new file, or with `resume` to what an earlier writer left of one.

    `flush` hands what was written to the operating system, so it outlives this process; `sync` outlives the machine.
    A record that a reader would refuse is refused with a RecordingError and nothing is written; after an OSError the
    writer is closed, because the file may end within a chunk.
    """

    def __init__(self, path: Path | str, head: RecordingHead, *, resume: bool = False) -> None:
        """FileExistsError without `resume`; RecordingError if the file to resume has another head."""
        self._head = head
        self.size_bytes = 0
        start = MAGIC + _encoded(0, head, head)
        if resume and Path(path).exists():
            self.size_bytes = _end_of(path, head)
            self._file = _open_at(path, self.size_bytes)
        else:
            self._file = _create(path)
            self._append(start)
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, record: Record) -> None:
        self._append(_encoded(self.size_bytes, record, self._head))

    def flush(self) -> None:
        self._file.flush()

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close. Closing again does nothing."""
        self._file.close()

    def _append(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError:
            with suppress(OSError):
                self._file.close()
            raise
        self.size_bytes += len(data)


class RecordingReader:
    """The records of a file in the order they were written, read as they are asked for. Iterate as often as you like.

    After an iteration `end` is the offset behind the last whole chunk, and `truncated` says whether bytes of an
    unfinished one follow it.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        with self._path.open("rb") as file:
            self.head = _read_head(file)
            self.end = file.tell()
        self.truncated = False

    def __iter__(self) -> Iterator[Record]:
        with self._path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(0)
            head = _read_head(file)
            self.end, self.truncated = file.tell(), False
            while (chunk := _read_chunk(file, size)) is not None:
                record = _decoded(self.end, chunk, head)
                self.end = file.tell()
                if record is not None:
                    yield record
            self.truncated = self.end < size


def read_recording(path: Path | str) -> RecordingReader:
    """Open a recording. RecordingError if it is none, OSError if it cannot be read."""
    return RecordingReader(path)


def _end_of(path: Path | str, head: RecordingHead) -> int:
    reader = RecordingReader(path)
    if reader.head != head:
        raise RecordingError(len(MAGIC), "the recording to resume has another head")
    for _ in reader:
        pass
    return reader.end


def _open_at(path: Path | str, end: int) -> BinaryIO:
    os.truncate(path, end)
    return Path(path).open("ab")


def _create(path: Path | str) -> BinaryIO:
    return Path(path).open("xb")


def _encoded(offset: int, record: RecordingHead | Record, head: RecordingHead) -> bytes:
    try:
        return encode_head(record) if isinstance(record, RecordingHead) else encode_record(record, head)
    except ValueError as error:
        raise RecordingError(offset, str(error)) from None


def _decoded(offset: int, chunk: tuple[bytes, bytes], head: RecordingHead) -> Record | None:
    try:
        return decode_record(*chunk, head)
    except ValueError as error:
        raise RecordingError(offset, str(error)) from None


def _read_head(file: BinaryIO) -> RecordingHead:
    if file.read(len(MAGIC)) != MAGIC:
        raise RecordingError(0, "not a recording: the first 8 bytes are not its magic")
    chunk = _read_chunk(file, os.fstat(file.fileno()).st_size)
    if chunk is None:
        raise RecordingError(len(MAGIC), "the file ends within its head")
    try:
        return decode_head(chunk[0])
    except ValueError as error:
        raise RecordingError(len(MAGIC), str(error)) from None


def _read_chunk(file: BinaryIO, size: int) -> tuple[bytes, bytes] | None:
    """Header and payload of the next chunk; None where the file, of `size` bytes, ends before the chunk does."""
    offset = file.tell()
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    header_bytes, payload_bytes, expected = PREFIX.unpack(prefix)
    try:
        check_sizes(header_bytes, payload_bytes)
    except ValueError as error:
        raise RecordingError(offset, str(error)) from None
    if offset + PREFIX.size + header_bytes + payload_bytes > size:
        return None
    header, payload = file.read(header_bytes), file.read(payload_bytes)
    if checksum(header, payload) != expected:
        raise RecordingError(offset, "the checksum does not fit")
    return header, payload
