"""A checksum around what is stored. Databases check their own structure, but not the bytes of a value.

A sealed value is the CRC-32 of its place and its data (little-endian), then the data. The place goes into the
checksum, so that a record that turns up under another session's key is found damaged too.
"""

from __future__ import annotations

import struct
from zlib import crc32

from runtime.keys import SessionKey
from runtime.records import (  # fmt: skip
    HistoryRow,
    RecordError,
    SessionRecord,
    decode_history,
    decode_record,
    encode_record,
    encoded_history,
)

_CHECKSUM = struct.Struct("<I")
_VERSION = struct.Struct("<qd")


def seal_record(record: SessionRecord) -> bytes:
    return _seal(_place(record.key), encode_record(record))


def open_record(key: SessionKey, sealed: bytes) -> SessionRecord:
    """Raises RecordError for anything but what `seal_record` made for this key."""
    return decode_record(key, _open(_place(key), sealed, f"{key}"))


def sealed_history(record: SessionRecord) -> list[tuple[HistoryRow, bytes]]:
    """The rows of a record's history, each with what is stored of it."""
    place = _place(record.key)
    return [
        (row, _seal(_history_place(place, row.version, row.event_time_s), packed))
        for row, packed in encoded_history(record)
    ]


def open_history(key: SessionKey, version: int, event_time_s: float, sealed: bytes) -> HistoryRow:
    """Raises RecordError for anything but what `seal_history` made for this version."""
    place = _history_place(_place(key), version, event_time_s)
    return decode_history(version, event_time_s, _open(place, sealed, f"{key}, history of version {version}"))


def _place(key: SessionKey) -> bytes:
    return f"{key.tenant}/{key.session}".encode()


def _history_place(session: bytes, version: int, event_time_s: float) -> bytes:
    return b"%s\0%s" % (session, _VERSION.pack(version, event_time_s))


def _seal(place: bytes, data: bytes) -> bytes:
    return _CHECKSUM.pack(crc32(data, crc32(place))) + data


def _open(place: bytes, sealed: bytes, what: str) -> bytes:
    data = sealed[_CHECKSUM.size :]
    if sealed[: _CHECKSUM.size] != _CHECKSUM.pack(crc32(data, crc32(place))):
        raise RecordError(f"{what}: damaged, the checksum does not fit")
    return data
