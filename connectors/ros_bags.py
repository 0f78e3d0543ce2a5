"""ROS 2 bags, of SQLite or MCAP storage (and ROS 1 bags). Needs the extra `ros` (rosbags); no ROS.

    from: {kind: ros, path: my_bag, topics: [/imu]}
    routes:
      - match: /imu
        decode: {fields: [linear_acceleration.x, linear_acceleration.y], time: header.stamp, time_unit: ros}
        session: robot-7
        stream: imu
        modality: imu

A stream key is a topic, a value the message as an object. Event time is the bag's time stamp, or a field
(`decode.time`); arrival is the bag's time stamp. **Replayable**, and it seeks: a position is a time stamp and a number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from connectors.base import Position, Sample
from connectors.errors import DISK, SourceBroken, Translation, need, translated
from connectors.recorded import RecordedOptions, RecordedSource, after, decoded_or_none, stamp_of


def errors_table() -> Translation:
    return {
        **DISK,
        need("rosbags.highlevel", "ros").AnyReaderError: SourceBroken,
        need("rosbags.rosbag2", "ros").ReaderError: SourceBroken,
        need("rosbags.rosbag1", "ros").ReaderError: SourceBroken,
        need("rosbags.typesys", "ros").TypesysError: SourceBroken,
        sqlite3.Error: SourceBroken,
        ValueError: SourceBroken,
        LookupError: SourceBroken,
        AssertionError: SourceBroken,
    }


class RosOptions(RecordedOptions):
    extra: ClassVar[str] = "ros"

    kind: Literal["ros"] = "ros"
    path: str = Field(min_length=1, description="The bag: a folder (ROS 2) or a file (ROS 1).")
    topics: tuple[str, ...] = Field((), description="Which to read.  [default: all]")
    distribution: str = Field(
        "ros2_humble", description="Whose message types are taken where the bag does not tell its own."
    )

    def build(self) -> RosSource:
        return RosSource(self)


class RosSource(RecordedSource):
    def __init__(self, options: RosOptions) -> None:
        super().__init__(options)
        self._options = options

    def samples(self, position: Position) -> Iterator[Sample]:
        types = need("rosbags.typesys", "ros")
        with translated(errors_table(), self._options.path):
            store = types.get_typestore(types.Stores(self._options.distribution))
            any_reader = need("rosbags.highlevel", "ros").AnyReader
            with any_reader([Path(self._options.path)], default_typestore=store) as reader:
                yield from self._read(reader, position)

    def _read(self, reader: Any, position: Position) -> Iterator[Sample]:
        since_ns, _ = stamp_of(position)
        wanted = self._options.topics
        connections = [one for one in reader.connections if not wanted or one.topic in wanted]
        if not connections:
            raise SourceBroken(f"has none of the topics; there are {', '.join(sorted(reader.topics))}")
        messages = reader.messages(connections, start=since_ns)
        for (connection, stamp_ns, data), place in after(position, ((one[1], one) for one in messages)):
            value = decoded_or_none(reader.deserialize, data, connection.msgtype)
            yield Sample(connection.topic, value, stamp_ns * 1e-9, stamp_ns * 1e-9, place)
