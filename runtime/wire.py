"""Messages <-> frames. Pure: no socket, no clock.

A message is a msgpack header `[version, tag, *fields]`, followed by raw little-endian tensor frames: one per
`StreamSegments`, the rows of all its segments one after another. `docs/protocol.md` describes every message.

Whatever bytes come in, `decode` returns a Message or raises DecodeError: peers are not trusted.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from runtime.messages import Ack, Message, Segments, StreamAck, Tapped, Updates
from runtime.packer import pack
from runtime.wire_tensors import decode_tensors, encode_tensors
from runtime.wire_values import (
    CHECKS,
    MAX_EVENT_TIME_S,
    MAX_GROUPS,
    MAX_MESSAGE_BYTES,
    MAX_SEGMENTS,
    MAX_SEQUENCE,
    NUMBER,
    DecodeError,
    Frame,
    brief,
    is_of,
    malformed,
)

__all__ = [
    "MAX_EVENT_TIME_S",
    "MAX_GROUPS",
    "MAX_HEADER_BYTES",
    "MAX_MESSAGE_BYTES",
    "MAX_SEGMENTS",
    "MAX_SEQUENCE",
    "PROTOCOL_VERSION",
    "DecodeError",
    "Frame",
    "decode",
    "encode",
]

PROTOCOL_VERSION = 1
MAX_HEADER_BYTES = 1 << 20

# ---- encode -----------------------------------------------------------------------------------------------


def encode(message: Message) -> list[Frame]:
    """The frames of a message: the header first, then its tensors."""
    match message:
        case Segments() | Updates() | Tapped():
            header, tensors = encode_tensors(message)
            return [pack([PROTOCOL_VERSION, message.tag, *header]), *tensors]
        case Ack(streams):
            return [pack([PROTOCOL_VERSION, Ack.tag, streams])]
        case _:
            fields = [getattr(message, name) for name in _FIELDS[message.tag]]
            return [pack([PROTOCOL_VERSION, message.tag, *fields])]


# ---- decode -----------------------------------------------------------------------------------------------


def decode(frames: Sequence[Frame], max_header_bytes: int = MAX_HEADER_BYTES) -> Message:
    """The message in these frames. Tensors are read-only views of the frames where the dtype allows.

    A client admits larger headers than a worker does: a page of history may need it. Raises DecodeError when the
    frames are no message of this protocol.
    """
    if not frames:
        raise malformed("no frames")
    tag, fields = _header(frames[0], max_header_bytes)
    tensors = frames[1:]
    if tag in (Segments.tag, Updates.tag, Tapped.tag):
        return decode_tensors(tag, fields, tensors)
    if tensors:
        raise malformed(f"{tag}: {len(tensors)} tensor frames, expected none")
    if tag == Ack.tag:
        return _decode_ack(fields)
    if tag not in _PLAIN:
        raise malformed(f"unknown message {brief(tag)}")
    return _decode_plain(tag, fields)


def _header(frame: Frame, max_bytes: int) -> tuple[str, list[Any]]:
    if len(frame) > max_bytes:
        raise DecodeError("too_large", f"header of {len(frame)} bytes, more than {max_bytes}")
    try:
        header = msgpack.unpackb(frame, strict_map_key=True)
    except Exception as error:  # msgpack documents no closed set of exceptions
        raise malformed(f"header is not msgpack: {str(error) or type(error).__name__}") from None
    if not isinstance(header, list) or len(header) < 2:
        raise malformed("header is not an array of version, tag and fields")
    version, tag, *fields = header
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise DecodeError("version", f"protocol version {brief(version)}, this side speaks {PROTOCOL_VERSION}")
    if type(tag) is not str:
        raise malformed("tag is not text")
    return tag, fields


def _decode_ack(fields: list[Any]) -> Ack:
    if not fields or not isinstance(fields[0], list):
        raise malformed("ack: streams is not an array")
    streams = []
    for row in fields[0]:
        match row:
            case [str(session), str(stream), fused, durable, version, *rest] if (
                is_of(fused, int) and is_of(durable, int) and is_of(version, int)
            ):
                taken = rest[0] if rest and is_of(rest[0], int) else fused
                streams.append(StreamAck(session, stream, fused, durable, version, taken))
            case _:
                raise malformed("ack: an entry is not [session, stream, fused, durable, version, taken]")
    return Ack(tuple(streams))


# ---- all other messages: one field after another ------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _PlainMessage:
    build: Callable[..., Message]
    fields: tuple[tuple[str, Callable[[Any], bool], str], ...]
    """name, is this value of the right type, the type's name"""
    required: int


def _plain(kind: type[Any]) -> _PlainMessage:
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    no_default = dataclasses.MISSING
    return _PlainMessage(
        build=kind,
        fields=tuple((field.name, *CHECKS[hints[field.name]]) for field in fields),
        required=sum(field.default is no_default and field.default_factory is no_default for field in fields),
    )


_PLAIN = {kind.tag: _plain(kind) for kind in typing.get_args(Message) if kind not in (Segments, Ack, Tapped, Updates)}

_FIELDS = {tag: [name for name, _, _ in plain.fields] for tag, plain in _PLAIN.items()}


def _decode_plain(tag: str, values: list[Any]) -> Message:
    plain = _PLAIN[tag]
    if len(values) < plain.required:
        raise malformed(f"{tag}: {len(values)} fields, at least {plain.required} expected")
    taken = []
    for value, (name, is_right, expected) in zip(values, plain.fields, strict=False):
        if not is_right(value):
            raise malformed(f"{tag}: {name} is not {expected}")
        taken.append(float(value) if expected == NUMBER else value)
    return plain.build(*taken)
