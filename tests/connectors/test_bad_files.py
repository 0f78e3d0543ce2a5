"""Files cut short, files that lie, files that are no files: a reason, what is whole, and never a large allocation."""

from __future__ import annotations

import io
import json
import math
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from mcap.writer import CompressionType, IndexType, Writer

from connectors.base import Sample, Source
from connectors.contract import run
from connectors.decoding import DecodeOptions, decoder, undecoded
from connectors.errors import BadSample, ConnectorError, SourceBroken
from connectors.files import FilesOptions
from connectors.mcap_files import McapOptions
from connectors.ros_bags import RosOptions
from tests.connectors.materials import write_bag, write_mcap, write_table

N = 200


def read(source: Source, position: Any = None) -> tuple[list[Sample], str]:
    """All that comes, and the error that ends it."""

    async def main() -> tuple[list[Sample], str]:
        samples: list[Sample] = []
        try:
            async with source.opened(position=position):
                async for batch in source:
                    samples += batch
        except SourceBroken as error:
            return samples, str(error)
        return samples, ""

    return run(main())


def table(path: Path, **options: Any) -> Source:
    return FilesOptions.model_validate({"tables": [{"path": str(path), **options}]}).build()


def mcap(path: Path) -> Source:
    return McapOptions.model_validate({"path": str(path)}).build()


def lying_npy(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + b"\0" * 64


def test_a_csv_that_ends_within_a_row_gives_its_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_table(path, np.arange(N))
    path.write_bytes(path.read_bytes()[:-6])
    samples, error = read(table(path))
    assert error == ""
    assert [int(sample.value[0]) for sample in samples[:-1]] == list(range(N - 1))


def test_rows_that_are_no_numbers_come_for_the_pipeline_to_count(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("t,a\n1,2\nnoon,3\n2,high\n\n3\n4,5\n")
    samples, error = read(table(path))
    assert error == ""
    assert [sample.event_time_s for sample in samples] == [1.0, None, 2.0, None, 3.0, 4.0]
    assert [sample.value for sample in samples if isinstance(sample.value[0], float)] == [[2.0], [5.0]]


def test_a_row_that_cannot_be_read_is_told_with_its_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("t,a,b\nnoon,3,3\n2,high,3\n\n3,1\n3,\n4,1,\n5,1,2\n")
    samples, _ = read(table(path))
    assert [sample.value.reason for sample in samples[:5]] == [
        "line 2: no number in the column of times, 't': 'noon'",
        "line 3: no number in 'a': 'high'",
        "line 4 is empty",
        "line 5 has 2 cells, and the first line names 3",
        "line 6 has 2 cells, and the first line names 3",
    ]
    rest = np.array([sample.value for sample in samples[5:]])
    assert np.array_equal(rest, [[1.0, math.nan], [1.0, 2.0]], equal_nan=True)
    for decode in (decoder(DecodeOptions()), undecoded):  # an encoder is not given it either
        with pytest.raises(BadSample, match="line 3: no number in 'a': 'high'"):
            decode(samples[1])


def test_a_csv_may_have_its_times_as_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("t,a\n1970-01-01T00:00:01Z,1\n1970-01-01 00:00:02.5,2\n1970-01-01T01:00:03+01:00,3\n4.0,4\n")
    assert read(table(path, time_unit="iso8601", time_zone="Asia/Tokyo"))[0][1].event_time_s == 2.5 - 9 * 3600
    samples, reason = read(table(path, time_unit="iso8601"))
    assert [sample.event_time_s for sample in samples] == [1.0, 2.5, 3.0, None]
    assert "line 5: no ISO 8601 in the column of times, 't': '4.0'" in str(samples[3].value)
    np.savez(tmp_path / "t.npz", t=[1.0], values=[[1.0]])
    assert "iso8601 is for texts, of a csv" in read(table(tmp_path / "t.npz", time_unit="iso8601"))[1]
    assert reason == ""


def test_a_column_of_a_csv_may_say_whose_each_row_is(tmp_path: Path) -> None:
    path = tmp_path / "labs.csv"
    path.write_text("patient,t,lactate\nP1,1,1.5\nP/2,2,2.5\n\nP1,3,\n")
    samples, reason = read(table(path, key="{stem}/{patient}/blood"))
    assert [sample.stream_key for sample in samples] == [
        "labs/P1/blood",
        "labs/P/2/blood",
        "labs//blood",
        "labs/P1/blood",
    ]
    assert (len(samples[0].value), reason) == (1, "")
    assert "no column 'bed'" in read(table(path, key="{bed}"))[1]


def test_a_key_of_a_column_that_cannot_be_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", t=np.arange(3.0), values=np.arange(3.0))
    assert "{patient} is neither stem nor folder" in read(table(tmp_path / "t.npz", key="{patient}"))[1]


def test_a_recording_in_its_own_time_says_that_it_waits_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As for one time in milliseconds among seconds."""
    path = tmp_path / "belt.csv"
    path.write_text("t,a\n1,1\n1.5,2\n1000,3\n1002,4\n")
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("connectors.recorded.asyncio.sleep", sleep)
    source = FilesOptions.model_validate({"speed": 1, "tables": [{"path": str(path)}]}).build()
    samples, _ = read(source)
    assert (len(samples), len(waited)) == (4, 3)
    assert [record.getMessage() for record in caplog.records] == [
        "the next sample of belt is due in 999 s, by its time",
        "the next sample of belt is due in 1001 s, by its time",
    ]


@pytest.mark.parametrize("read_before", [6, 7])
def test_rows_that_are_added_to_one_of_several_tables_are_read_by_the_next_run(
    tmp_path: Path, read_before: int
) -> None:
    """Those too that are older than what was read of the others."""
    (tmp_path / "a.csv").write_text("t,x\n1,1\n2,2\n")
    (tmp_path / "b.csv").write_text("t,x\n1,10\n2,20\n3,30\n4,40\n5,50\n")
    source = table(tmp_path / "*.csv")
    first, _ = read(source)
    with (tmp_path / "a.csv").open("a") as file:
        file.write("3.5,3\n6,4\n")
    second, _ = read(source, first[read_before - 1].position)
    values = [int(sample.value[0]) for sample in [*first[:read_before], *second]]
    assert sorted(values) == [1, 2, 3, 4, 10, 20, 30, 40, 50]


def test_files_that_a_pattern_finds_later_are_read_by_the_next_run_and_read_ones_may_go(tmp_path: Path) -> None:
    def found(position: Any, **files: list[float]) -> tuple[list[tuple[str, float | None]], Any]:
        folder = tmp_path / "day"
        folder.mkdir(exist_ok=True)
        for name, times_s in files.items():
            (folder / f"{name}.csv").write_text("t,v\n" + "".join(f"{time_s},1\n" for time_s in times_s))
        path = str(tmp_path / "*" / "*.csv")
        source = FilesOptions.model_validate({"kind": "files", "tables": [{"path": path}]}).build()
        samples, error = read(source, position)
        assert not error
        return [(one.stream_key, one.event_time_s) for one in samples], samples[-1].position if samples else position

    rows, position = found(None, b=[1, 3], c=[2])
    assert rows == [("b", 1), ("c", 2), ("b", 3)]
    rows, position = found(position, a=[5], b=[1, 3, 6])
    assert rows == [("a", 5), ("b", 6)]
    assert found(position) == ([], position)
    (tmp_path / "day" / "b.csv").unlink()
    rows, position = found(position, d=[7])
    assert rows == [("d", 7)]
    assert found(position, b=[1, 3, 6, 8])[0] == [("b", 8)]  # one that was away for a while


@pytest.mark.parametrize("paths", [["b.csv", "a.csv", "c.csv"], ["c.csv"], ["*.csv", "c.csv"]])
def test_a_position_in_other_tables_is_refused_though_they_have_rows_enough(tmp_path: Path, paths: list[str]) -> None:
    def opened(*paths: str) -> Source:
        tables = [{"path": str(tmp_path / path)} for path in paths]
        return FilesOptions.model_validate({"kind": "files", "tables": tables}).build()

    for name in "abc":
        (tmp_path / f"{name}.csv").write_text("t,v\n1,1\n2,1\n")
    samples, _ = read(opened("a.csv", "c.csv"))
    samples, error = read(opened(*paths), samples[-1].position)
    assert (samples, error[:26]) == ([], "a position in other files ")


def test_a_position_of_rows_and_of_merged_rows_after_them_is_taken(tmp_path: Path) -> None:
    """As snapshots have it that were written before all tables' rows were in every position."""
    (tmp_path / "a.csv").write_text("t,x\n1,1\n3,3\n")
    (tmp_path / "b.csv").write_text("t,x\n2,2\n4,4\n")
    samples, _ = read(table(tmp_path / "*.csv"), [[1, 0], 2])
    assert [int(sample.value[0]) for sample in samples] == [4]


def test_a_csv_of_a_spreadsheet_begins_with_a_mark_that_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbft,a\r\n1,2\r\n")
    assert [(sample.event_time_s, sample.value) for sample in read(table(path))[0]] == [(1.0, [2.0])]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_timestamps_of_parquet_know_their_unit_and_none_is_no_time(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "t.parquet"
    times = np.array([1_700_000_000_000, "NaT", 1_700_000_000_500], dtype="datetime64[ms]")
    pyarrow.parquet.write_table(
        pyarrow.table({"t": pyarrow.array(times.astype(f"datetime64[{unit}]")), "a": [1, 2, 3]}), path
    )
    for said in ("s", "ns"):
        samples, _ = read(table(path, time_unit=said))
        assert [sample.event_time_s for sample in samples] == [1_700_000_000, None, pytest.approx(1_700_000_000.5)]


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_a_table_without_rows_ends_and_one_with_fewer_than_were_read_is_another(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    write_table(path, np.arange(N))
    samples, _ = read(table(path))
    write_table(path, np.arange(0))
    assert read(table(path)) == ([], "")
    for position in (samples[-1].position, [[N], 0]):

        async def opened(position: Any = position) -> None:
            async with table(path).opened(position=position):
                pass

        with pytest.raises(SourceBroken, match=f"fewer rows than the {N}"):
            run(opened())


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", b"a,b\n1,2\n", "no column 't'"),
        ("t.csv", b"t,a,a\n1,2,3\n", "more than one column 'a'"),
        ("t.csv", b"t,a\n1,2" + b" " * (1 << 20) + b"\n", "line 2 is longer than"),
        ("t.csv", b"t,a\n1,\xff\xfe\n", "codec"),
        ("t.csv", b"", "no column"),
        ("t.npz", b"PK\x03\x04 nothing", "not a zip file"),
        ("t.npz", b"", "not a zip file"),
        ("t.parquet", b"PAR1 nothing PAR1", "t.parquet"),
        ("t.parquet", b"", "t.parquet"),
        ("t.dat", b"", "format cannot be told"),
    ],
)
def test_what_is_no_such_table_is_told(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    samples, error = read(table(path))
    assert samples == []
    assert told in error
    assert name in error


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_table_cut_short_is_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    write_table(path, np.arange(N))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"t.{kind}" in read(table(path))[1]


def without_allocating(job: Callable[[], Any]) -> Any:
    tracemalloc.start()
    try:
        answer = job()
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    return answer


def test_an_array_that_claims_ten_gigabytes_is_refused_before_they_are_allocated(tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(lying_npy((1_250_000_000,)))
    (tmp_path / "t.npy").write_bytes(lying_npy((8,)))
    _, error = without_allocating(lambda: read(table(tmp_path / "v.npy", time=str(tmp_path / "t.npy"))))
    assert "tells of 10000000000 bytes" in error
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as members:
        members.writestr("t.npy", lying_npy((1_250_000_000,)))
        members.writestr("values.npy", lying_npy((1_250_000_000,)))
    _, error = without_allocating(lambda: read(table(tmp_path / "t.npz")))
    assert "tells of 10000000000 bytes" in error


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([{}], dtype=object), allow_pickle=True)
    _, error = read(table(tmp_path / "t.npy", time=str(tmp_path / "t.npy")))
    assert "pickle" in error.lower() or "object" in error.lower()


def test_an_mcap_whose_writer_died_gives_what_is_whole_then_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "t.mcap"
    write_mcap(path, range(N))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    samples, error = read(mcap(path))
    assert 10 < len(samples) < N
    positions = [sample.position for sample in samples]
    assert len({position[1] for position in positions if isinstance(position, list)}) == len(samples)
    assert "t.mcap" in error


@pytest.mark.parametrize("content", [b"", b"\x89MCAP0\r\n", b"no such thing at all" * 10])
def test_what_is_no_mcap_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.mcap"
    path.write_bytes(content)
    samples, error = read(mcap(path))
    assert samples == []
    assert "t.mcap" in error


def test_an_mcap_record_that_claims_ten_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.mcap"
    write_mcap(path, range(N), indexed=False)
    data = bytearray(path.read_bytes())
    chunk = data.index(b"\x06", 40)
    data[chunk + 1 : chunk + 9] = struct.pack("<Q", 10 << 30)
    path.write_bytes(data)
    _, error = without_allocating(lambda: read(mcap(path)))
    assert "t.mcap" in error


@pytest.mark.parametrize("indexed", [True, False])
def test_a_number_that_has_changed_in_an_mcap_is_told_and_not_believed(tmp_path: Path, indexed: bool) -> None:
    path = tmp_path / "t.mcap"
    with path.open("wb") as file:
        writer = Writer(
            file,
            compression=CompressionType.NONE,
            chunk_size=300,
            use_summary_offsets=indexed,
            index_types=IndexType.ALL if indexed else IndexType.NONE,
        )
        writer.start()
        channel = writer.register_channel("/row", "json", 0)
        for number in range(100, 150):
            writer.add_message(channel, number, b'{"n": %d}' % number, number)
        writer.finish()
    path.write_bytes(path.read_bytes().replace(b'{"n": 130}', b'{"n": 930}'))
    samples, error = read(mcap(path))
    assert [json.loads(sample.value)["n"] for sample in samples] == list(range(100, 100 + len(samples)))
    assert 0 < len(samples) <= 30
    assert "crc" in error.lower()


def test_any_byte_of_an_mcap_may_be_wrong(tmp_path: Path) -> None:
    path = tmp_path / "t.mcap"
    write_mcap(path, range(20))
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(good), 150):
        bad = bytearray(good)
        bad[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        samples, _ = read(mcap(path))  # a reason, or what can be read; nothing foreign
        assert len(samples) <= 40


def test_a_bag_cut_short_or_without_its_description_is_told(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    write_bag(bag, range(N))
    storage = next(bag.glob("*.db3"))
    storage.write_bytes(storage.read_bytes()[:5000])
    assert "bag" in read(RosOptions.model_validate({"path": str(bag)}).build())[1]
    (bag / "metadata.yaml").unlink()
    with pytest.raises(ConnectorError, match="bag"):
        run(RosOptions.model_validate({"path": str(bag)}).build().open(position=None))


@pytest.mark.parametrize("left_out", ["repeat_channels", "repeat_schemas"])
@pytest.mark.parametrize("topics", [[], ["/row"]])
def test_an_mcap_whose_index_does_not_say_what_its_channels_are_is_read_as_it_was_written(
    tmp_path: Path, left_out: str, topics: list[str]
) -> None:
    path = tmp_path / "t.mcap"
    writer = Writer(
        str(path), repeat_channels=left_out != "repeat_channels", repeat_schemas=left_out != "repeat_schemas"
    )
    writer.start()
    channel = writer.register_channel("/row", "json", writer.register_schema("row", "jsonschema", b"{}"))
    for number in range(N):
        writer.add_message(channel, number, b"{}", number)
    writer.finish()
    samples, error = read(McapOptions.model_validate({"path": str(path), "topics": topics}).build())
    assert (len(samples), error) == (N, "")


@pytest.mark.parametrize("indexed", [True, False])
def test_topics_that_are_not_in_an_mcap_are_told(tmp_path: Path, indexed: bool) -> None:
    path = tmp_path / "t.mcap"
    write_mcap(path, range(N), indexed=indexed)
    samples, error = read(McapOptions.model_validate({"path": str(path), "topics": ["/lidar"]}).build())
    assert (samples, error) == ([], f"{path}: has none of the topics; there are /row")


def test_topics_that_are_not_there_are_told(tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", range(3))
    options = {"path": str(tmp_path / "bag"), "topics": ["/lidar"]}
    assert "there are /imu" in read(RosOptions.model_validate(options).build())[1]
