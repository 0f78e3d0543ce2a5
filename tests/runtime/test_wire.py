"""The wire: what goes in comes out, whatever comes in does no harm, and version 1 stays what it is.

`golden/protocol_1.json` holds the frames of one message of each kind. Where this test says that they differ, the
format has changed under clients in the field: that is a new protocol version. Before the first release, and for a
new message or field, write them anew: `.venv/bin/python -m tests.runtime.test_wire`.
"""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
import typing
from collections.abc import Sequence
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime import messages as m
from runtime import wire
from runtime.nack_codes import FinalCode
from runtime.wire import (
    MAX_GROUPS,
    MAX_HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_SEGMENTS,
    MAX_SEQUENCE,
    DecodeError,
    decode,
    encode,
)

GOLDEN = Path(__file__).parent / "golden/protocol_1.json"
MESSAGES: tuple[Any, ...] = typing.get_args(m.Message)

# ---- any message ------------------------------------------------------------------------------------------

integers = st.integers(-(2**63), 2**63 - 1)
sequences = st.integers(1, MAX_SEQUENCE)
event_times = st.floats(-1e15, 1e15, exclude_min=True, exclude_max=True)
values = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
maps = st.dictionaries(st.text(max_size=5), values, max_size=3)


def tensors(width: st.SearchStrategy[int], lengths: st.SearchStrategy[int]) -> st.SearchStrategy[m.Float32Array]:
    return st.tuples(lengths, width).flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(width=32)))


@st.composite
def groups(draw: st.DrawFn) -> m.StreamSegments:
    width = draw(st.integers(1, 4))
    entries = st.builds(m.SegmentEntry, sequences, event_times, frames=tensors(st.just(width), st.integers(1, 4)))
    return m.StreamSegments(
        draw(st.text(max_size=5)),
        draw(st.text(max_size=5)),
        draw(sequences),
        tuple(draw(st.lists(entries, min_size=1, max_size=3))),
    )


def update_rows(width: int) -> st.SearchStrategy[m.UpdateRow]:
    hints = typing.get_type_hints(m.UpdateRow)
    kinds: dict[Any, st.SearchStrategy[Any]] = {
        int: integers,
        float: st.floats(allow_nan=False),
        str: st.text(max_size=5),
        bool: st.booleans(),
        bytes: st.binary(max_size=8),
        Sequence[float]: st.lists(st.floats(allow_nan=False), max_size=3),
        m.Float32Array: tensors(st.just(1), st.just(width)).map(lambda tensor: tensor[0]),
    }
    return st.builds(m.UpdateRow, **{name: kinds[hints[name]] for name in m.UpdateRow._fields})


FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    int: integers,
    float: st.floats(allow_nan=False),
    str: st.text(max_size=10),
    bool: st.booleans(),
    dict[str, Any]: maps,
    list[str]: st.lists(st.text(max_size=5), max_size=3),
    list[dict[str, Any]]: st.lists(maps, max_size=3),
    m.Float32Array: tensors(st.integers(1, 4), st.integers(1, 4)),
    tuple[m.StreamSegments, ...]: st.lists(groups(), max_size=3).map(tuple),
    tuple[m.StreamAck, ...]: st.lists(
        st.builds(m.StreamAck, st.text(max_size=5), st.text(max_size=5), integers, integers, integers, integers),
        max_size=3,
    ).map(tuple),
    tuple[m.UpdateRow, ...]: st.integers(1, 4).flatmap(
        lambda width: st.lists(update_rows(width), min_size=1, max_size=3).map(tuple)
    ),
}


def any_of(kind: Any) -> st.SearchStrategy[m.Message]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: FIELDS[hints[field.name]] for field in dataclasses.fields(kind)})


any_message = st.one_of([any_of(kind) for kind in MESSAGES])


def plain(value: Any) -> Any:
    """A message as lists, to compare and to read: arrays have no single truth, and NaN is not itself."""
    if isinstance(value, np.ndarray):
        return [list(value.shape), value.tobytes().hex()]
    if dataclasses.is_dataclass(value):
        return [type(value).__name__, *(plain(getattr(value, field.name)) for field in dataclasses.fields(value))]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, float) and isnan(value):
        return "NaN"
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.tag)
def test_what_is_encoded_is_decoded_again(kind: Any) -> None:
    @settings(max_examples=60)
    @given(any_of(kind))
    def check(message: m.Message) -> None:
        frames = encode(message)
        assert plain(decode(frames)) == plain(message)
        assert plain(decode([memoryview(frame) for frame in frames])) == plain(message)

    check()


def segments_of(frames: Sequence[wire.Frame]) -> m.Segments:
    message = decode(frames)
    assert isinstance(message, m.Segments)
    return message


def test_no_two_messages_have_the_same_tag() -> None:
    assert len({kind.tag for kind in MESSAGES}) == len(MESSAGES)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
def test_frames_of_any_memory_layout_arrive_as_they_are(order: Any, count: int, dtype: Any) -> None:
    frames = [np.asarray(np.arange(6 * (i + 1)).reshape(-1, 3) / 8, dtype=dtype, order=order) for i in range(count)]
    entries = tuple(m.SegmentEntry(i + 1, 0.0, rows) for i, rows in enumerate(frames))
    (group,) = segments_of(encode(m.Segments((m.StreamSegments("s", "t", 1, entries),)))).groups
    for entry, rows in zip(group.entries, frames, strict=True):
        assert entry.frames.dtype == np.float32
        np.testing.assert_array_equal(entry.frames, rows)


def test_float32_frames_are_read_only_views_of_what_came_in() -> None:
    frames = [bytes(frame) for frame in encode(sample(m.Segments))]
    came_in = np.frombuffer(frames[1], np.float32)
    for entry in segments_of(frames).groups[0].entries:
        assert np.shares_memory(entry.frames, came_in)
        assert not entry.frames.flags.writeable


# ---- evolution --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in MESSAGES if kind is not m.Tapped], ids=lambda kind: kind.tag)
def test_fields_that_a_later_version_adds_are_skipped(kind: Any) -> None:
    message = sample(kind)
    header, *rest = encode(message)
    later = msgpack.packb([*msgpack.unpackb(header), "added later", {"and": ["more"]}])
    assert plain(decode([later, *rest])) == plain(message)


def test_what_a_later_version_adds_to_segments_and_acks_is_skipped() -> None:
    header = [1, "segments", [["s", "t", 1, "f32", [[1, 0.5, 1, "more"]], "more"]]]
    assert segments_of([msgpack.packb(header), b"\0" * 4]).groups[0].entries[0].event_time_s == 0.5
    ack = decode([msgpack.packb([1, "ack", [["s", "t", 3, 2, 1, 4, "more"]]])])
    assert ack == m.Ack((m.StreamAck("s", "t", 3, 2, 1, 4),))


UPDATE_ROW = ["s", False, 0, 1, 0.5, 0, -inf, 0, -inf, 0, [0.5], b"", ""]


@pytest.mark.parametrize(
    ("rows", "tensors"),
    [
        ([UPDATE_ROW], []),
        ([UPDATE_ROW], [bytes(8), bytes(8)]),
        ([UPDATE_ROW], [bytes(7)]),
        ([UPDATE_ROW, UPDATE_ROW], [bytes(8)]),
        ([], [b""]),
        ("rows", [bytes(8)]),
        ([7], [bytes(8)]),
        ([UPDATE_ROW[:-1]], [bytes(8)]),
        ([[*UPDATE_ROW[:10], [0.5, "late"], b"", ""]], [bytes(8)]),
        ([[*UPDATE_ROW[:10], [0.5, nan], b"", ""]], [bytes(8)]),
        ([[*UPDATE_ROW[:3], 1.0, *UPDATE_ROW[4:]]], [bytes(8)]),
    ],
)
def test_rows_that_are_no_updates_are_refused(rows: Any, tensors: list[bytes]) -> None:
    with pytest.raises(DecodeError):
        decode([msgpack.packb([1, "updates", rows]), *tensors])


def test_fields_added_to_a_row_of_updates_are_skipped() -> None:
    updates = decode([msgpack.packb([1, "updates", [[*UPDATE_ROW, "more"]]]), bytes(8)])
    assert isinstance(updates, m.Updates)
    assert list(updates.rows[0][:-2]) == UPDATE_ROW


@pytest.mark.parametrize(
    "kind",
    [kind for kind in MESSAGES if kind not in (m.Segments, m.Ack, m.Tapped, m.Updates)],
    ids=lambda kind: kind.tag,
)
def test_fields_with_a_default_may_be_left_out_and_the_others_not(kind: Any) -> None:
    fields = dataclasses.fields(kind)
    required = [f for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    given_fields = [getattr(sample(kind), field.name) for field in required]
    message = decode([msgpack.packb([1, kind.tag, *given_fields])])
    assert message == kind(*given_fields)
    if required:
        with pytest.raises(
            DecodeError, match=f"{kind.tag}: {len(required) - 1} fields, at least {len(required)} expected"
        ):
            decode([msgpack.packb([1, kind.tag, *given_fields[:-1]])])


# ---- whatever comes in ------------------------------------------------------------------------------------

map_keys = st.text(max_size=3) | st.binary(max_size=3)
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4))
    | st.builds(msgpack.Timestamp, st.integers(0, 2**33), st.integers(0, 10**9 - 1)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(map_keys, inner, max_size=3),
    max_leaves=10,
)


def is_a_message_or_refused(frames: Sequence[wire.Frame]) -> None:
    try:
        message = decode(frames)
    except DecodeError as refusal:
        code, text = refusal.code, str(refusal)
    else:
        assert type(message) in MESSAGES
        assert plain(decode(encode(message))) == plain(message)
        return
    assert code in typing.get_args(FinalCode)
    assert len(text) < 400, "it is told in a Nack, whatever came in"
    text.encode()


@settings(max_examples=400)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_arbitrary_bytes_are_a_message_or_refused(frames: list[bytes]) -> None:
    is_a_message_or_refused(frames)


@settings(max_examples=500)
@given(
    any_message,
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=3),
    st.sampled_from(["as it is", "cut", "longer", "frame lost", "frame twice"]),
)
def test_a_damaged_message_is_a_message_or_refused(message: m.Message, damage: list[tuple[int, int]], how: str) -> None:
    frames = [bytearray(frame) for frame in encode(message)]
    for place, byte in damage:
        frame = frames[place % len(frames)]
        if frame:
            frame[place // len(frames) % len(frame)] = byte
    if how == "cut":
        frames[-1] = frames[-1][: len(frames[-1]) // 2]
    elif how == "longer":
        frames[-1] += b"\0"
    elif how == "frame lost":
        frames.pop()
    elif how == "frame twice":
        frames.append(frames[-1])
    is_a_message_or_refused([bytes(frame) for frame in frames])


@settings(max_examples=500)
@given(
    st.sampled_from([1, 1, 1, 1, 2, True, "1", 1.0]),
    st.sampled_from([kind.tag for kind in MESSAGES]) | junk,
    st.lists(junk | integers | st.text(max_size=3), max_size=10),
    st.lists(st.binary(max_size=8), max_size=2),
)
def test_any_values_in_any_fields_are_a_message_or_refused(
    version: Any, tag: Any, fields: list[Any], tensors: list[bytes]
) -> None:
    is_a_message_or_refused([msgpack.packb([version, tag, *fields]), *tensors])


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(
            st.just("s") | junk,
            st.just("t") | junk,
            st.just(1) | junk,
            st.sampled_from(["f32", "f16", "bf16", "f64"]) | junk,
            st.lists(st.tuples(st.just(1) | junk, st.just(0.5) | junk, st.integers(-1, 3) | junk), max_size=3) | junk,
        )
        | junk,
        max_size=2,
    ),
    st.lists(st.binary(max_size=4).map(lambda data: data * 4), max_size=2),
)
def test_any_values_in_segments_are_segments_or_refused(rows: list[Any], tensors: list[bytes]) -> None:
    is_a_message_or_refused([msgpack.packb([1, "segments", rows]), *tensors])


@settings(max_examples=300)
@given(st.lists(st.lists(st.text(max_size=3) | integers | junk, min_size=4, max_size=7) | junk, max_size=3) | junk)
def test_any_values_in_an_ack_are_an_ack_or_refused(rows: Any) -> None:
    is_a_message_or_refused([msgpack.packb([1, "ack", rows])])


def segments_header(
    sequence: Any = 1, event_time_s: Any = 0.0, length: Any = 1, dtype: Any = "f32", oldest: Any = 1
) -> bytes:
    return typing.cast(
        bytes, msgpack.packb([1, "segments", [["s", "t", oldest, dtype, [[sequence, event_time_s, length]]]]])
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"sequence": 0},
        {"sequence": -1},
        {"sequence": MAX_SEQUENCE + 1},
        {"sequence": 2**64 - 1},
        {"sequence": True},
        {"sequence": 1.0},
        {"sequence": "1"},
        {"event_time_s": nan},
        {"event_time_s": inf},
        {"event_time_s": -inf},
        {"event_time_s": 1e15},
        {"event_time_s": 2**64 - 1},
        {"event_time_s": True},
        {"event_time_s": None},
        {"length": -1},
        {"length": True},
        {"length": 1.0},
        {"length": 2**64 - 1},
        {"length": 0},
        {"oldest": 0},
        {"oldest": True},
        {"oldest": MAX_SEQUENCE + 1},
        {"dtype": "f64"},
        {"dtype": "F32"},
        {"dtype": 1},
        {"dtype": "\U0001f600" * 1000},
    ],
    ids=str,
)
def test_a_segment_with_a_field_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    assert isinstance(decode([segments_header(), b"\0" * 4]), m.Segments)
    with pytest.raises(DecodeError) as caught:
        decode([segments_header(**wrong), b"\0" * 4])
    assert caught.value.code == "malformed"
    assert len(str(caught.value)) < 200


WRONG: list[tuple[list[bytes], str]] = [
    ([], "no frames"),
    ([b""], "header is not msgpack"),
    ([b"\xc1"], "header is not msgpack"),
    ([b"\x93\x01\xa4pi"], "header is not msgpack"),
    ([b"\x01"], "header is not an array"),
    ([b"\x91\x01"], "header is not an array"),
    ([msgpack.packb([1, 2])], "tag is not text"),
    ([msgpack.packb([1, "nonsense"])], "unknown message 'nonsense'"),
    ([msgpack.packb([1, "ping", 1]), b"1234"], "ping: 1 tensor frames, expected none"),
    ([msgpack.packb([1, "ping", 1.0])], "ping: nonce is not an integer"),
    ([msgpack.packb([1, "ping", True])], "ping: nonce is not an integer"),
    ([msgpack.packb([1, "ping", 2**63])], "ping: nonce is not an integer"),
    ([msgpack.packb([1, "hello", b"name"])], "hello: client is not text"),
    ([b"\x93\x01\xa5hello\xa3\xed\xa0\x80"], "header is not msgpack"),
    ([msgpack.packb([1, "history", 1, "s", nan])], "history: from_s is not a number"),
    ([msgpack.packb([1, "segments", [["s", "t", 1, "f32", [[1, 0.0, 1]]]]])], "1 groups but 0 tensor frames"),
    ([segments_header(), b"\0" * 5], "5 bytes are no 1 frames of f32"),
    ([segments_header(length=2), b"\0" * 4], "4 bytes are no 2 frames of f32"),
    ([segments_header(), b""], "0 bytes are no 1 frames of f32"),
    ([segments_header(length=0), b"1234"], "4 bytes for no frames at all"),
    ([msgpack.packb([1, "segments", [["s", "t", 1, "f32", []]]]), b""], "a group is not"),
    ([msgpack.packb([1, "segments", [[b"s", "t", 1, "f32", [[1, 0.0, 1]]]]]), b"1234"], "a group is not"),
    ([msgpack.packb([1, "ack", [["s", "t", True, 1, 1]]])], "an entry is not"),
    ([msgpack.packb([1, "ack", [["s", "t", 2**63, 1, 1]]])], "an entry is not"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_what_is_wrong_is_said(case: int) -> None:
    frames, text = WRONG[case]
    with pytest.raises(DecodeError) as caught:
        decode(frames)
    assert caught.value.code == "malformed"
    assert text in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None, [1], 2**64 - 1, "x" * 100_000])
def test_another_protocol_version_is_told_the_one_that_is_spoken(version: Any) -> None:
    with pytest.raises(DecodeError, match=r"this side speaks 1$") as caught:
        decode([msgpack.packb([version, "ping", 1])])
    assert caught.value.code == "version"
    assert len(str(caught.value)) < 200


# ---- limits -----------------------------------------------------------------------------------------------


def test_a_header_is_bounded() -> None:
    with pytest.raises(DecodeError, match=f"header of {MAX_HEADER_BYTES + 1} bytes, more than") as caught:
        decode([b"\0" * (MAX_HEADER_BYTES + 1)])
    assert caught.value.code == "too_large"


def test_the_groups_the_segments_and_the_bytes_of_a_message_are_bounded() -> None:
    group = ["s", "t", 1, "f32", [[1, 0.0, 1]]]
    assert (
        len(segments_of([msgpack.packb([1, "segments", [group] * MAX_GROUPS]), *[b"\0" * 4] * MAX_GROUPS]).groups)
        == MAX_GROUPS
    )
    refused(f"{MAX_GROUPS + 1} groups", [group] * (MAX_GROUPS + 1), [b"\0" * 4] * (MAX_GROUPS + 1))
    big = b"\0" * (MAX_MESSAGE_BYTES // 2)
    assert decode([msgpack.packb([1, "segments", [group] * 2]), big, big])
    refused("bytes of frames", [group] * 2, [big, big + b"\0" * 4])
    rows = [[i + 1, 0.0, 0] for i in range(MAX_SEGMENTS)]
    assert decode([msgpack.packb([1, "segments", [["s", "t", 1, "f32", rows]]]), b""])
    refused(f"{MAX_SEGMENTS + 1} segments", [["s", "t", 1, "f32", rows], group], [b"", b"\0" * 4])


def refused(text: str, groups: list[Any], tensors: list[bytes]) -> None:
    with pytest.raises(DecodeError, match=text) as caught:
        decode([msgpack.packb([1, "segments", groups]), *tensors])
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    "header",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x93\x01\xa5state\xdd\x10\x00\x00\x00",
        b"\x92" + b"\x91" * 1000 + b"\xc0\xa4ping",
        b"\x92\x01" + b"\x91" * 1000 + b"\xc0",
        b"\x91" * (MAX_HEADER_BYTES // 8),
        b"\x93\x01\xa4ping" + b"\x81\xa1a" * 1000 + b"\x01",
        msgpack.packb([1, "segments", [["s", "t", 1, "f32", [[1, 0.0, 2**63]] * 3]]]),
    ],
    ids=[
        "array",
        "map",
        "binary",
        "text",
        "extension",
        "array inside",
        "deep version",
        "deep tag",
        "deepest",
        "deep field",
        "lengths that overflow",
    ],
)
def test_a_few_bytes_never_claim_much_memory(header: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode([header, b"\0" * 8] if b"segments" in header else [header])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


# ---- tensors of half the size -----------------------------------------------------------------------------


def decoded(dtype: str, data: bytes) -> m.Float32Array:
    frames: m.Float32Array = segments_of([segments_header(dtype=dtype, length=4), data]).groups[0].entries[0].frames
    return frames


EVERY_16_BITS = np.arange(2**16, dtype="<u2")


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_every_half_is_decoded_to_its_value(dtype: str, torch_dtype: torch.dtype) -> None:
    expected = torch.from_numpy(EVERY_16_BITS.view(np.int16)).view(torch_dtype).to(torch.float32).numpy()
    frames = decoded(dtype, EVERY_16_BITS.tobytes())
    assert frames.shape == (4, 2**14)
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames.ravel(), expected)


def test_float32_is_little_endian() -> None:
    assert decoded("f32", bytes.fromhex("0000803f 00000040 00004040 00008040")).tolist() == [[1], [2], [3], [4]]


# ---- version 1, to the byte ---------------------------------------------------------------------------------

SAMPLES: tuple[m.Message, ...] = (
    m.Hello("watch-7", "north", "s3cret"),
    m.Open("run/1", "accelerometer", "imu", 41, 40, 7),
    m.Segments(
        (
            m.StreamSegments(
                "run/1",
                "accelerometer",
                41,
                (
                    m.SegmentEntry(41, 1732363200.25, np.array([[0.5, -1.0], [2.0, 0.25]], np.float32)),
                    m.SegmentEntry(42, 1732363200.5, np.array([[1.0, 0.0]], np.float32)),
                ),
            ),
            m.StreamSegments("läuft", "mic", 1, (m.SegmentEntry(1, -0.5, np.array([[3.0]], np.float32)),)),
        )
    ),
    m.End("run/1", "accelerometer", 42),
    m.Query(7, "run/1", 12, 250, True),
    m.ListSessions(8, "run/0", 50),
    m.QueryHistory(9, "run/1", -inf, 1732363300.0, 20),
    m.Delete(10, "run/1"),
    m.Subscribe("run/1", 32, True),
    m.Unsubscribe("run/1"),
    m.Credit(16),
    m.Tap(128),
    m.Ping(5),
    m.Goodbye(),
    m.Welcome("worker-0", "c0ffee", "north", {"name": "toy", "context_shape": [1, 4]}, 1024, 8388608, 16777216),
    m.Opened("run/1", "accelerometer", 40, 42, 13),
    m.Ack((m.StreamAck("run/1", "accelerometer", 42, 40, 13, 42), m.StreamAck("läuft", "mic", 1, 0, 1, 1))),
    m.Nack("late", "0.500000 s behind the watermark", "run/1", "accelerometer", 41, 0, 0),
    m.State(7, {"version": 13, "live": None, "lineage": "00ff"}, True),
    m.Sessions(8, ["läuft", "run/1"], False),
    m.History(9, [{"version": 1, "event_time_s": 1732363200.25}]),
    m.Deleted(10, True),
    m.Update({"version": 14}, True, 2),
    m.Updates(
        (
            m.UpdateRow(
                *("run/1", True, 2, 14, 7.5, 12, 6.5, 11, 6.75, 2, [7.5, -inf], b"\x00\xff", ""),
                *np.eye(2, 3, dtype=np.float32),
            ),
            m.UpdateRow(
                *("läuft", False, 0, 0, -inf, 0, -inf, 0, -inf, 0, [-inf, -inf], b"", "new"),
                *np.zeros((2, 3), np.float32),
            ),
        )
    ),
    m.Tapped("run/1", "mic", "audio", 3, 1732363200.75, 1732363201.0, 0, np.array([[1.5, 2.5]], np.float32)),
    m.Pong(5, "c0ffee"),
    m.Moved(801, "tcp://10.0.0.2:5555", 4, "run/1"),
    m.Routes(2049, [{"endpoint": "tcp://10.0.0.7:5570", "groups": [0, 7]}, {"endpoint": "tcp://b:1", "groups": []}]),
)


def sample(kind: type[Any]) -> Any:
    [found] = [message for message in SAMPLES if type(message) is kind]
    return found


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.tag)
def test_the_frames_of_version_1_stay_what_they_are(kind: Any) -> None:
    message = sample(kind)
    golden = json.loads(GOLDEN.read_text())["messages"]
    frames = [bytes.fromhex(text) for text in golden[kind.tag]["frames"]]
    assert [bytes(frame).hex() for frame in encode(message)] == [frame.hex() for frame in frames]
    assert plain(decode(frames)) == plain(message)


def test_every_message_has_golden_frames_and_no_other() -> None:
    assert set(json.loads(GOLDEN.read_text())["messages"]) == {kind.tag for kind in MESSAGES}


def write_golden() -> None:
    messages = {
        message.tag: {"message": repr(message), "frames": [bytes(frame).hex() for frame in encode(message)]}
        for message in SAMPLES
    }
    text = json.dumps({"protocol_version": wire.PROTOCOL_VERSION, "messages": messages}, indent=1, ensure_ascii=False)
    GOLDEN.write_text(text + "\n")


if __name__ == "__main__":
    write_golden()
