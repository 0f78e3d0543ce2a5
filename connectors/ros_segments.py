"""Our recordings as ROS 2 bags. Needs the extra `ros`; no ROS.

A segment is a std_msgs/Float32MultiArray [frames, features] on the topic /SESSION/STREAM at its event time, which any
ROS tool reads. Names become ROS names: what is no letter, digit or slash becomes an underscore. Sequence numbers,
labels and arrivals have no place in it: this way goes out only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from connectors.errors import need, translated
from connectors.ros_bags import errors_table
from grf_core.recording import RecordedSegment, read_recording

ARRAY = "std_msgs/msg/Float32MultiArray"


def to_bag(recording: Path, target: Path) -> int:
    """Write a recording as a new folder; how many segments. Raises SourceBroken if it is there, RecordingError."""
    types = need("rosbags.typesys", "ros")
    store = types.get_typestore(types.Stores.ROS2_HUMBLE)
    count = 0
    with translated(errors_table(), str(target)), need("rosbags.rosbag2", "ros").Writer(target, version=8) as writer:
        connections: dict[str, Any] = {}
        for record in read_recording(recording):
            if isinstance(record, RecordedSegment):
                topic = ros_name(f"{record.session}/{record.stream}")
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, ARRAY, typestore=store)
                stamp_ns = max(0, round(record.event_time_s * 1e9))
                writer.write(connections[topic], stamp_ns, store.serialize_cdr(_array(store, record), ARRAY))
                count += 1
    return count


def ros_name(name: str) -> str:
    parts = [re.sub(r"[^A-Za-z0-9_]", "_", part) for part in name.split("/") if part]
    return "/" + "/".join(part if not part[0].isdigit() else f"_{part}" for part in parts)


def _array(store: Any, record: RecordedSegment) -> Any:
    dimension = store.types["std_msgs/msg/MultiArrayDimension"]
    frames, width = record.frames.shape
    dimensions = [
        dimension(label="frames", size=frames, stride=frames * width),
        dimension(label=record.modality, size=width, stride=width),
    ]
    layout = store.types["std_msgs/msg/MultiArrayLayout"](dim=dimensions, data_offset=0)
    return store.types[ARRAY](layout=layout, data=record.frames.reshape(-1))
