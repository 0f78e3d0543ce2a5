"""How much of a transport's own speed is left once its messages become segments?

The same messages are read twice in one process: by the bare library, which parses each message's JSON into a float32
array and drops it, and by the whole connector (source, decoding, event time, windows of 10 frames, numbering, snapshots
on disk, commits) into a sink that takes every segment at once. What the runtime behind it does is not part of this.

    mqtt_msgs_per_s     QoS 1 messages of 3 numbers, 100 bytes, from a Mosquitto that has them queued; bare: aiomqtt
    mcap_mb_per_s       JSON messages of [25, 6] numbers, 3 KB, from a file of zstd chunks; bare: mcap
    video_fps_per_core, talk_realtime_factor    pictures and sound: see benchmarks/harness/media.py
    ..._ratio           the connector's speed over the bare library's, medians of alternating rounds; the aim is 0.6

    python -m benchmarks.connectors            5 rounds
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
from statistics import median
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.harness.media import measure_talk, measure_video
from connectors.backoff import Backoff, RestartOptions
from connectors.base import Source
from connectors.clock import ClockOptions
from connectors.delivery import SnapshotOptions
from connectors.mcap_files import McapOptions
from connectors.metrics import ConnectMetrics
from connectors.mqtt import MqttOptions
from connectors.pipeline import Pipeline
from connectors.routes import RouteOptions
from connectors.runner import Runner
from connectors.snapshots import SnapshotFile
from connectors.windowing import Values
from runtime.client.stream_buffer import Receipt
from tests.connectors.servers import Mosquitto

ROUNDS = 5
AIM = 0.6
TOPIC = "bench/imu"
MQTT_DECODE = {"format": "json", "fields": ["x", "y", "z"], "time": "t", "identity": "id"}
MCAP_DECODE = {"format": "json", "values": "frames", "time": "t", "rate_hz": 100}


class Taking:
    """A sink that has everything durable at once."""

    def __init__(self) -> None:
        self.segments = 0

    async def publish(
        self, session: str, stream: str, modality: str, frames: Values, event_time_s: float, *, sequence: int | None
    ) -> Receipt:
        self.segments += 1
        receipt = Receipt()
        receipt.is_durable = True
        return receipt

    def end(self, session: str, stream: str) -> None:
        pass

    async def wait_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            await asyncio.sleep(3600.0)

    async def flush(self, timeout_s: float | None = None) -> None:
        pass


async def through_the_connector(source: Source, decode: dict[str, Any], samples: int, folder: Path) -> float:
    """Seconds until so many samples are segments and committed."""
    route = {
        "match": "**",
        "session": "s",
        "stream": "{key}",
        "modality": "x",
        "decode": decode,
        "window": {"frames": 10},
    }
    registry, sink = CollectorRegistry(), Taking()
    pipeline = Pipeline(
        [RouteOptions.model_validate(route)], ClockOptions(),
        seeks=source.seeks, redelivers_at_most=source.redelivers_at_most,
    )  # fmt: skip
    kept = SnapshotFile(folder / f"{time.monotonic_ns()}.snapshot", "bench")
    runner = Runner(
        "bench", source, pipeline, {}, sink, kept, ConnectMetrics(registry, ["bench"]),
        options=SnapshotOptions(), backoff=Backoff(RestartOptions()),
    )  # fmt: skip
    began_s = time.perf_counter()
    running = asyncio.create_task(runner.run())
    while (
        not running.done()
        and (registry.get_sample_value("grf_connect_samples_total", {"source": "bench"}) or 0) < samples
    ):
        await asyncio.sleep(0.005)
    runner.stop()
    await running
    took_s = time.perf_counter() - began_s
    assert runner.health in ("ended", "stopped"), runner.reason
    assert sink.segments >= samples // 10 - 1, f"{sink.segments} segments of {samples} samples"
    return took_s


def taken(registry: CollectorRegistry) -> float:
    return registry.get_sample_value("grf_connect_samples_total", {"source": "bench"}) or 0.0


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
    bare_s, ours_s = [], []
    for _ in range(rounds):
        bare_s.append(bare_mcap(path))
        source = McapOptions(path=str(path), speed="max").build()
        ours_s.append(await through_the_connector(source, MCAP_DECODE, messages, folder))
    return told("mcap", "mb", megabytes, bare_s, ours_s)


# ---- MQTT ----


@asynccontextmanager
async def queued(server: Mosquitto, client_id: str, messages: int) -> AsyncIterator[MqttOptions]:
    """A session at the broker with so many messages waiting in it."""
    import paho.mqtt.client as paho

    options = MqttOptions(host="127.0.0.1", port=server.port, topics=(TOPIC,), client_id=client_id)
    async with options.build().opened():
        pass
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(1000)
    client.connect("127.0.0.1", server.port)
    client.loop_start()
    published = [client.publish(TOPIC, mqtt_payload(number), qos=1) for number in range(messages)]
    await asyncio.to_thread(lambda: [one.wait_for_publish(60.0) for one in published])
    client.disconnect()
    client.loop_stop()
    yield options


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
        options.host, options.port, identifier=options.client_id, protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=False, properties=properties,
    ) as client:  # fmt: skip
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
    bare_s, ours_s = [], []
    with Mosquitto(program, folder, persistent=False) as server:
        for turn in range(rounds):
            async with queued(server, f"bare-{turn}", messages) as options:
                bare_s.append(await bare_mqtt(options, messages))
            async with queued(server, f"ours-{turn}", messages) as options:
                ours_s.append(await through_the_connector(options.build(), MQTT_DECODE, messages, folder))
    return told("mqtt", "msgs", messages, bare_s, ours_s)


def told(name: str, unit: str, amount: float, bare_s: list[float], ours_s: list[float]) -> dict[str, Any]:
    bare, ours = amount / median(bare_s), amount / median(ours_s)
    print(f"{name}: bare {bare:,.1f} {unit}/s, connector {ours:,.1f} {unit}/s, {ours / bare:.2f} of it", flush=True)
    return {
        f"{name}_{unit}_per_s": round(ours, 1),
        f"{name}_{unit}_per_s_bare": round(bare, 1),
        f"{name}_ratio": round(ours / bare, 3),
    }


Measure = Callable[[Path, int, int], Awaitable[dict[str, Any]]]
MEASUREMENTS: dict[str, tuple[Measure, int, int]] = {
    "mqtt": (measure_mqtt, 10_000, 2_000),
    "mcap": (measure_mcap, 24_000, 2_000),
    "video": (measure_video, 600, 100),
    "talk": (measure_talk, 20, 6),
}
"""each with its messages, pictures or seconds per round, and those of --quick"""


async def main(quick: bool, only: list[str]) -> None:
    results: dict[str, Any] = {"aim": AIM}
    for name in only or MEASUREMENTS:
        measure, amount, few = MEASUREMENTS[name]
        with tempfile.TemporaryDirectory() as folder:
            results |= await measure(Path(folder), 1 if quick else ROUNDS, few if quick else amount)
    print(json.dumps(results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", choices=MEASUREMENTS, default=[])
    arguments = parser.parse_args()
    asyncio.run(main(arguments.quick, arguments.only))
