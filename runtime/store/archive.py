"""A whole store in one file, `*.grfstate`: to back up, to move from SQLite to Redis, to look into.

The file is the magic, then chunks: u32 length and u32 CRC-32 (little-endian) of a msgpack body. A session's body is
`[tenant, session, record, [[version, event time, row], ...]]`, records as in runtime/records.py, rows as in
runtime/history.py; the last body is the number of sessions, so that a file that was cut short is known for it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import msgpack

from runtime.history import decode_row, encode_row
from runtime.keys import InvalidId, SessionKey, check_id, check_tenant
from runtime.records import RecordError, SessionRecord, decode_record, encode_record

MAGIC = b"GRFSTATE\x01\n"
MAX_BODY_BYTES = 64 << 20
_PREFIX = struct.Struct("<II")


class ArchiveError(ValueError):
    """Not an archive of this version, damaged, or cut short."""


def write_archive(path: Path, records: Iterable[SessionRecord]) -> int:
    """Write all records to a new file and return how many there were. An unfinished file never gets the name, and does
    not stay: it may be what has filled the disk."""
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("wb") as file:
            count = _write_all(file, records)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return count


def _write_all(file: BinaryIO, records: Iterable[SessionRecord]) -> int:
    file.write(MAGIC)
    count = 0
    for record in records:
        _write_body(file, _session_body(record))
        count += 1
    _write_body(file, msgpack.packb(count))
    file.flush()
    os.fsync(file.fileno())
    return count


def read_archive(path: Path) -> Iterator[SessionRecord]:
    """The records of an archive. Raises ArchiveError where it stops being one; what came before was whole."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ArchiveError(f"{path} is no archive of this version")
        count = 0
        while True:
            body = _read_body(file, path)
            if isinstance(body, int):
                if body != count:
                    raise ArchiveError(f"{path}: {count} sessions, {body} were written")
                return
            yield _record(path, body)
            count += 1


def _session_body(record: SessionRecord) -> bytes:
    history = [[row.version, row.event_time_s, encode_row(row)] for row in record.history]
    body: bytes = msgpack.packb([*record.key, encode_record(record), history])
    return body


def _write_body(file: BinaryIO, body: bytes) -> None:
    file.write(_PREFIX.pack(len(body), crc32(body)) + body)


def _read_body(file: BinaryIO, path: Path) -> object:
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size:
        raise ArchiveError(f"{path} was cut short")
    length, checksum = _PREFIX.unpack(prefix)
    if length > MAX_BODY_BYTES:
        raise ArchiveError(f"{path}: a session of {length} bytes, more than {MAX_BODY_BYTES}")
    body = file.read(length)
    if len(body) < length or crc32(body) != checksum:
        raise ArchiveError(f"{path} is damaged or was cut short at byte {file.tell() - len(body)}")
    try:
        return msgpack.unpackb(body)
    except Exception as error:  # msgpack documents no closed set of exceptions
        raise ArchiveError(f"{path}: a session is not msgpack: {error or type(error).__name__}") from None


def _record(path: Path, body: object) -> SessionRecord:
    match body:
        case [str(tenant), str(session), bytes(record), list(history)]:
            pass
        case _:
            raise ArchiveError(f"{path}: a session is not [tenant, session, record, history]")
    try:
        key = SessionKey(check_tenant(tenant), check_id("session", session))
        rows = tuple(decode_row(version, time_s, row) for version, time_s, row in history)
        return replace(decode_record(key, record), history=rows)
    except (RecordError, InvalidId, TypeError, ValueError) as error:
        raise ArchiveError(f"{path}: {error}") from None
