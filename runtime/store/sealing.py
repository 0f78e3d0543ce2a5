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
    encode_history,
    encode_record,
)

_CHECKSUM = struct.Struct("<I")


def seal_record(record: SessionRecord) -> bytes:
    return _seal(_place(record.key), encode_record(record))


def open_record(key: SessionKey, sealed: bytes) -> SessionRecord:
    """Raises RecordError for anything but what `seal_record` made for this key."""
    return decode_record(key, _open(_place(key), sealed, f"{key}"))


def seal_history(key: SessionKey, row: HistoryRow) -> bytes:
    return _seal(_history_place(key, row.version, row.event_time_s), encode_history(row))


def open_history(key: SessionKey, version: int, event_time_s: float, sealed: bytes) -> HistoryRow:
    """Raises RecordError for anything but what `seal_history` made for this version."""
    place = _history_place(key, version, event_time_s)
    return decode_history(version, event_time_s, _open(place, sealed, f"{key}, history of version {version}"))


def _place(key: SessionKey) -> bytes:
    return f"{key.tenant}/{key.session}".encode()


def _history_place(key: SessionKey, version: int, event_time_s: float) -> bytes:
    return b"%s\0%s" % (_place(key), struct.pack("<qd", version, event_time_s))


def _seal(place: bytes, data: bytes) -> bytes:
    return _CHECKSUM.pack(crc32(data, crc32(place))) + data


def _open(place: bytes, sealed: bytes, what: str) -> bytes:
    data = sealed[_CHECKSUM.size :]
    if sealed[: _CHECKSUM.size] != _CHECKSUM.pack(crc32(data, crc32(place))):
        raise RecordError(f"{what}: damaged, the checksum does not fit")
    return data
