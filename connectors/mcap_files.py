"""MCAP recordings. Needs the extra `mcap` (mcap, mcap-ros2-support).

    from: {kind: mcap, path: drive.mcap, topics: [/imu, /odom], time: publish, speed: 1}

A stream key is a topic. JSON stays bytes (`decode: {format: json, ...}`); CDR with a ROS 2 schema becomes an object
whose fields are named in `decode` (`fields: [linear_acceleration.x, ...]`, `time: header.stamp`, `time_unit: ros`);
anything else stays bytes. Event time is the publish time, or the log time if you say so; arrival is the log time.

**Replayable**, and it seeks: a position is a log time and a number within it. A file without an index (its writer died)
is read in the order it was written; what is whole of it is delivered, then the source breaks with the reason, as it
does at a chunk whose checksum is wrong.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from connectors.base import Position, Sample
from connectors.errors import DISK, SourceBroken, Translation, need, translated
from connectors.recorded import RecordedOptions, RecordedSource, after, decoded_or_none, stamp_of

log = logging.getLogger("grf.connect")

LARGEST_CHUNK_BYTES = 1 << 30
READING: Mapping[str, Any] = {"record_size_limit": LARGEST_CHUNK_BYTES, "validate_crcs": True}
Decode = Callable[[bytes], Any]
OTHER_INDEX = "the file has gained or lost its index since it was read: read it under another name"


def errors_table() -> Translation:
    """What the mcap package raises for bytes that are no MCAP file, its decompressors included."""
    return {
        **DISK,
        need("mcap.exceptions", "mcap").McapError: SourceBroken,
        need("zstandard", "mcap").ZstdError: SourceBroken,
        RuntimeError: SourceBroken,  # lz4
        struct.error: SourceBroken,
        ValueError: SourceBroken,
        LookupError: SourceBroken,
        AssertionError: SourceBroken,
        TypeError: SourceBroken,
    }


class McapOptions(RecordedOptions):
    extra: ClassVar[str] = "mcap"

    kind: Literal["mcap"] = "mcap"
    path: str = Field(min_length=1, description="The file.")
    topics: tuple[str, ...] = Field((), description="Which to read.  [default: all]")
    time: Literal["publish", "log"] = Field("publish", description="Which of a message's times is its event time.")

    def build(self) -> McapSource:
        return McapSource(self)


class McapSource(RecordedSource):
    def __init__(self, options: McapOptions) -> None:
        super().__init__(options)
        self._options = options
        self._topics = list(options.topics) or None
        self._decoders: dict[int, Decode | None] = {}

    def samples(self, position: Position) -> Iterator[Sample]:
        path = Path(self._options.path)
        self._decoders = {}
        with translated(errors_table(), str(path)), path.open("rb") as file:
            reader = need("mcap.reader", "mcap").SeekingReader(file, **READING)
            if self._is_indexed(reader, path):
                yield from self._in_time_order(reader, position)
            else:
                file.seek(0)
                yield from self._in_file_order(file, position)

    def _is_indexed(self, reader: Any, path: Path) -> bool:
        mcap = need("mcap.exceptions", "mcap")
        try:
            summary = reader.get_summary()
        except (mcap.McapError, struct.error, ValueError, OSError) as error:
            reason = str(error) or type(error).__name__
            log.warning("%s has no index that can be read (%s): it is read in the order it was written", path, reason)
            return False
        if summary is None or not summary.chunk_indexes or not _names_its_channels(summary):
            return False
        largest = max(index.uncompressed_size for index in summary.chunk_indexes)
        if largest > LARGEST_CHUNK_BYTES:
            raise SourceBroken(f"its index tells of a chunk of {largest} bytes")
        self._check_topics(summary.channels)
        return True

    def _check_topics(self, channels: Mapping[int, Any]) -> None:
        topics = {channel.topic for channel in channels.values()}
        if self._topics is not None and topics.isdisjoint(self._topics):
            raise SourceBroken(
                f"{self._options.path}: has none of the topics; there are {', '.join(sorted(topics)) or 'none'}"
            )

    def _in_time_order(self, reader: Any, position: Position) -> Iterator[Sample]:
        if isinstance(position, list) and position[:1] == ["number"]:
            raise SourceBroken(OTHER_INDEX)
        since_ns, _ = stamp_of(position)
        messages = reader.iter_messages(topics=self._topics, starting_at=since_ns)
        for (schema, channel, message), place in after(position, ((one[2].log_time, one) for one in messages)):
            yield self._sample(schema, channel, message, place)

    def _in_file_order(self, file: Any, position: Position) -> Iterator[Sample]:
        """A file without an index; a position is how many messages were read."""
        records = need("mcap.records", "mcap")
        reader = need("mcap.stream_reader", "mcap").StreamReader(file, **READING)
        skip = _number_of(position)
        schemas: dict[int, Any] = {}
        channels: dict[int, Any] = {}
        number = 0
        for record in reader.records:
            match record:
                case records.Schema():
                    schemas[record.id] = record
                case records.Channel():
                    channels[record.id] = record
                case records.Message():
                    channel = channels[record.channel_id]
                    if self._topics is None or channel.topic in self._topics:
                        number += 1
                        if number > skip:
                            yield self._sample(schemas.get(channel.schema_id), channel, record, ["number", number])
        self._check_topics(channels)

    def _sample(self, schema: Any, channel: Any, message: Any, position: Position) -> Sample:
        stamp_ns = message.publish_time if self._options.time == "publish" else message.log_time
        value = message.data
        decode = self._decoder(schema, channel)
        if decode is not None:
            value = decoded_or_none(decode, value)
        return Sample(channel.topic, value, stamp_ns * 1e-9, message.log_time * 1e-9, position)

    def _decoder(self, schema: Any, channel: Any) -> Decode | None:
        if channel.id not in self._decoders:
            decode: Decode | None = None
            if channel.message_encoding == "cdr" and schema is not None:
                decode = need("mcap_ros2.decoder", "mcap").DecoderFactory().decoder_for("cdr", schema)
            self._decoders[channel.id] = decode
        return self._decoders[channel.id]


def _names_its_channels(summary: Any) -> bool:
    """With their schemas: a writer may leave them out of the index, and messages cannot be found by it then."""
    channels = summary.channels
    used = {number for index in summary.chunk_indexes for number in index.message_index_offsets}
    schemas = {channel.schema_id for channel in channels.values()} - {0}
    return bool(channels) and used <= channels.keys() and schemas <= summary.schemas.keys()


def _number_of(position: Position) -> int:
    """Of a position in a file without an index."""
    match position:
        case None:
            return 0
        case ["number", int(number)]:
            return number
    raise SourceBroken(OTHER_INDEX)
