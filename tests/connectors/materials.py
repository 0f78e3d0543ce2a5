"""Small real files, brokers' topics and senders, with samples numbered 0, 1, 2, ..."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import websockets.asyncio.client

from connectors.base import Sample, Source
from connectors.contract import Harness, N
from connectors.files import FilesOptions
from connectors.http_push import HttpOptions, HttpSource
from connectors.jetstream import NatsOptions
from connectors.mcap_files import McapOptions
from connectors.mqtt import MqttOptions
from connectors.ros_bags import RosOptions
from connectors.testing import ScriptedSource, row
from connectors.websocket import WebSocketOptions, WebSocketSource
from tests.connectors.servers import Mosquitto, Nats
from tests.servers import free_port

FIRST_S = 1_700_000_000.0
STEP_S = 0.01
_names = itertools.count()


def time_of(number: int) -> float:
    return FIRST_S + number * STEP_S


def payload(number: int) -> bytes:
    return json.dumps({"t": time_of(number), "n": number, "half": number / 2}).encode()


class Scripted(Harness):
    def __init__(self, **options: Any) -> None:
        self._options = options
        self._committed: list[Any] = []

    def make(self) -> Source:
        source = ScriptedSource([row(time_of(number), number) for number in range(N)], batch=4, **self._options)
        source.committed = self._committed
        return source

    async def produce(self, first: int, count: int, source: Source) -> None:
        assert first == 0

    def number(self, sample: Sample) -> int:
        return int(sample.value[0])


class Files(Harness):
    """Numbers dealt out to three tables, so that the merge has something to do."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder, kind
        for index in range(3):
            numbers = np.arange(index, N, 3)
            write_table(folder / f"part-{index}.{kind}", numbers)

    def make(self) -> Source:
        table: dict[str, Any] = {"path": str(self._folder / f"part-*.{self._kind}")}
        tables = [table]
        if self._kind == "npy":
            tables = [
                {"path": str(self._folder / f"part-{index}.npy"), "time": str(self._folder / f"part-{index}.t.npy")}
                for index in range(3)
            ]
        return FilesOptions.model_validate({"tables": tables}).build()

    async def produce(self, first: int, count: int, source: Source) -> None:
        pass

    def number(self, sample: Sample) -> int:
        assert sample.event_time_s is not None
        assert abs(sample.event_time_s - time_of(int(sample.value[0]))) < 1e-6
        return int(sample.value[0])

    def unavailable(self) -> Source | None:
        return FilesOptions.model_validate({"tables": [{"path": str(self._folder / "nowhere.csv")}]}).build()


def write_table(path: Path, numbers: np.ndarray) -> None:
    times = FIRST_S + numbers * STEP_S
    values = np.stack([numbers, numbers / 2], axis=1).astype(np.float32)
    match path.suffix:
        case ".csv":
            rows = [f"{time!r},{n:g},{half:g}\n" for time, (n, half) in zip(times.tolist(), values, strict=True)]
            path.write_text("t,n,half\n" + "".join(rows))
        case ".npz":
            np.savez(path, t=times, values=values)
        case ".npy":
            np.save(path, values)
            np.save(path.with_suffix(".t.npy"), times)
        case ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pa.table({"t": times, "n": values[:, 0], "half": values[:, 1]})
            pq.write_table(table, path, row_group_size=4)


class Mcap(Harness):
    def __init__(self, path: Path, *, indexed: bool = True) -> None:
        self._path = path
        write_mcap(path, range(N), indexed=indexed)

    def make(self) -> Source:
        return McapOptions.model_validate({"path": str(self._path)}).build()

    async def produce(self, first: int, count: int, source: Source) -> None:
        pass

    def number(self, sample: Sample) -> int:
        number = int(json.loads(sample.value)["n"])
        assert sample.event_time_s is not None
        assert abs(sample.event_time_s - time_of(number)) < 1e-6
        return number

    def unavailable(self) -> Source | None:
        return McapOptions.model_validate({"path": str(self._path.with_name("nowhere.mcap"))}).build()


def write_mcap(path: Path, numbers: Any, *, indexed: bool = True) -> None:
    """Two messages share each log time: a position within it must be told apart."""
    from mcap.writer import IndexType, Writer

    with path.open("wb") as file:
        # Without an index, as left by a writer that died.
        writer = Writer(
            file,
            chunk_size=300,
            index_types=IndexType.ALL if indexed else IndexType.NONE,
            repeat_channels=indexed,
            use_statistics=indexed,
            use_summary_offsets=indexed,
        )
        writer.start()
        schema = writer.register_schema("row", "jsonschema", b'{"type": "object"}')
        channel = writer.register_channel("/row", "json", schema)
        for number in numbers:
            log_ns = int(FIRST_S * 1e9) + number // 2 * 20_000_000
            writer.add_message(channel, log_ns, payload(number), publish_time=round(time_of(number) * 1e9))
        writer.finish()


class Ros(Harness):
    def __init__(self, path: Path) -> None:
        self._path = path
        write_bag(path, range(N))

    def make(self) -> Source:
        return RosOptions.model_validate({"path": str(self._path)}).build()

    async def produce(self, first: int, count: int, source: Source) -> None:
        pass

    def number(self, sample: Sample) -> int:
        return int(sample.value.vector.x)

    def unavailable(self) -> Source | None:
        return RosOptions.model_validate({"path": str(self._path / "nowhere")}).build()


def write_bag(path: Path, numbers: Any) -> None:
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    types = store.types
    stamped = types["geometry_msgs/msg/Vector3Stamped"]
    with Writer(path, version=8) as writer:
        connection = writer.add_connection("/imu", stamped.__msgtype__, typestore=store)
        for number in numbers:
            stamp_ns = round(time_of(number) * 1e9)
            stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="imu")
            vector = types["geometry_msgs/msg/Vector3"](x=float(number), y=number / 2, z=9.81)
            data = store.serialize_cdr(stamped(header=header, vector=vector), stamped.__msgtype__)
            writer.write(connection, stamp_ns // 20_000_000 * 20_000_000, data)


class Mqtt(Harness):
    ends = False

    def __init__(self, server: Mosquitto, qos: int) -> None:
        self._server, self._qos = server, qos
        self._topic = f"contract-{next(_names)}"
        self._subscribed = False

    def make(self) -> Source:
        return mqtt_options(self._server.port, self._topic, qos=self._qos).build()

    async def produce(self, first: int, count: int, source: Source) -> None:
        await publish_mqtt(self._server.port, self._topic, range(first, first + count), qos=self._qos)

    def number(self, sample: Sample) -> int:
        assert sample.stream_key == f"{self._topic}/row"
        return int(json.loads(sample.value)["n"])

    def unavailable(self) -> Source | None:
        return mqtt_options(free_port(), self._topic, qos=self._qos).build()


def mqtt_options(port: int, topic: str, *, qos: int = 1, **more: Any) -> MqttOptions:
    options = {"host": "127.0.0.1", "port": port, "topics": [f"{topic}/#"], "qos": qos, "client_id": f"client-{topic}"}
    return MqttOptions.model_validate({**options, "identity_property": "id", **more})


async def publish_mqtt(port: int, topic: str, numbers: Any, *, qos: int = 1) -> None:
    import aiomqtt
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        for number in numbers:
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = ("id", str(number))
            await client.publish(f"{topic}/row", payload(number), qos=qos, properties=properties)


class JetStream(Harness):
    ends = False

    def __init__(self, server: Nats) -> None:
        self._server = server
        self._name = f"CONTRACT{next(_names)}"
        run_nats(server, self._create)

    async def _create(self, jetstream: Any) -> None:
        await jetstream.add_stream(name=self._name, subjects=[f"{self._name}.>"])

    def make(self) -> Source:
        return self._options(self._server.port).build()

    def _options(self, port: int) -> NatsOptions:
        return NatsOptions.model_validate({"servers": [f"nats://127.0.0.1:{port}"], "stream": self._name})

    async def produce(self, first: int, count: int, source: Source) -> None:
        await publish_nats(self._server, f"{self._name}.row", range(first, first + count))

    def number(self, sample: Sample) -> int:
        assert sample.stream_key == f"{self._name}/row"
        return int(json.loads(sample.value)["n"])

    def unavailable(self) -> Source | None:
        return self._options(free_port()).build()


async def publish_nats(server: Nats, subject: str, numbers: Any) -> None:
    import nats

    connection = await nats.connect(f"nats://127.0.0.1:{server.port}")
    for number in numbers:
        await connection.jetstream().publish(subject, payload(number))
    await connection.close()


def run_nats(server: Nats, job: Any) -> None:
    import asyncio

    import nats

    async def main() -> None:
        connection = await nats.connect(f"nats://127.0.0.1:{server.port}")
        await job(connection.jetstream())
        await connection.close()

    asyncio.run(main())


class Http(Harness):
    ends = False

    def make(self) -> Source:
        return HttpOptions(port=0, token="secret").build()

    async def produce(self, first: int, count: int, source: Source) -> None:
        assert isinstance(source, HttpSource)
        headers = {"Authorization": "Bearer secret"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{source.port}", headers=headers) as client:
            for number in range(first, first + count):
                answer = await client.post("/belt/7", content=payload(number))
                assert answer.status_code == 202

    def number(self, sample: Sample) -> int:
        assert sample.stream_key == "belt/7"
        return int(json.loads(sample.value)["n"])

    def unavailable(self) -> Source | None:
        return HttpOptions(host="192.0.2.1", port=9).build()


class WebSockets(Harness):
    ends = False

    def make(self) -> Source:
        return WebSocketOptions(port=0, token="secret").build()

    async def produce(self, first: int, count: int, source: Source) -> None:
        assert isinstance(source, WebSocketSource)
        url = f"ws://127.0.0.1:{source.port}/phone/7?token=secret"
        async with websockets.asyncio.client.connect(url, proxy=None) as socket:
            for number in range(first, first + count):
                await socket.send(payload(number) if number % 2 else payload(number).decode())

    def number(self, sample: Sample) -> int:
        assert sample.stream_key == "phone/7"
        return int(json.loads(sample.value)["n"])

    def unavailable(self) -> Source | None:
        return WebSocketOptions(host="192.0.2.1", port=9).build()
