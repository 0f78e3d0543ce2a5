"""What is stored of a session: its settled context and, in the same atomic write, the sequence marks that go with it.

A record is one msgpack array behind a format number. Records read back are not trusted: `decode_record` returns one
that can be stored and told again, or raises RecordError naming what cannot be; `check_fits` compares it with a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, NamedTuple

import msgpack
import numpy as np

from grf_core.step import ModelSignature
from runtime.keys import SessionKey
from runtime.messages import Float32Array
from runtime.packer import pack
from runtime.wire_values import MAX_SEQUENCE

RECORD_FORMAT = 1
FLOAT32 = np.dtype("<f4")


class RecordError(ValueError):
    """Bytes in the store that are no record of this version."""


class StreamRecord(NamedTuple):
    """As it is stored, too."""

    stream: str
    modality: str
    settled_upto: int
    """all sequence numbers up to this one are settled"""
    settled_above: tuple[int, ...]
    """and these few above it"""
    newest_s: float
    """newest settled event time, -inf before the first"""
    refused: tuple[tuple[int, str], ...] = ()
    """numbers refused for good and their codes, until the publisher is known to have been told"""
    numbering: int = 0
    """tells the publishers apart that numbered its segments, one after another; 0 if it is older than such marks"""
    owner: str = ""
    """the connection that has it open; it means something to the worker that saved it, and to no other"""


class HistoryRow(NamedTuple):
    """One settled version of a session."""

    version: int
    event_time_s: float
    modality: str
    outputs: tuple[float, ...]
    shares: tuple[float, ...]
    gate: float


@dataclass(slots=True)
class SessionRecord:
    key: SessionKey
    model_digest: str
    incarnation: str
    """of the worker that saved it"""
    version: int
    """how many segments are in the context"""
    event_time_s: float
    watermark_s: float
    lineage: bytes
    context_KD: Float32Array | None
    """[K, D]; None while nothing has settled"""
    outputs: tuple[float, ...]
    shares: tuple[float, ...]
    gate: float
    freshness_s: dict[str, float]
    """newest settled event time of each modality that has one"""
    streams: tuple[StreamRecord, ...]
    reset_reason: str = ""
    born: int = 0
    """tells this session from one of its name that was deleted; 0 if it is older than such marks"""
    history: Sequence[HistoryRow] = ()
    """settled since the record was saved last, oldest first; kept beside the record, not in it"""
    sealed: bytes = field(default=b"", compare=False, repr=False)
    """what is stored of the record, if that was made ahead (`runtime.store.sealing.seal_ahead`)"""
    sealed_history: bytes = field(default=b"", compare=False, repr=False)
    """what is stored of its history, likewise"""


def encode_record(record: SessionRecord) -> bytes:
    """All of a record but its key and its history."""
    context = record.context_KD
    fields = [
        RECORD_FORMAT,
        record.model_digest,
        record.incarnation,
        record.version,
        record.event_time_s,
        record.watermark_s,
        record.lineage,
        None if context is None else [context.shape, np.asarray(context, FLOAT32).tobytes()],
        record.outputs,
        record.shares,
        record.gate,
        record.freshness_s,
        record.streams,
        record.reset_reason,
        record.born,
    ]
    return pack(fields)


def decode_record(key: SessionKey, data: bytes) -> SessionRecord:
    try:
        fields = msgpack.unpackb(data)
        if fields[0] != RECORD_FORMAT:
            raise RecordError(f"{key}: record format {fields[0]!r}, this version reads {RECORD_FORMAT}")
        return _record(key, *fields[1:])
    except RecordError:
        raise
    except Exception as error:  # any shape of foreign bytes may come out of a store
        raise RecordError(f"{key}: {error or type(error).__name__}") from None


def _record(
    key: SessionKey,
    model_digest: str,
    incarnation: str,
    version: int,
    event_time_s: float,
    watermark_s: float,
    lineage: bytes,
    context: list[Any] | None,
    outputs: list[float],
    shares: list[float],
    gate: float,
    freshness_s: dict[str, float],
    streams: list[list[Any]],
    reset_reason: str,
    born: int = 0,
) -> SessionRecord:
    if len(lineage) != 16:
        raise RecordError(f"{key}: damaged lineage")
    if not 0 <= born < 2**63:
        raise RecordError(f"{key}: damaged birth")
    return SessionRecord(
        key=key,
        model_digest=str(model_digest),
        incarnation=str(incarnation),
        version=count(version),
        event_time_s=time_s(event_time_s),
        watermark_s=time_s(watermark_s),
        lineage=bytes(lineage),
        context_KD=None if context is None else _context(key, *context),
        outputs=tuple(map(float, outputs)),
        shares=tuple(map(float, shares)),
        gate=float(gate),
        freshness_s={str(name): time_s(seen_s) for name, seen_s in freshness_s.items()},
        streams=tuple(_stream(*stream) for stream in streams),
        reset_reason=str(reset_reason),
        born=int(born),
    )


def _stream(
    stream: str,
    modality: str,
    upto: int,
    above: list[int],
    newest_s: float,
    refused: list[list[Any]],
    numbering: int = 0,
    owner: str = "",
) -> StreamRecord:
    if not 0 <= numbering < 2**63:
        raise ValueError("damaged numbering")
    told = tuple((count(sequence), str(code)) for sequence, code in refused)
    marks = count(upto), tuple(map(count, above)), time_s(newest_s), told, int(numbering), str(owner)
    return StreamRecord(str(stream), str(modality), *marks)


def _context(key: SessionKey, shape: list[int], data: bytes) -> Float32Array:
    slots, width = shape
    context: Float32Array = np.frombuffer(data, dtype="<f4").reshape(slots, width)
    if not np.isfinite(context).all():
        raise RecordError(f"{key}: the context is not finite")
    return context


def count(value: int) -> int:
    """A version or a sequence number, which are told as such. Raises RecordError for what is none."""
    if not 0 <= value <= MAX_SEQUENCE:
        raise RecordError(f"{value} is no version and no sequence number")
    return int(value)


def time_s(value: float) -> float:
    if isnan(value):
        raise RecordError("a time is not a number")
    return float(value)


def check_fits(record: SessionRecord, signature: ModelSignature) -> None:
    """Raises RecordError for a context that contradicts the model of the same digest."""
    if record.context_KD is None:
        return
    if record.context_KD.shape != signature.context_shape:
        raise RecordError(f"{record.key}: context {record.context_KD.shape}, the model has {signature.context_shape}")
    if len(record.outputs) != signature.output_width or len(record.shares) != len(signature.modalities):
        raise RecordError(f"{record.key}: outputs or shares do not fit the model")
