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
from connectors.recorded import RecordedOptions, RecordedSource


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
        since_ns, skip = _parsed(position)
        wanted = self._options.topics
        connections = [one for one in reader.connections if not wanted or one.topic in wanted]
        if not connections:
            raise SourceBroken(f"has none of the topics; there are {', '.join(sorted(reader.topics))}")
        at_ns, number = since_ns, 0
        for connection, stamp_ns, data in reader.messages(connections, start=since_ns):
            if stamp_ns != at_ns:
                at_ns, number, skip = stamp_ns, 0, 0
            number += 1
            if number > skip:
                stamp_s = stamp_ns * 1e-9
                value = _decoded(reader, connection, data)
                yield Sample(connection.topic, value, stamp_s, stamp_s, [at_ns, number])


def _decoded(reader: Any, connection: Any, data: bytes) -> Any:
    """None for a message that does not fit its type: the pipeline counts it, for it has no fields."""
    try:
        return reader.deserialize(data, connection.msgtype)
    except Exception:  # whatever the generated reader stumbles over
        return None


def _parsed(position: Position) -> tuple[int | None, int]:
    match position:
        case None:
            return None, 0
        case [int(at_ns), int(number)]:
            return at_ns, number
    raise SourceBroken("a position of another kind of source")
