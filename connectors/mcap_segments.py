"""Our recordings as MCAP files, and back. Needs the extra `mcap`.

A segment is a JSON message of schema `grf.Segment` on the topic /SESSION/STREAM, so that any MCAP tool plots it:

    {"timestamp": {"sec": 1700000000, "nsec": 500000000}, "event_time_s": 1700000000.5, "arrival_s": null,
     "tenant": "default", "session": "bed-7", "stream": "monitor", "modality": "vitals", "sequence": 12,
     "frames": [[61.0, 0.98]]}

Its publish time is the event time, its log time the arrival, or the event time where nobody measured that. Labels are
messages of schema `grf.Labels` on /SESSION. The head is the metadata record `grf.recording`. Nothing is lost on the
way: what comes back is the recording, record by record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from connectors.errors import need, translated
from connectors.mcap_files import errors_table
from grf_core.recording import RecordedSegment, RecordedSession, RecordingHead, RecordingWriter, read_recording

HEAD = "grf.recording"
SEGMENT, LABELS = "grf.Segment", "grf.Labels"
TIME_SCHEMA = {
    "type": "object",
    "title": "time",
    "properties": {"sec": {"type": "integer", "minimum": 0}, "nsec": {"type": "integer", "minimum": 0}},
}
TEXT, NUMBER = {"type": "string"}, {"type": "number"}
SCHEMAS: Mapping[str, Any] = {
    SEGMENT: {
        "title": SEGMENT,
        "description": "Frames of one stream of a session: the unit that is fused",
        "type": "object",
        "properties": {
            "timestamp": TIME_SCHEMA,
            "event_time_s": {**NUMBER, "description": "of the last frame, in seconds"},
            "arrival_s": {"type": ["number", "null"], "description": "when it reached the recorder"},
            "tenant": TEXT,
            "session": TEXT,
            "stream": TEXT,
            "modality": TEXT,
            "sequence": {"type": "integer", "description": "1, 2, 3, ... within the stream"},
            "frames": {"type": "array", "items": {"type": "array", "items": NUMBER}, "description": "[T, F]"},
        },
    },
    LABELS: {
        "title": LABELS,
        "description": "What a session is labelled with, by head of the model",
        "type": "object",
        "properties": {
            "timestamp": TIME_SCHEMA,
            "event_time_s": {"type": ["number", "null"], "description": "from when on; null: the whole session"},
            "tenant": TEXT,
            "session": TEXT,
            "labels": {"type": "object"},
        },
    },
}


def to_mcap(recording: Path, target: Path) -> int:
    """Write a recording as MCAP; how many records. FileExistsError, RecordingError, OSError."""
    reader = read_recording(recording)
    count = 0
    with target.open("xb") as file:
        writer = need("mcap.writer", "mcap").Writer(file)
        writer.start(profile="", library="grf-runtime")
        head = reader.head
        texts = {"title": head.title, "source": head.source, "licence": head.licence}
        writer.add_metadata(HEAD, {**texts, "modalities": json.dumps(dict(head.modalities))})
        schemas = {
            name: writer.register_schema(name, "jsonschema", json.dumps(schema).encode())
            for name, schema in SCHEMAS.items()
        }
        channels: dict[tuple[str, str], int] = {}
        for record in reader:
            count += 1
            name, topic, times_ns, content = _message(record)
            if (name, topic) not in channels:
                channels[name, topic] = writer.register_channel(topic, "json", schemas[name])
            log_ns, publish_ns = times_ns
            writer.add_message(channels[name, topic], log_ns, json.dumps(content).encode(), publish_time=publish_ns)
        writer.finish()
    return count


def _message(record: RecordedSegment | RecordedSession) -> tuple[str, str, tuple[int, int], dict[str, Any]]:
    event_ns = _nanoseconds(record.event_time_s or 0.0)
    content: dict[str, Any] = {
        "timestamp": {"sec": event_ns // 10**9, "nsec": event_ns % 10**9},
        "event_time_s": record.event_time_s,
        "tenant": record.tenant,
        "session": record.session,
    }
    if isinstance(record, RecordedSession):
        return LABELS, f"/{record.session}", (event_ns, event_ns), content | {"labels": dict(record.labels)}
    content |= {
        "arrival_s": record.arrival_s,
        "stream": record.stream,
        "modality": record.modality,
        "sequence": record.sequence,
        "frames": record.frames.tolist(),
    }
    log_ns = event_ns if record.arrival_s is None else _nanoseconds(record.arrival_s)
    return SEGMENT, f"/{record.session}/{record.stream}", (log_ns, event_ns), content


def _nanoseconds(time_s: float) -> int:
    """MCAP knows no time before 1970; the exact one is in the message."""
    return max(0, round(time_s * 1e9))


def from_mcap(source: Path, target: Path) -> int:
    """Write the segments and labels of an MCAP file as a recording; other messages are left out. Returns how many.

    Raises SourceBroken for what is no MCAP file, or whose messages are not as their schema says.
    """
    with translated(errors_table(), str(source)), source.open("rb") as file:
        reader = need("mcap.reader", "mcap").SeekingReader(file)
        head = _head(reader, source)
        count = 0
        with RecordingWriter(target, head) as writer:
            for record in _records(reader):
                writer.write(record)
                count += 1
    return count


def _head(reader: Any, source: Path) -> RecordingHead:
    for metadata in reader.iter_metadata():
        if metadata.name == HEAD:
            content = metadata.metadata
            modalities = {str(name): int(width) for name, width in json.loads(content["modalities"]).items()}
            return RecordingHead(content["title"], content["source"], content["licence"], modalities)
    modalities = {
        record.modality: record.frames.shape[1] for record in _records(reader) if isinstance(record, RecordedSegment)
    }
    if not modalities:
        raise ValueError(f"has no message of schema {SEGMENT}")
    return RecordingHead(source.stem, str(source.name), "", modalities)


def _records(reader: Any) -> Iterator[RecordedSegment | RecordedSession]:
    """In the order in which they were written."""
    for schema, channel, message in reader.iter_messages(log_time_order=False):
        if schema is not None and schema.name in SCHEMAS and channel.message_encoding == "json":
            try:
                yield _record(schema.name, json.loads(message.data))
            except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
                raise ValueError(f"{channel.topic}: a message is not as {schema.name} says: {error!r}") from None


def _record(name: str, content: dict[str, Any]) -> RecordedSegment | RecordedSession:
    tenant, session = str(content.get("tenant", "default")), str(content["session"])
    if name == LABELS:
        return RecordedSession(session, dict(content["labels"]), tenant, content["event_time_s"])
    frames = np.array(content["frames"], dtype=np.float32)
    arrival_s = content.get("arrival_s")
    return RecordedSegment(
        session,
        str(content["stream"]),
        str(content["modality"]),
        int(content["sequence"]),
        float(content["event_time_s"]),
        frames,
        None if arrival_s is None else float(arrival_s),
        tenant,
    )
