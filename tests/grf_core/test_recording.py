from __future__ import annotations

import math
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grf_core.recording import (
    Record,
    RecordedSegment,
    RecordedSession,
    RecordingError,
    RecordingHead,
    RecordingWriter,
    read_recording,
)
from grf_core.recording_format import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, encode_record

HEAD = RecordingHead("a walk", "made up", "CC0-1.0", {"imu": 2, "pulse": 1})
SESSION = RecordedSession("bed 7", {"mood": "low", "effort": 3.5})
SEGMENT = RecordedSegment("bed 7", "watch", "imu", 1, 1.25, np.array([[1, 2], [3, 4]], np.float32), arrival_s=1.5)

texts = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())
seconds = st.floats(allow_nan=False, allow_infinity=False)
sessions = st.builds(
    RecordedSession,
    session=texts,
    labels=st.dictionaries(texts, st.text(max_size=20) | seconds, max_size=4),
    tenant=texts,
    event_time_s=st.none() | seconds,
)


@st.composite
def segments(draw: st.DrawFn) -> RecordedSegment:
    modality = draw(st.sampled_from(sorted(HEAD.modalities)))
    values = st.floats(allow_nan=False, allow_infinity=False, width=32)
    row = st.lists(values, min_size=HEAD.modalities[modality], max_size=HEAD.modalities[modality])
    return RecordedSegment(
        session=draw(texts),
        stream=draw(texts),
        modality=modality,
        sequence=draw(st.integers(1, 1 << 62)),
        event_time_s=draw(seconds),
        frames=np.array(draw(st.lists(row, min_size=1, max_size=5)), np.float32),
        arrival_s=draw(st.none() | seconds),
        tenant=draw(texts),
    )


def write(path: Path, *records: Record, head: RecordingHead = HEAD) -> Path:
    with RecordingWriter(path, head) as writer:
        for record in records:
            writer.write(record)
    return path


def chunk(header: object, payload: bytes = b"") -> bytes:
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    return struct.pack("<III", len(packed), len(payload), zlib.crc32(packed + payload)) + packed + payload


def same(one: Record, other: Record) -> bool:
    if isinstance(one, RecordedSession) or isinstance(other, RecordedSession):
        return one == other
    fields = ("tenant", "session", "stream", "modality", "sequence", "event_time_s", "arrival_s")
    if any(getattr(one, name) != getattr(other, name) for name in fields):
        return False
    return one.frames.shape == other.frames.shape and one.frames.tobytes() == other.frames.tobytes()


@given(records=st.lists(sessions | segments(), max_size=6))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, records: list[Record]) -> None:
    recording = read_recording(write(tmp_path_factory.mktemp("r") / "x.grfrec", *records))
    read = list(recording)
    assert recording.head == HEAD
    assert not recording.truncated
    assert len(read) == len(records)
    assert all(same(one, other) for one, other in zip(records, read, strict=True))


@given(tail=st.binary(max_size=300), whole=st.booleans())
def test_arbitrary_bytes_give_records_or_a_recording_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, whole: bool
) -> None:
    path = write(tmp_path_factory.mktemp("r") / "x.grfrec", SESSION)
    path.write_bytes(path.read_bytes() + tail if whole else tail)
    with suppress(RecordingError):
        assert all(isinstance(record, RecordedSession | RecordedSegment) for record in read_recording(path))


@given(header=st.binary(max_size=80), payload=st.binary(max_size=20))
def test_arbitrary_headers_under_a_good_checksum_give_records_or_a_recording_error(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, payload: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("r") / "x.grfrec")
    path.write_bytes(path.read_bytes() + chunk(header or b"\x80", payload))
    with suppress(RecordingError):
        list(read_recording(path))


@given(data=st.data())
def test_one_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write(tmp_path_factory.mktemp("r") / "x.grfrec", SESSION, SEGMENT)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with suppress(RecordingError):
        recording = read_recording(path)
        list(recording)
        assert recording.truncated


def test_a_file_cut_anywhere_after_its_head_gives_its_whole_records_and_says_truncated(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.grfrec", SESSION, SEGMENT)
    size, first = whole.stat().st_size, read_recording(write(tmp_path / "head.grfrec")).end
    second = first + len(encode_record(SESSION, HEAD))
    for cut in range(first, size + 1):
        path = tmp_path / "cut.grfrec"
        path.write_bytes(whole.read_bytes()[:cut])
        recording = read_recording(path)
        assert len(list(recording)) == (cut >= second) + (cut == size)
        assert recording.truncated == (cut not in (first, second, size))
        assert recording.end == max(end for end in (first, second, size) if end <= cut)


def test_a_file_cut_within_its_head_is_no_recording(tmp_path: Path) -> None:
    path = write(tmp_path / "x.grfrec")
    for cut in range(path.stat().st_size):
        (tmp_path / "cut.grfrec").write_bytes(path.read_bytes()[:cut])
        with pytest.raises(RecordingError):
            read_recording(tmp_path / "cut.grfrec")


def test_a_resumed_writer_cuts_the_unfinished_record_and_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path / "x.grfrec", SESSION, SEGMENT)
    path.write_bytes(path.read_bytes()[:-3])
    with RecordingWriter(path, HEAD, resume=True) as writer:
        writer.write(SEGMENT)
        writer.sync()
        assert writer.size_bytes == path.stat().st_size
    recording = read_recording(path)
    assert [type(record) for record in recording] == [RecordedSession, RecordedSegment]
    assert not recording.truncated


def test_resuming_what_is_not_there_begins_it(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "new.grfrec", HEAD, resume=True) as writer:
        writer.write(SESSION)
    assert list(read_recording(tmp_path / "new.grfrec")) == [SESSION]


def test_resuming_with_another_head_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.grfrec", SESSION)
    with pytest.raises(RecordingError, match="another head"):
        RecordingWriter(path, RecordingHead("another", "", "", {"imu": 2}), resume=True)


def test_a_recording_is_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "x.grfrec", SESSION)
    with pytest.raises(FileExistsError):
        RecordingWriter(path, HEAD)


def test_what_was_flushed_is_readable_while_the_writer_goes_on(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "x.grfrec", HEAD) as writer:
        writer.write(SESSION)
        writer.flush()
        assert list(read_recording(tmp_path / "x.grfrec")) == [SESSION]


def test_a_recording_can_be_read_again(tmp_path: Path) -> None:
    recording = read_recording(write(tmp_path / "x.grfrec", SESSION))
    assert list(recording) == list(recording) == [SESSION]


@pytest.mark.parametrize(
    ("reason", "record"),
    [
        ("modality 'smell'", RecordedSegment("s", "a", "smell", 1, 0.0, np.ones((1, 2), np.float32))),
        ("width of 'imu'", RecordedSegment("s", "a", "imu", 1, 0.0, np.ones((1, 3), np.float32))),
        ("shape", RecordedSegment("s", "a", "imu", 1, 0.0, np.ones((0, 2), np.float32))),
        ("shape", RecordedSegment("s", "a", "imu", 1, 0.0, np.ones(2, np.float32))),
        ("finite", RecordedSegment("s", "a", "pulse", 1, 0.0, np.array([[math.nan]], np.float32))),
        ("are float64", RecordedSegment("s", "a", "pulse", 1, 0.0, np.ones((1, 1)))),  # type: ignore[arg-type]  # as who checks no types may
        ("are list", RecordedSegment("s", "a", "pulse", 1, 0.0, [[1.0]])),  # type: ignore[arg-type]  # likewise
        ("event_time_s", RecordedSegment("s", "a", "pulse", 1, math.inf, np.ones((1, 1), np.float32))),
        ("arrival_s", RecordedSegment("s", "a", "pulse", 1, 0.0, np.ones((1, 1), np.float32), math.nan)),
        ("sequence", RecordedSegment("s", "a", "pulse", 0, 0.0, np.ones((1, 1), np.float32))),
        ("session", RecordedSegment("", "a", "pulse", 1, 0.0, np.ones((1, 1), np.float32))),
        ("surrogates", RecordedSession("\ud800")),
        ("tenant", RecordedSession("s", tenant="x" * 5_000)),
        ("label 'mood'", RecordedSession("s", {"mood": math.nan})),
        ("label 'mood'", RecordedSession("s", {"mood": True})),
        ("label 'mood'", RecordedSession("s", {"mood": np.float32("nan")})),  # type: ignore[dict-item]  # likewise
        ("label 'mood'", RecordedSession("s", {"mood": np.bool_(True)})),  # type: ignore[dict-item]  # likewise
        ("event_time_s", RecordedSession("s", {"mood": "low"}, event_time_s=math.inf)),
    ],
)
def test_a_record_that_no_reader_would_take_is_not_written(tmp_path: Path, reason: str, record: Record) -> None:
    with RecordingWriter(tmp_path / "x.grfrec", HEAD) as writer:
        before = writer.size_bytes
        with pytest.raises(RecordingError, match=reason):
            writer.write(record)
        assert writer.size_bytes == before
        writer.write(SESSION)
    assert list(read_recording(tmp_path / "x.grfrec")) == [SESSION]


def test_numbers_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    one = np.ones((1, 1), np.float32)
    two: Any = np.int64(2)  # of a type that is not in the signature
    half: Any = np.float32(0.5)
    with RecordingWriter(tmp_path / "x.grfrec", HEAD) as writer:
        writer.write(RecordedSession("s", {"mood": two, "effort": half}, event_time_s=half))
        writer.write(RecordedSegment("s", "a", "pulse", two, half, one, arrival_s=two))
    told, segment = read_recording(tmp_path / "x.grfrec")
    assert told == RecordedSession("s", {"mood": 2, "effort": 0.5}, event_time_s=0.5)
    assert isinstance(segment, RecordedSegment)
    assert (segment.sequence, segment.event_time_s, segment.arrival_s) == (2, 0.5, 2.0)


GOOD_SEGMENT = {
    "kind": "segment",
    "session": "s",
    "stream": "a",
    "modality": "pulse",
    "sequence": 1,
    "event_time_s": 1.0,
    "shape": [1, 1],
}


@pytest.mark.parametrize(
    ("reason", "change", "payload"),
    [
        ("4 bytes of payload", {"shape": [2, 1]}, bytes(4)),
        ("shape", {"shape": [1 << 40, 1]}, bytes(4)),
        ("shape", {"shape": "11"}, bytes(4)),
        ("modality", {"modality": "smell"}, bytes(4)),
        ("sequence", {"sequence": 1.5}, bytes(4)),
        ("event_time_s", {"event_time_s": None}, bytes(4)),
        ("event_time_s", {"event_time_s": math.nan}, bytes(4)),
        ("finite", {}, struct.pack("<f", math.inf)),
        ("second head", {"kind": "head"}, b""),
        ("labels", {"kind": "session"}, b""),
        ("labels", {"kind": "session", "labels": []}, b""),
        ("session", {"kind": "session", "labels": {}, "session": b"s"}, b""),
    ],
)
def test_a_chunk_that_does_not_fit_is_refused_at_its_offset(
    tmp_path: Path, reason: str, change: dict[str, object], payload: bytes
) -> None:
    path = write(tmp_path / "x.grfrec", SESSION)
    offset = path.stat().st_size
    path.write_bytes(path.read_bytes() + chunk(GOOD_SEGMENT | change, payload))
    with pytest.raises(RecordingError, match=reason) as refused:
        list(read_recording(path))
    assert refused.value.offset == offset


@pytest.mark.parametrize("lengths", [(0, 0), (MAX_HEADER_BYTES + 1, 0), (10, MAX_PAYLOAD_BYTES + 1)])
def test_lengths_beyond_the_limits_are_refused_before_anything_is_read(
    tmp_path: Path, lengths: tuple[int, int]
) -> None:
    path = write(tmp_path / "x.grfrec")
    path.write_bytes(path.read_bytes() + struct.pack("<III", *lengths, 0))
    with pytest.raises(RecordingError, match="bytes; "):
        list(read_recording(path))


def test_integers_unknown_fields_and_unknown_kinds_are_taken_in_good_part(tmp_path: Path) -> None:
    path = write(tmp_path / "x.grfrec")
    later = chunk({"kind": "bookmark", "title": "of a later version"})
    counted = chunk(GOOD_SEGMENT | {"event_time_s": 3, "colour": "red"}, struct.pack("<f", 61.0))
    path.write_bytes(path.read_bytes() + later + counted)
    (segment,) = read_recording(path)
    assert isinstance(segment, RecordedSegment)
    assert (segment.event_time_s, segment.tenant, segment.arrival_s) == (3.0, "default", None)


DEEP_VERSION = b"\x82" + b"".join(map(msgpack.packb, ("kind", "head", "version"))) + b"\x91" * 1000 + b"\x00"


@pytest.mark.parametrize(
    ("reason", "header"),
    [
        ("not the head", {"kind": "session"}),
        ("format version 2", {"kind": "head", "version": 2}),
        ("format version", DEEP_VERSION),
        ("title is missing", {"kind": "head", "version": 1}),
        ("not a map", [1, 2]),
        ("not msgpack", b"\xc1"),
        ("modalities", {"kind": "head", "version": 1, "title": "", "source": "", "licence": "", "modalities": {}}),
        ("width", {"kind": "head", "version": 1, "title": "", "source": "", "licence": "", "modalities": {"a": 0}}),
    ],
)
def test_a_head_that_does_not_fit_is_refused(tmp_path: Path, reason: str, header: object) -> None:
    (tmp_path / "x.grfrec").write_bytes(b"\x89GRFREC\n" + chunk(header))
    with pytest.raises(RecordingError, match=reason):
        read_recording(tmp_path / "x.grfrec")


def test_the_bytes_are_those_of_the_documentation(tmp_path: Path) -> None:
    """A golden file: another language may rely on it."""
    path = write(tmp_path / "x.grfrec", SEGMENT, head=RecordingHead("t", "s", "l", {"imu": 2}))
    head = {"kind": "head", "version": 1, "title": "t", "source": "s", "licence": "l", "modalities": {"imu": 2}}
    segment = {
        "kind": "segment",
        "tenant": "default",
        "session": "bed 7",
        "stream": "watch",
        "modality": "imu",
        "sequence": 1,
        "event_time_s": 1.25,
        "arrival_s": 1.5,
        "shape": [2, 2],
    }
    payload = struct.pack("<4f", 1, 2, 3, 4)
    assert path.read_bytes() == bytes.fromhex("894752465245430a") + chunk(head) + chunk(segment, payload)


def test_a_session_of_before_label_times_is_read_and_one_without_them_is_written_as_before(tmp_path: Path) -> None:
    before = {"kind": "session", "tenant": "default", "session": "bed 7", "labels": {"mood": "low", "effort": 3.5}}
    path = write(tmp_path / "x.grfrec")
    path.write_bytes(path.read_bytes() + chunk(before))
    assert list(read_recording(path)) == [SESSION]
    assert encode_record(SESSION, HEAD) == chunk(before)
