"""How much of a transport's own speed is left once its messages become segments?

The same messages are read twice in one process: by the bare library, which parses each message's JSON (json.loads, as
its own examples do; the connector has orjson) into a float32 array and drops it, and by the whole connector (source,
decoding, event time, windows of 10 frames, numbering, snapshots on disk, commits) into a sink that takes every segment
at once. What the runtime behind it does is not part of this.

    mqtt_msgs_per_s     QoS 1 messages of 3 numbers, 100 bytes, from a Mosquitto that has them queued; bare: aiomqtt
    mcap_mb_per_s       JSON messages of [25, 6] numbers, 3 KB, from a file of zstd chunks; bare: mcap
    video_fps_per_core, talk_realtime_factor    pictures and sound: see benchmarks/harness/media.py
    ..._ratio           the connector's speed over the bare library's, medians of alternating rounds; the aim is 0.6

    python -m benchmarks.connectors --keep     5 rounds, and the result in benchmarks/results/
    python -m benchmarks.connectors --quick    1 round of fewer messages
    python -m benchmarks.connectors --only mqtt mcap

The last line is one JSON object. MQTT is left out where there is no Mosquitto (`make system`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness.connector import Taking, runner_of, told
from benchmarks.harness.machine import conclude
from benchmarks.harness.media import measure_talk, measure_video
from connectors.base import Source
from connectors.mcap_files import McapOptions
from connectors.mqtt import MqttOptions
from tests.connectors.servers import Mosquitto

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessageInfo

ROUNDS = 5
AIM = 0.6
TOPIC = "bench/imu"
MQTT_DECODE = {"format": "json", "fields": ["x", "y", "z"], "time": "t", "identity": "id"}
MCAP_DECODE = {"format": "json", "values": "frames", "time": "t", "rate_hz": 100}


async def through_the_connector(source: Source, decode: dict[str, Any], frames: int, folder: Path) -> float:
    """Seconds until so many frames are in segments, and the samples they came from committed."""
    window = {"frames": 10}
    route = {"match": "**", "session": "s", "stream": "{key}", "modality": "x", "decode": decode, "window": window}
    sink = Taking(frames)
    runner = runner_of(source, [route], {}, sink, folder / f"{time.monotonic_ns()}.snapshot")
    began_s = time.perf_counter()
    running, enough = asyncio.create_task(runner.run()), asyncio.create_task(sink.enough.wait())
    await asyncio.wait((running, enough), return_when=asyncio.FIRST_COMPLETED)
    runner.stop()
    await running
    took_s = time.perf_counter() - began_s
    assert runner.health in ("ended", "stopped"), runner.reason
    assert enough.done(), f"{sink.frames} of {frames} frames"
    return took_s


# ---- MCAP ----


def write_mcap(path: Path, messages: int) -> int:
    """Bytes of all payloads."""
    from mcap.writer import Writer

    rng = np.random.default_rng(0)
    n_bytes = 0
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel("/imu", "json", writer.register_schema("imu", "jsonschema", b"{}"))
        for number in range(messages):
            frames = rng.normal(size=(25, 6)).round(12).tolist()
            payload = json.dumps({"t": 1000.0 + number / 4, "frames": frames}).encode()
            stamp_ns = 1_000_000_000_000 + number * 250_000_000
            writer.add_message(channel, stamp_ns, payload, stamp_ns)
            n_bytes += len(payload)
        writer.finish()
    return n_bytes


def bare_mcap(path: Path) -> float:
    from mcap.reader import make_reader

    began_s = time.perf_counter()
    with path.open("rb") as file:
        for _, _, message in make_reader(file).iter_messages():
            np.array(json.loads(message.data)["frames"], dtype=np.float32)
    return time.perf_counter() - began_s


async def measure_mcap(folder: Path, rounds: int, messages: int) -> dict[str, Any]:
    path = folder / "bench.mcap"
    megabytes = write_mcap(path, messages) / 1e6
    bare, ours = [], []
    for _ in range(rounds):
        bare.append(megabytes / bare_mcap(path))
        source = McapOptions(path=str(path), speed="max").build()
        ours.append(megabytes / await through_the_connector(source, MCAP_DECODE, 25 * messages, folder))
    return told("mcap_mb_per_s", bare, ours)


# ---- MQTT ----


@asynccontextmanager
async def queued(server: Mosquitto, client_id: str, messages: int) -> AsyncIterator[MqttOptions]:
    """A session at the broker with so many messages waiting in it."""
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    options = MqttOptions(host="127.0.0.1", port=server.port, topics=(TOPIC,), client_id=client_id)
    async with options.build().opened():
        pass
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(1000)
    client.connect("127.0.0.1", server.port)
    client.loop_start()
    published = [client.publish(TOPIC, mqtt_payload(number), qos=1) for number in range(messages)]
    await asyncio.to_thread(_wait_for, published)
    client.disconnect()
    client.loop_stop()
    yield options


def _wait_for(published: list[MQTTMessageInfo]) -> None:
    for one in published:
        one.wait_for_publish(60.0)


def mqtt_payload(number: int) -> bytes:
    value = number / 1000
    return json.dumps({"id": number, "t": 1000.0 + number / 100, "x": value, "y": -value, "z": 9.81}).encode()


async def bare_mqtt(options: MqttOptions, messages: int) -> float:
    """As the library's own documentation reads; every message is acknowledged as soon as it is received."""
    import aiomqtt
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = options.session_expiry_s
    taken = 0
    began_s = time.perf_counter()
    async with aiomqtt.Client(
        options.host,
        options.port,
        identifier=options.client_id,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=False,
        properties=properties,
    ) as client:
        await client.subscribe(TOPIC, qos=1)
        async for message in client.messages:
            content = json.loads(message.payload)
            np.array([[content["x"], content["y"], content["z"]]], dtype=np.float32)
            taken += 1
            if taken == messages:
                break
    return time.perf_counter() - began_s


async def measure_mqtt(folder: Path, rounds: int, messages: int) -> dict[str, Any]:
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        print("mosquitto is not installed: MQTT is left out", flush=True)
        return {}
    bare, ours = [], []
    with Mosquitto(program, folder, persistent=False) as server:
        for turn in range(rounds):
            async with queued(server, f"bare-{turn}", messages) as options:
                bare.append(messages / await bare_mqtt(options, messages))
            async with queued(server, f"ours-{turn}", messages) as options:
                took_s = await through_the_connector(options.build(), MQTT_DECODE, messages, folder)
                ours.append(messages / took_s)
    return told("mqtt_msgs_per_s", bare, ours)


Measure = Callable[[Path, int, int], Awaitable[dict[str, Any]]]
MEASUREMENTS: dict[str, tuple[Measure, int, int]] = {
    "mqtt": (measure_mqtt, 10_000, 2_000),
    "mcap": (measure_mcap, 24_000, 2_000),
    "video": (measure_video, 600, 100),
    "talk": (measure_talk, 20, 6),
}
"""each with its messages, pictures or seconds per round, and those of --quick"""


async def main(quick: bool, only: list[str], keep: bool) -> None:
    results: dict[str, Any] = {"aim": AIM}
    for name in only or MEASUREMENTS:
        measure, amount, few = MEASUREMENTS[name]
        with tempfile.TemporaryDirectory() as folder:
            results |= await measure(Path(folder), 1 if quick else ROUNDS, few if quick else amount)
    conclude("connectors", results, keep=keep)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", choices=MEASUREMENTS, default=[])
    parser.add_argument("--keep", action="store_true", help="write the answer to benchmarks/results/")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.quick, arguments.only, arguments.keep))
