from __future__ import annotations

import dataclasses
from math import inf, nan
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.keys import SessionKey
from runtime.records import (
    RecordError,
    SessionRecord,
    StreamRecord,
    decode_record,
    encode_record,
)

KEY = SessionKey("north", "1")
times = st.floats(allow_nan=False)
counts = st.integers(0, 2**62)
numbers = st.lists(st.floats(allow_nan=False), max_size=4).map(tuple)
streams = st.builds(
    StreamRecord,
    stream=st.text(),
    modality=st.text(),
    settled_upto=counts,
    settled_above=st.lists(counts, max_size=3).map(tuple),
    newest_s=times,
    refused=st.lists(st.tuples(counts, st.text()), max_size=2).map(tuple),
    numbering=st.integers(0, 2**63 - 1),
    owner=st.text(),
)
records = st.builds(
    SessionRecord,
    key=st.just(KEY),
    model_digest=st.text(),
    incarnation=st.text(),
    version=counts,
    event_time_s=times,
    watermark_s=times,
    lineage=st.binary(min_size=16, max_size=16),
    context_KD=st.none()
    | hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=4),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    outputs=numbers,
    shares=numbers,
    gate=times,
    freshness_s=st.dictionaries(st.text(), times, max_size=3),
    streams=st.lists(streams, max_size=3).map(tuple),
    reset_reason=st.text(),
    born=st.integers(0, 2**63 - 1),
    history=st.just(()),
)


def plain(record: SessionRecord) -> dict[str, Any]:
    """A record to compare: arrays have no single truth."""
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    context = fields.pop("context_KD")
    return fields | {"context": None if context is None else (context.shape, context.tobytes())}


@settings(max_examples=200)
@given(records)
def test_a_record_is_read_back_as_it_was_written(record: SessionRecord) -> None:
    assert plain(decode_record(KEY, encode_record(record))) == plain(record)


def test_a_record_from_before_there_were_births_is_read() -> None:
    older = msgpack.packb(msgpack.unpackb(encode_record(dataclasses.replace(SAMPLE, born=7)))[:-1])
    assert plain(decode_record(KEY, older)) == plain(SAMPLE)


def test_a_stream_from_before_there_were_numberings_is_read() -> None:
    fields = msgpack.unpackb(encode_record(SAMPLE))
    stream = fields[FIELDS.index("streams")][0]
    assert len(stream) == len(StreamRecord._fields)
    del stream[-2:]  # numbering, owner
    assert plain(decode_record(KEY, msgpack.packb(fields))) == plain(SAMPLE)


# ---- what is not a record ----

SAMPLE = SessionRecord(
    key=KEY,
    model_digest="toy-1",
    incarnation="0",
    version=3,
    event_time_s=2.5,
    watermark_s=2.0,
    lineage=bytes(range(16)),
    context_KD=np.arange(4, dtype=np.float32).reshape(1, 4),
    outputs=(0.25, 0.75, 1.5),
    shares=(0.5, 0.25, 0.25),
    gate=0.5,
    freshness_s={"audio": 2.5},
    streams=(StreamRecord("mic", "audio", 3, (5,), 2.5, ((2, "late"),)),),
)
FIELDS = [field.name for field in dataclasses.fields(SessionRecord)]
FIELDS[FIELDS.index("key")] = "format"
FIELDS = [field for field in FIELDS if field not in ("history", "sealed", "sealed_history")]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4))
    | st.builds(msgpack.Timestamp, st.integers(0, 2**33), st.integers(0, 10**9 - 1)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def is_a_record_or_refused(data: bytes) -> None:
    try:
        record = decode_record(KEY, data)
    except RecordError:
        return
    assert plain(decode_record(KEY, encode_record(record))) == plain(record) or has_nan(record)
    assert record.event_time_s == record.event_time_s
    assert record.watermark_s == record.watermark_s
    assert record.context_KD is None or np.isfinite(record.context_KD).all()


def has_nan(record: SessionRecord) -> bool:
    return any(value != value for value in (record.gate, *record.outputs, *record.shares))


@settings(max_examples=300)
@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_a_record_or_refused(data: bytes) -> None:
    is_a_record_or_refused(data)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 300))
def test_a_damaged_record_is_a_record_or_refused(damage: list[tuple[int, int]], lost: int) -> None:
    data = bytearray(encode_record(SAMPLE))
    for place, byte in damage:
        data[place % len(data)] = byte
    is_a_record_or_refused(bytes(data[: max(0, len(data) - max(0, lost - 150))]))


@settings(max_examples=600)
@given(st.integers(1, len(FIELDS) - 1), values)
def test_a_record_with_any_value_in_any_field_is_a_record_or_refused(place: int, value: Any) -> None:
    fields = msgpack.unpackb(encode_record(SAMPLE))
    fields[place] = value
    is_a_record_or_refused(msgpack.packb(fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", -1),
        ("version", "3"),
        ("version", 2**62 + 1),
        ("freshness_s", {"audio": nan}),
        ("streams", [["mic", "audio", 2**63, [], 2.5, []]]),
        ("streams", [["mic", "audio", 3, [-1], 2.5, []]]),
        ("streams", [["mic", "audio", 3, [], nan, []]]),
        ("streams", [["mic", "audio", 3, [], 2.5, [[2**64 - 1, "late"]]]]),
        ("event_time_s", nan),
        ("watermark_s", nan),
        ("lineage", b"short"),
        ("context_KD", [[1, 4], b"\0" * 15]),
        ("context_KD", [[1, 5], b"\0" * 16]),
        ("context_KD", [[4], b"\0" * 16]),
        ("context_KD", [[1, 4], np.array([1, nan, 2, 3], np.float32).tobytes()]),
        ("context_KD", [[1, 4], np.array([1, inf, 2, 3], np.float32).tobytes()]),
        ("outputs", None),
        ("shares", [None]),
        ("freshness_s", []),
        ("streams", [["mic"]]),
        ("streams", [["mic", "audio", inf, [], 0.0, []]]),
    ],
)
def test_a_field_that_cannot_be_is_refused(field: str, value: object) -> None:
    fields = msgpack.unpackb(encode_record(SAMPLE))
    fields[FIELDS.index(field)] = value
    with pytest.raises(RecordError):
        decode_record(KEY, msgpack.packb(fields))


@pytest.mark.parametrize("version", [0, 2, "1", None, [[[]]]])
def test_another_format_is_named(version: object) -> None:
    fields = msgpack.unpackb(encode_record(SAMPLE))
    fields[0] = version
    with pytest.raises(RecordError, match=r"record format .*, this version reads 1"):
        decode_record(KEY, msgpack.packb(fields))


def test_deep_nesting_and_huge_claims_are_refused_quickly() -> None:
    for data in (
        b"\x91" * 1000 + b"\xc0",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"",
    ):
        with pytest.raises(RecordError):
            decode_record(KEY, data)
