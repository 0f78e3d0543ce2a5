from __future__ import annotations

import struct
from collections.abc import Iterator
from math import inf
from pathlib import Path
from zlib import crc32

import msgpack
import numpy as np
import pytest

from runtime.keys import SessionKey
from runtime.records import HistoryRow, SessionRecord, StreamRecord, encode_record
from runtime.store.archive import MAGIC, ArchiveError, read_archive, write_archive


def record(number: int) -> SessionRecord:
    return SessionRecord(
        key=SessionKey("acme", f"robot é {number}"),
        model_digest="digest",
        incarnation="a",
        version=number,
        event_time_s=1.5,
        watermark_s=float("-inf"),
        lineage=bytes(range(16)),
        context_KD=np.full((1, 4), number, np.float32),
        outputs=(0.25, 0.75),
        shares=(1.0,),
        gate=0.5,
        freshness_s={"imu": 1.5},
        streams=(StreamRecord("wrist", "imu", number, (number + 2,), 1.5),),
        history=(HistoryRow(number, 1.5, "imu", (0.25, 0.75), (1.0,), 0.5),),
    )


def plain(item: SessionRecord) -> tuple[object, ...]:
    assert item.context_KD is not None
    return (
        item.key,
        item.version,
        item.streams,
        item.history,
        item.context_KD.tolist(),
        item.watermark_s,
        item.lineage,
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    records = [record(number) for number in range(5)]
    assert write_archive(tmp_path / "all.grfstate", records) == 5
    assert list(map(plain, read_archive(tmp_path / "all.grfstate"))) == list(map(plain, records))


def test_an_empty_store_has_an_archive_too(tmp_path: Path) -> None:
    assert write_archive(tmp_path / "all.grfstate", []) == 0
    assert list(read_archive(tmp_path / "all.grfstate")) == []


def test_every_cut_and_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "all.grfstate"
    write_archive(path, [record(1), record(2)])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ArchiveError):
            list(read_archive(path))
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x41
        path.write_bytes(bytes(changed))
        with pytest.raises(ArchiveError):
            list(read_archive(path))


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        b"\x81\x01\x01",
        b"\x91" * 3000 + b"\xc0",
        *(msgpack.packb(["acme", "s", encode_record(record(1)), [[version, 1.5, b""]]]) for version in (inf, 2**63)),
        msgpack.packb(["acme", "s", encode_record(record(2**63)), []]),
    ],
    ids=range(6),
)
def test_a_session_of_somebody_else_s_making_is_refused_with_the_reason(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "all.grfstate"
    path.write_bytes(MAGIC + struct.pack("<II", len(body), crc32(body)) + body)
    with pytest.raises(ArchiveError, match=str(path)):
        list(read_archive(path))


def test_an_export_that_fails_leaves_the_last_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "all.grfstate"
    write_archive(path, [record(1)])

    def failing() -> Iterator[SessionRecord]:
        yield record(2)
        raise OSError("the store went away")

    with pytest.raises(OSError, match="went away"):
        write_archive(path, failing())
    assert [item.version for item in read_archive(path)] == [1]
    assert list(tmp_path.iterdir()) == [path]
