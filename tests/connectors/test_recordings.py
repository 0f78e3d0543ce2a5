"""Our recordings as MCAP and ROS 2 bags: opened by the libraries themselves, and back without loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from connectors.clock import ClockOptions
from connectors.contract import run
from connectors.errors import SourceBroken
from connectors.mcap_files import McapOptions
from connectors.mcap_segments import SCHEMAS, from_mcap, to_mcap
from connectors.pipeline import Pipeline
from connectors.ros_bags import RosOptions
from connectors.ros_segments import ros_name, to_bag
from connectors.routes import RouteOptions
from grf_core.recording import (
    RecordedSegment,
    RecordedSession,
    RecordingHead,
    RecordingWriter,
    read_recording,
)
from runtime.cli import grf

HEAD = RecordingHead("ward", "made up", "CC0-1.0", {"pulse": 2, "text": 3})


def segment(number: int, **more: Any) -> RecordedSegment:
    rng = np.random.default_rng(number)
    frames = rng.normal(size=(1 + number % 3, 2)).astype(np.float32)
    return RecordedSegment("bed 7", "monitor", "pulse", number, 100.0 + number / 3, frames, **more)


def a_recording(path: Path) -> list[RecordedSegment | RecordedSession]:
    records: list[RecordedSegment | RecordedSession] = [
        RecordedSession("bed 7", {"outcome": "stable", "age": 61.5}),
        RecordedSession("bed 7", {"alarm": "low"}, event_time_s=0.1 + 0.2),
        *(segment(number) for number in range(1, 20)),
        segment(20, arrival_s=107.25, tenant="ward-b"),
        RecordedSegment("bed 7", "notes", "text", 1, -3.5, np.array([[0.1, 1e-42, -3e38]], np.float32)),
    ]
    with RecordingWriter(path, HEAD) as writer:
        for record in records:
            writer.write(record)
    return records


def same(one: Any, other: Any) -> bool:
    if isinstance(one, RecordedSegment) and isinstance(other, RecordedSegment):
        fields = [field for field in RecordedSegment.__slots__ if field != "frames"]
        alike = all(getattr(one, field) == getattr(other, field) for field in fields)
        return alike and np.array_equal(one.frames, other.frames)
    return bool(one == other)


def test_a_recording_comes_back_from_mcap_record_by_record(tmp_path: Path) -> None:
    records = a_recording(tmp_path / "a.grfrec")
    assert to_mcap(tmp_path / "a.grfrec", tmp_path / "a.mcap") == len(records)
    assert from_mcap(tmp_path / "a.mcap", tmp_path / "b.grfrec") == len(records)
    back = read_recording(tmp_path / "b.grfrec")
    assert back.head == HEAD
    assert all(same(one, other) for one, other in zip(records, list(back), strict=True))
    assert (tmp_path / "a.grfrec").read_bytes() == (tmp_path / "b.grfrec").read_bytes()


def test_the_mcap_reader_finds_schemas_that_any_tool_understands(tmp_path: Path) -> None:
    from mcap.reader import make_reader

    a_recording(tmp_path / "a.grfrec")
    to_mcap(tmp_path / "a.grfrec", tmp_path / "a.mcap")
    with (tmp_path / "a.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        messages = list(reader.iter_messages())
    assert summary is not None
    assert {schema.name: schema.encoding for schema in summary.schemas.values()} == dict.fromkeys(SCHEMAS, "jsonschema")
    assert {channel.topic for channel in summary.channels.values()} == {"/bed 7", "/bed 7/monitor", "/bed 7/notes"}
    for schema, _, message in messages:
        assert schema is not None
        content, described = json.loads(message.data), json.loads(schema.data)
        assert content.keys() <= described["properties"].keys()
        stamp = content["timestamp"]
        assert abs(stamp["sec"] * 10**9 + stamp["nsec"] - message.publish_time) == 0


def test_a_recording_in_mcap_is_a_source_like_any_other(tmp_path: Path) -> None:
    records = a_recording(tmp_path / "a.grfrec")
    to_mcap(tmp_path / "a.grfrec", tmp_path / "a.mcap")
    decode = {"format": "json", "values": "frames", "time": "event_time_s"}
    route = RouteOptions.model_validate(
        {"match": "/{bed}/monitor", "session": "{bed}", "stream": "monitor", "modality": "pulse", "decode": decode}
    )
    pipeline = Pipeline([route], ClockOptions())

    async def main() -> list[Any]:
        segments: list[Any] = []
        async with McapOptions(path=str(tmp_path / "a.mcap"), speed="max").build().opened() as source:
            async for samples in source:
                segments += pipeline.window(pipeline.accept(samples, wall_s=0.0))
        return segments + pipeline.end()

    told = np.concatenate([one.frames for one in run(main())])
    monitored = [record for record in records if isinstance(record, RecordedSegment) and record.stream == "monitor"]
    assert np.array_equal(told, np.concatenate([record.frames for record in monitored]))


def test_a_recording_becomes_a_bag_that_is_read_again(tmp_path: Path) -> None:
    records = a_recording(tmp_path / "a.grfrec")
    assert to_bag(tmp_path / "a.grfrec", tmp_path / "bag") == 21

    async def main() -> list[Any]:
        async with RosOptions(path=str(tmp_path / "bag"), topics=("/bed_7/monitor",)).build().opened() as source:
            return [sample async for batch in source for sample in batch]

    for sample, record in zip(run(main()), records[2:22], strict=True):
        assert isinstance(record, RecordedSegment)
        assert sample.event_time_s == pytest.approx(record.event_time_s, abs=1e-6)
        shape = [dimension.size for dimension in sample.value.layout.dim]
        assert np.array_equal(sample.value.data.reshape(shape), record.frames)
    assert ros_name("7/a-b/ü") == "/_7/a_b/_"


@pytest.mark.parametrize("content", ['{"session": "a"}', "[]", '{"session": "a", "stream": "b", "frames": "x"}', "{"])
def test_a_message_that_is_not_as_its_schema_says_is_told(tmp_path: Path, content: str) -> None:
    from mcap.writer import Writer

    with (tmp_path / "bad.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        schema = writer.register_schema("grf.Segment", "jsonschema", b"{}")
        writer.add_message(writer.register_channel("/a/b", "json", schema), 1, content.encode(), 1)
        writer.finish()
    with pytest.raises(SourceBroken, match=r"bad\.mcap: .*not as grf\.Segment says"):
        from_mcap(tmp_path / "bad.mcap", tmp_path / "out.grfrec")


def test_the_command_converts_and_never_writes_over(tmp_path: Path) -> None:
    a_recording(tmp_path / "a.grfrec")

    def convert(source: str, target: str) -> int:
        return CliRunner().invoke(grf, ["convert", str(tmp_path / source), str(tmp_path / target)]).exit_code

    assert convert("a.grfrec", "a.mcap") == 0
    assert convert("a.mcap", "b.grfrec") == 0
    assert convert("a.grfrec", "bag") == 0
    assert convert("a.grfrec", "a.mcap") == 2
    assert convert("a.mcap", "bag2") == 2


VECTOR3 = "float64 x\nfloat64 y\nfloat64 z"
IMU = f"""\
std_msgs/Header header
geometry_msgs/Vector3 linear_acceleration
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
================================================================================
MSG: geometry_msgs/Vector3
{VECTOR3}
"""
IMU_ROUTE = {
    "match": "/imu",
    "session": "robot",
    "stream": "imu",
    "modality": "imu",
    "window": {"frames": 5},
    "decode": {
        "fields": ["linear_acceleration.z", "linear_acceleration.x"],
        "time": "header.stamp",
        "time_unit": "ros",
    },
}


async def windowed(source: Any, route: dict[str, Any]) -> tuple[list[Any], Pipeline]:
    pipeline = Pipeline([RouteOptions.model_validate(route)], ClockOptions())
    segments: list[Any] = []
    async with source.opened():
        async for samples in source:
            segments += pipeline.window(pipeline.accept(samples, wall_s=0.0))
    return segments + pipeline.end(), pipeline


def test_cdr_messages_are_read_by_the_schema_in_the_file(tmp_path: Path) -> None:
    from mcap_ros2.writer import Writer

    with (tmp_path / "robot.mcap").open("wb") as file:
        writer = Writer(file)
        schema = writer.register_msgdef("sensor_msgs/msg/Imu", IMU)
        for number in range(10):
            stamp = {"sec": 100 + number, "nanosec": 500_000_000}
            acceleration = {"x": float(number), "y": 0.0, "z": 9.5}
            message = {"header": {"stamp": stamp, "frame_id": "base"}, "linear_acceleration": acceleration}
            log_ns = (101 + number) * 10**9
            writer.write_message("/imu", schema, message, log_time=log_ns, publish_time=log_ns, sequence=number)
        writer.finish()
    segments, pipeline = run(windowed(McapOptions(path=str(tmp_path / "robot.mcap"), speed="max").build(), IMU_ROUTE))
    assert pipeline.tally.bad == {}
    assert [segment.event_time_s for segment in segments] == [104.5, 109.5]
    assert segments[1].frames.tolist() == [[9.5, float(number)] for number in range(5, 10)]


def test_a_cdr_message_that_does_not_fit_its_schema_is_counted(tmp_path: Path) -> None:
    from mcap.writer import Writer

    with (tmp_path / "robot.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2")
        schema = writer.register_schema("sensor_msgs/msg/Imu", "ros2msg", IMU.encode())
        writer.add_message(writer.register_channel("/imu", "cdr", schema), 10**9, b"\0\1\0\0short", 10**9)
        writer.finish()
    segments, pipeline = run(windowed(McapOptions(path=str(tmp_path / "robot.mcap"), speed="max").build(), IMU_ROUTE))
    assert segments == []
    assert pipeline.tally.bad == {"field": 1}


def test_a_bag_of_mcap_storage_is_read_like_one_of_sqlite(tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    vector = store.types["geometry_msgs/msg/Vector3"]
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/force", vector.__msgtype__, typestore=store)
        for number in range(4):
            data = store.serialize_cdr(vector(x=float(number), y=1.0, z=2.0), vector.__msgtype__)
            writer.write(connection, number * 10**9 + 1, data)
    route = {**IMU_ROUTE, "match": "/force", "window": {"frames": 4}, "decode": {"fields": ["x", "z"]}}
    segments, pipeline = run(windowed(RosOptions(path=str(tmp_path / "bag"), speed="max").build(), route))
    assert pipeline.tally.bad == {}
    assert segments[0].frames.tolist() == [[float(number), 2.0] for number in range(4)]
