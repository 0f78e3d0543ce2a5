"""The records of a recording and their bytes, as docs/recording.md lays them down. Pure: no file is opened here.

A chunk is PREFIX, a msgpack header and a raw little-endian float32 payload. Whatever does not fit is a `ValueError`
with the reason; `grf_core.recording` adds where in the file it stands.

Evolution: new header fields come last and have defaults, no field changes its type, no name is used again, and a reader
skips fields and chunk kinds it does not know. Anything else is a new format version.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from reprlib import repr as brief  # of whatever depth
from typing import Any, TypeGuard

import msgpack
import numpy as np

from grf_core.step import Float32Array

MAGIC = b"\x89GRFREC\n"
FORMAT_VERSION = 1
PREFIX = struct.Struct("<III")
"""Header bytes, payload bytes, crc32 of header and payload."""
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 64 << 20
MAX_MODALITIES = 1_024
MAX_LABELS = 1_024
MAX_WIDTH = 65_536
MAX_TEXT_BYTES = 4_096
MAX_SEQUENCE = 1 << 62
DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class RecordingHead:
    title: str
    source: str
    licence: str
    modalities: Mapping[str, int]
    """Frame width by name."""


@dataclass(frozen=True, slots=True)
class RecordedSession:
    session: str
    labels: Mapping[str, str | float] = field(default_factory=dict)
    """By head: a class label, or a value in its own unit."""
    tenant: str = DEFAULT_TENANT
    event_time_s: float | None = None
    """From when on these labels hold, each until the next of its head; None for the whole session."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedSegment:
    session: str
    stream: str
    modality: str
    sequence: int
    event_time_s: float
    frames: Float32Array
    """[T, F], T >= 1, finite"""
    arrival_s: float | None = None
    """When it reached the recorder, on the clock of the event times."""
    tenant: str = DEFAULT_TENANT


Record = RecordedSession | RecordedSegment


def encode_head(head: RecordingHead) -> bytes:
    check_head(head)
    fields = {
        "kind": "head",
        "version": FORMAT_VERSION,
        "title": head.title,
        "source": head.source,
        "licence": head.licence,
        "modalities": dict(head.modalities),
    }
    return _chunk(fields, b"")


def encode_record(record: Record, head: RecordingHead) -> bytes:
    """One whole chunk. A record that a reader would refuse is refused. NumPy's numbers are numbers."""
    record = _in_plain_numbers(record)
    check_record(record, head)
    if isinstance(record, RecordedSession):
        return _chunk(_session_fields(record), b"")
    fields = {
        "kind": "segment",
        "tenant": record.tenant,
        "session": record.session,
        "stream": record.stream,
        "modality": record.modality,
        "sequence": record.sequence,
        "event_time_s": float(record.event_time_s),
        "arrival_s": record.arrival_s,
        "shape": list(record.frames.shape),
    }
    return _chunk(fields, np.ascontiguousarray(record.frames, dtype="<f4").tobytes())


def _in_plain_numbers(record: Record) -> Record:
    if isinstance(record, RecordedSession):
        labels = record.labels
        if isinstance(labels, Mapping):
            labels = {name: _plain(value) for name, value in labels.items()}
        return replace(record, labels=labels, event_time_s=_plain(record.event_time_s))
    sequence, event_time_s, arrival_s = map(_plain, (record.sequence, record.event_time_s, record.arrival_s))
    return replace(record, sequence=sequence, event_time_s=event_time_s, arrival_s=arrival_s)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _session_fields(record: RecordedSession) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "kind": "session",
        "tenant": record.tenant,
        "session": record.session,
        "labels": dict(record.labels),
    }
    if record.event_time_s is not None:
        fields["event_time_s"] = float(record.event_time_s)
    return fields


def decode_head(header: bytes) -> RecordingHead:
    fields = _fields(header)
    if fields.get("kind") != "head":
        raise ValueError("the first chunk is not the head")
    if fields.get("version") != FORMAT_VERSION:
        raise ValueError(f"format version {brief(fields.get('version')):.20}, and {FORMAT_VERSION} is what we read")
    head = RecordingHead(
        _required(fields, "title"),
        _required(fields, "source"),
        _required(fields, "licence"),
        _required(fields, "modalities"),
    )
    check_head(head)
    return head


def decode_record(header: bytes, payload: bytes, head: RecordingHead) -> Record | None:
    """The record of a chunk whose checksum fits; None for a kind that a later version may have added."""
    fields = _fields(header)
    record: Record
    match fields.get("kind"):
        case "session":
            record = RecordedSession(
                session=_required(fields, "session"),
                labels=_required(fields, "labels"),
                tenant=fields.get("tenant", DEFAULT_TENANT),
                event_time_s=fields.get("event_time_s"),
            )
        case "segment":
            record = RecordedSegment(
                session=_required(fields, "session"),
                stream=_required(fields, "stream"),
                modality=_required(fields, "modality"),
                sequence=_required(fields, "sequence"),
                event_time_s=_required(fields, "event_time_s"),
                frames=_frames(_required(fields, "shape"), payload),
                arrival_s=fields.get("arrival_s"),
                tenant=fields.get("tenant", DEFAULT_TENANT),
            )
        case "head":
            raise ValueError("a second head")
        case _:
            return None
    check_record(record, head)
    return record


def check_head(head: RecordingHead) -> None:
    for name in ("title", "source", "licence"):
        _check_text(name, getattr(head, name), empty=True)
    if not isinstance(head.modalities, Mapping) or not 1 <= len(head.modalities) <= MAX_MODALITIES:
        raise ValueError(f"modalities is not a map of 1 to {MAX_MODALITIES} entries")
    for name, width in head.modalities.items():
        _check_text("modality", name)
        if not _is_int(width) or not 1 <= width <= MAX_WIDTH:
            raise ValueError(f"modality {name!r:.60}: width {brief(width):.20} is not from 1 to {MAX_WIDTH}")


def check_record(record: Record, head: RecordingHead) -> None:
    _check_text("tenant", record.tenant)
    _check_text("session", record.session)
    if isinstance(record, RecordedSession):
        _check_labels(record.labels)
        if record.event_time_s is not None and not _is_finite(record.event_time_s):
            raise ValueError(f"event_time_s {brief(record.event_time_s):.30} is not a finite number")
    else:
        _check_segment(record, head)


def check_sizes(header_bytes: int, payload_bytes: int) -> None:
    if not 1 <= header_bytes <= MAX_HEADER_BYTES:
        raise ValueError(f"a header of {header_bytes} bytes; 1 to {MAX_HEADER_BYTES} are possible")
    if payload_bytes > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a payload of {payload_bytes} bytes; the limit is {MAX_PAYLOAD_BYTES}")


def _check_labels(labels: object) -> None:
    if not isinstance(labels, Mapping) or len(labels) > MAX_LABELS:
        raise ValueError(f"labels is not a map of at most {MAX_LABELS} entries")
    for name, value in labels.items():
        _check_text("label", name)
        if isinstance(value, str):
            _check_text(f"label {name!r:.60}", value, empty=True)
        elif not _is_finite(value):
            raise ValueError(f"label {name!r:.60} is neither text nor a finite number")


def _check_segment(segment: RecordedSegment, head: RecordingHead) -> None:
    _check_text("stream", segment.stream)
    _check_text("modality", segment.modality)
    if segment.modality not in head.modalities:
        raise ValueError(f"modality {segment.modality!r:.60} is not in the head")
    if not _is_int(segment.sequence) or not 1 <= segment.sequence <= MAX_SEQUENCE:
        raise ValueError(f"sequence {brief(segment.sequence):.30} is not a whole number from 1 to {MAX_SEQUENCE}")
    if not _is_finite(segment.event_time_s):
        raise ValueError(f"event_time_s {brief(segment.event_time_s):.30} is not a finite number")
    if segment.arrival_s is not None and not _is_finite(segment.arrival_s):
        raise ValueError(f"arrival_s {brief(segment.arrival_s):.30} is not a finite number")
    if not isinstance(segment.frames, np.ndarray) or segment.frames.dtype != np.float32:
        kind = getattr(segment.frames, "dtype", type(segment.frames).__name__)
        raise ValueError(f"frames are {kind!s:.30}, not an array of float32")
    shape, width = segment.frames.shape, head.modalities[segment.modality]
    if len(shape) != 2 or shape[0] < 1 or shape[1] != width:
        raise ValueError(f"shape {list(shape)} is not [T, {width}], the width of {segment.modality!r:.60}")
    if not np.isfinite(segment.frames).all():
        raise ValueError("frames are not all finite: what is missing has to be filled, or left out")


def _check_text(name: str, value: object, *, empty: bool = False) -> None:
    if not isinstance(value, str) or not (value or empty):
        raise ValueError(f"{name} {brief(value):.60} is not text")
    if len(value.encode()) > MAX_TEXT_BYTES:
        raise ValueError(f"{name} is longer than {MAX_TEXT_BYTES} bytes")


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return (_is_int(value) or isinstance(value, float)) and math.isfinite(value)


def _frames(shape: object, payload: bytes) -> Float32Array:
    if not isinstance(shape, list) or len(shape) != 2 or not all(_is_int(n) and 1 <= n < 1 << 32 for n in shape):
        raise ValueError(f"shape {brief(shape):.60} is not [T, F]")
    if 4 * shape[0] * shape[1] != len(payload):
        raise ValueError(f"{len(payload)} bytes of payload for shape {shape}")
    return np.frombuffer(payload, dtype="<f4").astype(np.float32, copy=False).reshape(shape)


def checksum(header: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(header))


def _chunk(fields: Mapping[str, Any], payload: bytes) -> bytes:
    header: bytes = msgpack.packb(fields)
    check_sizes(len(header), len(payload))
    return PREFIX.pack(len(header), len(payload), checksum(header, payload)) + header + payload


def _fields(header: bytes) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(header)
    except (ValueError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"the header is not msgpack: {error!s:.100}") from None
    if not isinstance(fields, dict):
        raise ValueError("the header is not a map")
    return fields


def _required(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"{name} is missing")
    return fields[name]
