"""The messages that carry tensors, to and from frames: `Segments`, `Updates` and `Tapped`.

A tensor frame holds little-endian rows, one after another; decoded, they are read-only views of the frame where the
dtype allows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from runtime.messages import Float32Array, SegmentEntry, Segments, StreamSegments, Tapped, UpdateRow, Updates
from runtime.named_tuples import tuple_of
from runtime.wire_values import (
    MAX_EVENT_TIME_S,
    MAX_GROUPS,
    MAX_MESSAGE_BYTES,
    MAX_SEGMENTS,
    MAX_SEQUENCE,
    DecodeError,
    Frame,
    brief,
    is_of,
    malformed,
)

assert sys.byteorder == "little", "tensor frames are little-endian views of host memory"

_TAPPED = ("session", "stream", "modality", "sequence", "event_time_s", "arrival_s", "missed")
_NO_ENTRY = "segments: an entry is not [sequence, event time in seconds, T]"
_TAPPED_TYPES = (str, str, str, int, float, float, int)
_UPDATE_TYPES = (str, bool, int, int, float, int, float, int, float, int, list, bytes, str)
_FRESHNESS = UpdateRow._fields.index("freshness_s")


# ---- encode -----------------------------------------------------------------------------------------------


def encode_tensors(message: Segments | Updates | Tapped) -> tuple[list[Any], list[Frame]]:
    """The fields of the header, and the frames behind it."""
    match message:
        case Segments(groups):
            tensors = [_tensor([entry.frames for entry in group.entries]) for group in groups]
            return [[_group_header(group) for group in groups]], tensors
        case Updates(rows):
            numbers = [numbers for row in rows for numbers in (row.live, row.settled)]
            return [[row[: len(_UPDATE_TYPES)] for row in rows]], [_tensor(numbers)]
        case Tapped(frames=frames):
            return [*[getattr(message, name) for name in _TAPPED], len(frames)], [_tensor([frames])]


def _group_header(group: StreamSegments) -> list[Any]:
    rows = [[entry.sequence, entry.event_time_s, len(entry.frames)] for entry in group.entries]
    return [group.session, group.stream, group.oldest, "f32", rows]


def _tensor(frames: list[Float32Array]) -> Frame:
    rows: Float32Array = np.ascontiguousarray(frames[0] if len(frames) == 1 else np.concatenate(frames), dtype="<f4")
    return rows.reshape(-1).view(np.uint8).data


# ---- decode -----------------------------------------------------------------------------------------------


def decode_tensors(tag: str, fields: list[Any], tensors: Sequence[Frame]) -> Segments | Updates | Tapped:
    """The message of this tag. Raises DecodeError."""
    if tag == Segments.tag:
        return _decode_segments(fields, tensors)
    return _decode_updates(fields, tensors) if tag == Updates.tag else _decode_tapped(fields, tensors)


def _decode_segments(fields: list[Any], tensors: Sequence[Frame]) -> Segments:
    if not fields or not isinstance(fields[0], list):
        raise malformed("segments: groups is not an array")
    groups = fields[0]
    if len(groups) > MAX_GROUPS:
        raise DecodeError("too_large", f"segments: {len(groups)} groups, more than {MAX_GROUPS}")
    if len(groups) != len(tensors):
        raise malformed(f"segments: {len(groups)} groups but {len(tensors)} tensor frames")
    n_bytes = sum(map(len, tensors))
    if n_bytes > MAX_MESSAGE_BYTES:
        raise DecodeError("too_large", f"segments: {n_bytes} bytes of frames, more than {MAX_MESSAGE_BYTES}")
    decoded = []
    n_segments = 0
    for place, group in enumerate(groups):
        session, stream, oldest, dtype, rows = _group_fields(group)
        n_segments += len(rows)
        if n_segments > MAX_SEGMENTS:
            raise DecodeError("too_large", f"segments: {n_segments} segments or more, {MAX_SEGMENTS} at most")
        entries = _decode_entries(rows, dtype, tensors[place])
        decoded.append(tuple_of(StreamSegments, (session, stream, oldest, entries)))
    return Segments(tuple(decoded))


def _group_fields(group: Any) -> tuple[str, str, int, str, list[Any]]:
    if type(group) is list and len(group) >= 5:  # twice as fast as a pattern
        session, stream, oldest, dtype, rows = group[:5]
        are_right = type(session) is str and type(stream) is str and type(oldest) is int and type(dtype) is str
        if are_right and 0 < oldest <= MAX_SEQUENCE and type(rows) is list and rows:
            return session, stream, oldest, dtype, rows
    raise malformed("segments: a group is not [session, stream, oldest, dtype, [[sequence, event time, T], ...]]")


def _decode_entries(rows: list[Any], dtype: str, tensor: Frame) -> tuple[SegmentEntry, ...]:
    total = 0
    for row in rows:
        if type(row) is not list or len(row) < 3:
            raise malformed(_NO_ENTRY)
        sequence, event_time_s, length = row[:3]
        if type(sequence) is not int or type(event_time_s) not in (float, int) or type(length) is not int or length < 0:
            raise malformed(_NO_ENTRY)
        if not 0 < sequence <= MAX_SEQUENCE:
            raise malformed(f"segments: sequence {sequence} is outside 1 .. 2**62")
        if not -MAX_EVENT_TIME_S < event_time_s < MAX_EVENT_TIME_S:
            raise malformed(f"segments: event time {event_time_s} is not a finite number of seconds below 1e+15")
        total += length
    frames = _decode_tensor(tensor, dtype, total)
    if len(rows) == 1:
        return (tuple_of(SegmentEntry, (rows[0][0], float(rows[0][1]), frames)),)
    entries, start = [], 0
    for row in rows:
        stop = start + row[2]
        entries.append(tuple_of(SegmentEntry, (row[0], float(row[1]), frames[start:stop])))
        start = stop
    return tuple(entries)


def _decode_tensor(tensor: Frame, dtype: str, rows: int) -> Float32Array:
    convert = _DTYPES.get(dtype)
    if convert is None:
        raise malformed(f"segments: dtype {brief(dtype)}, expected one of {', '.join(_DTYPES)}")
    if rows == 0:
        if len(tensor):
            raise malformed(f"segments: {len(tensor)} bytes for no frames at all")
        return np.empty((0, 0), dtype=np.float32)
    row_bytes, rest = divmod(len(tensor), rows)
    item_bytes = 4 if dtype == "f32" else 2
    if rest or row_bytes % item_bytes or not row_bytes:
        raise malformed(f"segments: {len(tensor)} bytes are no {rows} frames of {dtype}")
    return convert((rows, row_bytes // item_bytes), tensor)


def _from_f32(shape: tuple[int, int], tensor: Frame) -> Float32Array:
    values: Float32Array = np.ndarray(shape, _F32, tensor)  # a view in one call
    return values


def _from_f16(shape: tuple[int, int], tensor: Frame) -> Float32Array:
    return np.frombuffer(tensor, np.float16).astype(np.float32).reshape(shape)


def _from_bf16(shape: tuple[int, int], tensor: Frame) -> Float32Array:
    bits = np.left_shift(np.frombuffer(tensor, np.uint16), 16, dtype=np.uint32)
    return bits.view(np.float32).reshape(shape)


_F32 = np.dtype(np.float32)
_DTYPES: dict[str, Callable[[tuple[int, int], Frame], Float32Array]] = {
    "f32": _from_f32,
    "f16": _from_f16,
    "bf16": _from_bf16,
}


def _decode_tapped(fields: list[Any], tensors: Sequence[Frame]) -> Tapped:
    if len(fields) >= 8 and len(tensors) == 1:
        *values, length = fields[:8]
        if type(length) is int and length > 0 and all(map(is_of, values, _TAPPED_TYPES)):
            frames = _decode_tensor(tensors[0], "f32", length)
            return Tapped(**dict(zip(_TAPPED, values, strict=True)), frames=frames)
    raise malformed("tapped: not [session, stream, modality, sequence, event time, arrival, missed, T] and a tensor")


def _decode_updates(fields: list[Any], tensors: Sequence[Frame]) -> Updates:
    if len(tensors) != 1 or not fields or not isinstance(fields[0], list) or not fields[0]:
        raise malformed("updates: not an array of rows and one tensor frame")
    rows = fields[0]
    numbers = _decode_tensor(tensors[0], "f32", 2 * len(rows))
    return Updates(tuple(_decode_update(row, numbers[2 * at], numbers[2 * at + 1]) for at, row in enumerate(rows)))


def _decode_update(row: Any, live: Float32Array, settled: Float32Array) -> UpdateRow:
    if isinstance(row, list) and len(row) >= len(_UPDATE_TYPES):
        values = row[: len(_UPDATE_TYPES)]
        if all(map(is_of, values, _UPDATE_TYPES)) and all(is_of(seen_s, float) for seen_s in values[_FRESHNESS]):
            return UpdateRow._make([*values, live, settled])
    raise malformed("updates: a row is not the fields of UpdateRow up to the reason of a reset")
