"""Messages <-> frames. Pure: no socket, no clock.

A message is a msgpack header `[version, tag, *fields]`, followed by raw little-endian tensor frames: one per
`StreamSegments`, the rows of all its segments one after another. `docs/protocol.md` describes every message.

Whatever bytes come in, `decode` returns a Message or raises DecodeError: peers are not trusted.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
import typing
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import numpy as np

from runtime import messages
from runtime.messages import (
    Ack,
    Float32Array,
    Message,
    SegmentEntry,
    Segments,
    StreamAck,
    StreamSegments,
    Tapped,
    UpdateRow,
    Updates,
)

PROTOCOL_VERSION = 1
MAX_HEADER_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 16 << 20
MAX_GROUPS = 4096
MAX_SEGMENTS = 4096
"""in one message: each costs time, however empty"""
MAX_SEQUENCE = 2**62
MAX_EVENT_TIME_S = 1e15
"""either way: beyond it a float does not tell tenths of a second apart"""

assert sys.byteorder == "little", "tensor frames are little-endian views of host memory"

Frame = bytes | memoryview
_TAPPED = ("session", "stream", "modality", "sequence", "event_time_s", "arrival_s", "missed")
_NO_ENTRY = "segments: an entry is not [sequence, event time in seconds, T]"
_TAPPED_TYPES = (str, str, str, int, float, float, int)
_UPDATE_TYPES = (str, bool, int, int, float, int, float, int, float, int, list, bytes, str)
_FRESHNESS = UpdateRow._fields.index("freshness_s")


class DecodeError(ValueError):
    """A peer sent something that is not a message; `code` is the Nack code that tells it so."""

    def __init__(self, code: messages.FinalCode, text: str) -> None:
        super().__init__(text)
        self.code: messages.FinalCode = code


def _malformed(text: str) -> DecodeError:
    return DecodeError("malformed", text)


# ---- encode -----------------------------------------------------------------------------------------------


def encode(message: Message) -> list[Frame]:
    """The frames of a message: the header first, then its tensors."""
    match message:
        case Segments(groups):
            header = [PROTOCOL_VERSION, Segments.tag, [_group_header(group) for group in groups]]
            return [_pack(header), *(_group_tensor(group) for group in groups)]
        case Ack(streams):
            rows = [[a.session, a.stream, a.fused, a.durable, a.version, a.taken] for a in streams]
            return [_pack([PROTOCOL_VERSION, Ack.tag, rows])]
        case Updates(update_rows):
            numbers = [row for update in update_rows for row in (update.live, update.settled)]
            return [_pack([PROTOCOL_VERSION, Updates.tag, [update[:-2] for update in update_rows]]), _tensor(numbers)]
        case Tapped():
            header = [getattr(message, name) for name in _TAPPED]
            return [_pack([PROTOCOL_VERSION, Tapped.tag, *header, len(message.frames)]), _tensor([message.frames])]
        case _:
            fields = [getattr(message, name) for name in _FIELDS[message.tag]]
            return [_pack([PROTOCOL_VERSION, message.tag, *fields])]


class _PackerOfThread(threading.local):
    """`msgpack.packb` makes a packer each time, which takes longer than packing a short header."""

    def __init__(self) -> None:
        self.pack: Callable[[list[Any]], bytes] = msgpack.Packer().pack


_PACKER = _PackerOfThread()


def _pack(header: list[Any]) -> bytes:
    return _PACKER.pack(header)


def _group_header(group: StreamSegments) -> list[Any]:
    rows = [[entry.sequence, entry.event_time_s, len(entry.frames)] for entry in group.entries]
    return [group.session, group.stream, group.oldest, "f32", rows]


def _group_tensor(group: StreamSegments) -> Frame:
    return _tensor([entry.frames for entry in group.entries])


def _tensor(frames: list[Float32Array]) -> Frame:
    rows: Float32Array = np.ascontiguousarray(frames[0] if len(frames) == 1 else np.concatenate(frames), dtype="<f4")
    return rows.reshape(-1).view(np.uint8).data


# ---- decode -----------------------------------------------------------------------------------------------


def decode(frames: Sequence[Frame], max_header_bytes: int = MAX_HEADER_BYTES) -> Message:
    """The message in these frames. Tensors are read-only views of the frames where the dtype allows.

    A client admits larger headers than a worker does: a page of history may need it. Raises DecodeError when the
    frames are no message of this protocol.
    """
    if not frames:
        raise _malformed("no frames")
    tag, fields = _header(frames[0], max_header_bytes)
    tensors = frames[1:]
    if tag == Segments.tag:
        return _decode_segments(fields, tensors)
    if tag == Tapped.tag:
        return _decode_tapped(fields, tensors)
    if tag == Updates.tag:
        return _decode_updates(fields, tensors)
    if tensors:
        raise _malformed(f"{tag}: {len(tensors)} tensor frames, expected none")
    if tag == Ack.tag:
        return _decode_ack(fields)
    if tag not in _PLAIN:
        raise _malformed(f"unknown message {_brief(tag)}")
    return _decode_plain(tag, fields)


def _header(frame: Frame, max_bytes: int) -> tuple[str, list[Any]]:
    if len(frame) > max_bytes:
        raise DecodeError("too_large", f"header of {len(frame)} bytes, more than {max_bytes}")
    try:
        header = msgpack.unpackb(frame, strict_map_key=True)
    except Exception as error:  # msgpack documents no closed set of exceptions
        raise _malformed(f"header is not msgpack: {str(error) or type(error).__name__}") from None
    if not isinstance(header, list) or len(header) < 2:
        raise _malformed("header is not an array of version, tag and fields")
    version, tag, *fields = header
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise DecodeError("version", f"protocol version {_brief(version)}, this side speaks {PROTOCOL_VERSION}")
    if type(tag) is not str:
        raise _malformed("tag is not text")
    return tag, fields


def _brief(value: Any) -> str:
    """What a peer sent, for a text: it may be of any size, and nested deeper than `repr` can follow."""
    return repr(value)[:80] if type(value) in (int, float, str) else f"of type {type(value).__name__}"


def _decode_segments(fields: list[Any], tensors: Sequence[Frame]) -> Segments:
    if not fields or not isinstance(fields[0], list):
        raise _malformed("segments: groups is not an array")
    groups = fields[0]
    if len(groups) > MAX_GROUPS:
        raise DecodeError("too_large", f"segments: {len(groups)} groups, more than {MAX_GROUPS}")
    if len(groups) != len(tensors):
        raise _malformed(f"segments: {len(groups)} groups but {len(tensors)} tensor frames")
    n_bytes = sum(map(len, tensors))
    if n_bytes > MAX_MESSAGE_BYTES:
        raise DecodeError("too_large", f"segments: {n_bytes} bytes of frames, more than {MAX_MESSAGE_BYTES}")
    decoded = []
    n_segments = 0
    for group, tensor in zip(groups, tensors, strict=True):
        session, stream, oldest, dtype, rows = _group_fields(group)
        n_segments += len(rows)
        if n_segments > MAX_SEGMENTS:
            raise DecodeError("too_large", f"segments: {n_segments} segments or more, {MAX_SEGMENTS} at most")
        decoded.append(StreamSegments(session, stream, oldest, _decode_entries(rows, dtype, tensor)))
    return Segments(tuple(decoded))


def _group_fields(group: Any) -> tuple[str, str, int, str, list[Any]]:
    match group:
        case [str(session), str(stream), oldest, str(dtype), [_, *_] as rows, *_] if (
            type(oldest) is int and 0 < oldest <= MAX_SEQUENCE
        ):
            return session, stream, oldest, dtype, rows
    raise _malformed("segments: a group is not [session, stream, oldest, dtype, [[sequence, event time, T], ...]]")


def _decode_entries(rows: list[Any], dtype: str, tensor: Frame) -> tuple[SegmentEntry, ...]:
    total = 0
    for row in rows:
        if type(row) is not list or len(row) < 3:
            raise _malformed(_NO_ENTRY)
        sequence, event_time_s, length = row[:3]
        if type(sequence) is not int or type(event_time_s) not in (float, int) or type(length) is not int or length < 0:
            raise _malformed(_NO_ENTRY)
        if not 0 < sequence <= MAX_SEQUENCE:
            raise _malformed(f"segments: sequence {sequence} is outside 1 .. 2**62")
        if not -MAX_EVENT_TIME_S < event_time_s < MAX_EVENT_TIME_S:
            raise _malformed(f"segments: event time {event_time_s} is not a finite number of seconds")
        total += length
    frames = _decode_tensor(tensor, dtype, total)
    if len(rows) == 1:
        return (SegmentEntry(rows[0][0], float(rows[0][1]), frames),)
    entries, start = [], 0
    for row in rows:
        stop = start + row[2]
        entries.append(SegmentEntry(row[0], float(row[1]), frames[start:stop]))
        start = stop
    return tuple(entries)


def _decode_tensor(tensor: Frame, dtype: str, rows: int) -> Float32Array:
    convert = _DTYPES.get(dtype)
    if convert is None:
        raise _malformed(f"segments: dtype {_brief(dtype)}, expected one of {', '.join(_DTYPES)}")
    if rows == 0:
        if len(tensor):
            raise _malformed(f"segments: {len(tensor)} bytes for no frames at all")
        return np.empty((0, 0), dtype=np.float32)
    row_bytes, rest = divmod(len(tensor), rows)
    item_bytes = 4 if dtype == "f32" else 2
    if rest or row_bytes % item_bytes or not row_bytes:
        raise _malformed(f"segments: {len(tensor)} bytes are no {rows} frames of {dtype}")
    return convert(tensor).reshape(rows, row_bytes // item_bytes)


def _from_f32(tensor: Frame) -> Float32Array:
    return np.frombuffer(tensor, dtype=np.float32)


def _from_f16(tensor: Frame) -> Float32Array:
    return np.frombuffer(tensor, dtype=np.float16).astype(np.float32)


def _from_bf16(tensor: Frame) -> Float32Array:
    bits = np.left_shift(np.frombuffer(tensor, dtype=np.uint16), 16, dtype=np.uint32)
    return bits.view(np.float32)


_DTYPES: dict[str, Callable[[Frame], Float32Array]] = {"f32": _from_f32, "f16": _from_f16, "bf16": _from_bf16}


def _decode_ack(fields: list[Any]) -> Ack:
    if not fields or not isinstance(fields[0], list):
        raise _malformed("ack: streams is not an array")
    streams = []
    for row in fields[0]:
        match row:
            case [str(session), str(stream), fused, durable, version, *rest] if (
                _is_of(fused, int) and _is_of(durable, int) and _is_of(version, int)
            ):
                taken = rest[0] if rest and _is_of(rest[0], int) else fused
                streams.append(StreamAck(session, stream, fused, durable, version, taken))
            case _:
                raise _malformed("ack: an entry is not [session, stream, fused, durable, version, taken]")
    return Ack(tuple(streams))


def _decode_tapped(fields: list[Any], tensors: Sequence[Frame]) -> Tapped:
    if len(fields) >= 8 and len(tensors) == 1:
        *values, length = fields[:8]
        if type(length) is int and length > 0 and all(map(_is_of, values, _TAPPED_TYPES)):
            frames = _decode_tensor(tensors[0], "f32", length)
            return Tapped(**dict(zip(_TAPPED, values, strict=True)), frames=frames)
    raise _malformed("tapped: not [session, stream, modality, sequence, event time, arrival, missed, T] and a tensor")


def _decode_updates(fields: list[Any], tensors: Sequence[Frame]) -> Updates:
    if len(tensors) != 1 or not fields or not isinstance(fields[0], list) or not fields[0]:
        raise _malformed("updates: not an array of rows and one tensor frame")
    rows = fields[0]
    numbers = _decode_tensor(tensors[0], "f32", 2 * len(rows))
    return Updates(tuple(_decode_update(row, numbers[2 * at], numbers[2 * at + 1]) for at, row in enumerate(rows)))


def _decode_update(row: Any, live: Float32Array, settled: Float32Array) -> UpdateRow:
    if isinstance(row, list) and len(row) >= len(_UPDATE_TYPES):
        values = row[: len(_UPDATE_TYPES)]
        if all(map(_is_of, values, _UPDATE_TYPES)) and all(_is_of(seen_s, float) for seen_s in values[_FRESHNESS]):
            return UpdateRow._make([*values, live, settled])
    raise _malformed("updates: a row is not the fields of UpdateRow up to the reason of a reset")


def _is_of(value: Any, kind: type) -> bool:
    return _CHECKS[kind][0](value)


# ---- all other messages: one field after another ------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _PlainMessage:
    build: Callable[..., Message]
    fields: tuple[tuple[str, Callable[[Any], bool], str], ...]
    """name, is this value of the right type, the type's name"""
    required: int


_NUMBER = "a number"
"""an integer stands for a float of the same value"""
_CHECKS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (lambda value: type(value) is int and -(2**63) <= value < 2**63, "an integer"),
    float: (lambda value: type(value) in (int, float) and not math.isnan(value), _NUMBER),
    str: (lambda value: type(value) is str, "text"),
    bool: (lambda value: type(value) is bool, "true or false"),
    list: (lambda value: type(value) is list, "an array"),
    bytes: (lambda value: type(value) is bytes, "bytes"),
    dict[str, Any]: (lambda value: isinstance(value, dict), "a map"),
    list[str]: (lambda value: isinstance(value, list) and all(type(item) is str for item in value), "texts"),
    list[dict[str, Any]]: (lambda value: isinstance(value, list) and all(isinstance(m, dict) for m in value), "maps"),
}


def _plain(kind: type[Any]) -> _PlainMessage:
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    no_default = dataclasses.MISSING
    return _PlainMessage(
        build=kind,
        fields=tuple((field.name, *_CHECKS[hints[field.name]]) for field in fields),
        required=sum(field.default is no_default and field.default_factory is no_default for field in fields),
    )


_PLAIN = {kind.tag: _plain(kind) for kind in typing.get_args(Message) if kind not in (Segments, Ack, Tapped, Updates)}

_FIELDS = {tag: [name for name, _, _ in plain.fields] for tag, plain in _PLAIN.items()}


def _decode_plain(tag: str, values: list[Any]) -> Message:
    plain = _PLAIN[tag]
    if len(values) < plain.required:
        raise _malformed(f"{tag}: {len(values)} fields, at least {plain.required} expected")
    taken = []
    for value, (name, is_right, expected) in zip(values, plain.fields, strict=False):
        if not is_right(value):
            raise _malformed(f"{tag}: {name} is not {expected}")
        taken.append(float(value) if expected == _NUMBER else value)
    return plain.build(*taken)
