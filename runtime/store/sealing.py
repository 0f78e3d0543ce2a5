"""A checksum around what is stored. Databases check their own structure, but not the bytes of a value.

A sealed value is the CRC-32 of its place and its data (little-endian), then the data. The place goes into the
checksum, so that a record that turns up under another session's key is found damaged too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from zlib import crc32

import msgpack

from runtime.history import decode_history, decode_row, encode_history, first_version
from runtime.keys import SessionKey
from runtime.records import (
    HistoryRow,
    RecordError,
    SessionRecord,
    decode_record,
    encode_record,
)

_CHECKSUM = struct.Struct("<I")
_VERSION = struct.Struct("<qd")
_FRAME = struct.Struct("<qdI")
_LONE_ROW = msgpack.packb([None] * 4)[:1]
"""how a single row without its version and time begins: before schema 3 each row was a piece"""


def seal_ahead(record: SessionRecord) -> None:
    """Make what will be stored of the record here and now.

    The worker does so in its loop: in the store's thread it would take the interpreter's lock in turns with the loop,
    at each of which the loop waits for a thread to wake up.
    """
    record.sealed = seal_record(record)
    if record.history:
        record.sealed_history = _sealed_history(record)


def seal_record(record: SessionRecord) -> bytes:
    return record.sealed or _seal(_place(record.key), encode_record(record))


def open_record(key: SessionKey, sealed: bytes) -> SessionRecord:
    """Raises RecordError for anything but what `seal_record` made for this key."""
    return decode_record(key, _open(_place(key), sealed, f"{key}"))


class HistoryPiece(NamedTuple):
    """What a session settled between two saves, as it is stored. A later one takes the place of what is stored of its
    versions and of those that follow."""

    version: int
    """of its first row"""
    event_time_s: float
    """0, but for the pieces of schema 2, which are one row each: that row's"""
    sealed: bytes


def seal_history(record: SessionRecord, length: int) -> HistoryPiece | None:
    """The rows of a record's history as one piece; None if there are none, or none are kept (`length` 0)."""
    if not record.history or not length:
        return None
    return HistoryPiece(first_version(record.history), 0.0, record.sealed_history or _sealed_history(record))


def begins_at(record: SessionRecord) -> int:
    """The version with which a record's history begins: what is stored from there on is of an earlier life of the
    session, which was deleted or reset, or of a save that was not known to have succeeded, and makes way."""
    return first_version(record.history) if record.history else record.version + 1


def framed(piece: HistoryPiece | None) -> bytes:
    """A piece in such a form that one may stand behind another; none is nothing."""
    if piece is None:
        return b""
    return _FRAME.pack(piece.version, piece.event_time_s, len(piece.sealed)) + piece.sealed


def pieces_in(frames: bytes) -> Iterator[HistoryPiece]:
    """The pieces that stand behind one another. Raises RecordError where they are cut short."""
    place = 0
    while place < len(frames):
        begin = place + _FRAME.size
        if begin > len(frames):
            raise RecordError(f"history: {len(frames) - place} bytes are left of a piece")
        version, event_time_s, n_bytes = _FRAME.unpack_from(frames, place)
        place = begin + n_bytes
        yield HistoryPiece(version, event_time_s, frames[begin:place])


def open_history(key: SessionKey, pieces: Iterable[HistoryPiece], length: int) -> list[HistoryRow]:
    """The newest `length` rows of all pieces, which come in the order in which they were saved, oldest first. Raises
    RecordError for anything but what `seal_history` made for this key."""
    rows: list[HistoryRow] = []
    for piece in pieces:
        while rows and rows[-1].version >= piece.version:
            rows.pop()  # it has made way
        rows += _open_piece(key, piece)
    newest = rows[-1].version if rows else 0
    return [row for row in rows if row.version > newest - length]


def wanted_rows(rows: list[HistoryRow], from_s: float, to_s: float, limit: int) -> list[HistoryRow]:
    """The newest `limit` of them with event time in [from_s, to_s]."""
    wanted = [row for row in rows if from_s <= row.event_time_s <= to_s]
    return wanted[len(wanted) - min(len(wanted), max(0, limit)) :]


def _sealed_history(record: SessionRecord) -> bytes:
    place = _history_place(_place(record.key), first_version(record.history), 0.0)
    return _seal(place, encode_history(record.history))


def _open_piece(key: SessionKey, piece: HistoryPiece) -> list[HistoryRow]:
    place = _history_place(_place(key), piece.version, piece.event_time_s)
    data = _open(place, piece.sealed, f"{key}, history from version {piece.version}")
    if data[:1] == _LONE_ROW:
        return [decode_row(piece.version, piece.event_time_s, data)]
    return decode_history(data)


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
