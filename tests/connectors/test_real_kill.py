"""kill -9 of a real connector over a real worker, one source of each replayable kind: lost 0, double 0."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.client import StateClient
from runtime.engine.policies import EnginePolicy, OrderPolicy
from tests.connectors.materials import (
    publish_mqtt,
    publish_nats,
    run_nats,
    write_bag,
    write_mcap,
    write_table,
)
from tests.connectors.servers import Mosquitto, Nats, Server
from tests.runtime.worker_harness import RunningWorker

ROOT = Path(__file__).parents[2]
ROWS = 240
"""2.4 s of event time"""
WITHIN_S = 30.0
PATIENT = EnginePolicy(order=OrderPolicy(lateness_s=0.1, idle_timeout_s=0.5))
WINDOW = {"frames": 4, "hop": 2}
SEGMENTS = (ROWS - 4) // 2 + 1


class Connector:
    def __init__(self, folder: Path, sources: dict[str, Any], endpoint: str) -> None:
        self._file = folder / "connect.yaml"
        self._file.write_text(
            json.dumps(
                {
                    "runtime": {"address": endpoint},
                    "state_dir": str(folder / "state"),
                    "http": {"port": 0},
                    "sources": sources,
                }
            )
        )
        self._log = folder / "connect.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "connectors", str(self._file)]
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(20)
        self._process = None
        return code

    def said(self) -> str:
        return self._log.read_text()[-4000:]


def entry(source: dict[str, Any], key: str, session: str, decode: dict[str, Any]) -> dict[str, Any]:
    route = {"match": key, "session": session, "stream": "s", "modality": "imu", "decode": decode, "window": WINDOW}
    snapshot = {"every_s": 0.2, "idle_s": 0.1}
    return {"from": source, "routes": [route], "snapshot": snapshot, "restart": {"first_s": 0.1, "max_s": 0.3}}


JSON = {"format": "json", "fields": ["n", "half"], "time": "t", "scale": 0.01}
VALUES = {"format": "values", "scale": 0.01}
VECTOR = {"fields": ["vector.x", "vector.y"], "time": "header.stamp", "time_unit": "ros", "scale": 0.01}


def recorded_sources(folder: Path) -> dict[str, Any]:
    import numpy as np

    for kind in ("csv", "npz", "parquet"):
        write_table(folder / f"rows.{kind}", np.arange(ROWS))
    write_mcap(folder / "rows.mcap", range(ROWS))
    write_bag(folder / "bag", range(ROWS))
    tables = {
        kind: entry(
            {"kind": "files", "tables": [{"path": str(folder / f"rows.{kind}")}], "speed": 1}, "rows", kind, VALUES
        )
        for kind in ("csv", "npz", "parquet")
    }
    mcap = entry({"kind": "mcap", "path": str(folder / "rows.mcap"), "speed": 1}, "/row", "mcap", JSON)
    ros = entry({"kind": "ros", "path": str(folder / "bag"), "speed": 1}, "/imu", "ros", VECTOR)
    return {**tables, "mcap": mcap, "ros": ros}


def mqtt_entry(port: int, topic: str) -> dict[str, Any]:
    source = {"kind": "mqtt", "host": "127.0.0.1", "port": port, "topics": [f"{topic}/#"], "client_id": topic}
    return entry({**source, "identity_property": "id"}, f"{topic}/row", topic, JSON)


def nats_entry(port: int, stream: str) -> dict[str, Any]:
    source = {"kind": "nats", "servers": [f"nats://127.0.0.1:{port}"], "stream": stream}
    return entry(source, f"{stream}/row", stream, JSON)


async def publish_slowly(mosquitto: Mosquitto, nats: Nats, topic: str, stream: str, numbers: range) -> None:
    await asyncio.gather(publish_mqtt(mosquitto.port, topic, numbers), publish_nats(nats, f"{stream}.row", numbers))


def versions(client: StateClient, sessions: list[str]) -> dict[str, int]:
    known = client.sessions()[0]
    return {
        session: (client.state(session)["settled"] or {"version": 0})["version"] if session in known else 0
        for session in sessions
    }


def wait_for_versions(client: StateClient, expected: dict[str, int], connector: Connector) -> None:
    ends_s = time.monotonic() + WITHIN_S
    while (found := versions(client, list(expected))) != expected and time.monotonic() < ends_s:
        time.sleep(0.1)
    assert found == expected, connector.said()


def test_a_killed_connector_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path, mosquitto: Mosquitto, nats: Nats
) -> None:
    run_nats(nats, lambda jetstream: jetstream.add_stream(name="KILLED", subjects=["KILLED.>"]))
    sources = recorded_sources(tmp_path)
    sources["mqtt"] = mqtt_entry(mosquitto.port, "killed")
    sources["nats"] = nats_entry(nats.port, "KILLED")
    sessions = [source["routes"][0]["session"] for source in sources.values()]
    rng = random.Random(6)
    with RunningWorker(tmp_path, engine=PATIENT) as worker, StateClient(worker.endpoint) as client:
        connector = Connector(tmp_path, sources, worker.endpoint)
        try:
            connector.start()
            wait_until_subscribed(client, connector, mosquitto, nats)
            for life in range(3):
                first = life * ROWS // 3
                numbers = range(max(first, 1), first + ROWS // 3)
                asyncio.run(publish_slowly(mosquitto, nats, "killed", "KILLED", numbers))
                time.sleep(rng.uniform(0.2, 0.6))
                connector.kill()
                connector.start()
            wait_for_versions(client, dict.fromkeys(sessions, SEGMENTS), connector)
            assert connector.stop() == 0, connector.said()
        finally:
            connector.kill()
        assert worker.take_refusals() == {}


def wait_until_subscribed(client: StateClient, connector: Connector, mosquitto: Mosquitto, nats: Nats) -> None:
    """The broker keeps messages for a session only once there is one: what came before its first run is not ours."""
    asyncio.run(publish_nats(nats, "KILLED.row", range(1)))
    ends_s = time.monotonic() + WITHIN_S
    while "mqtt: running" not in connector.said():
        assert time.monotonic() < ends_s, connector.said()
        time.sleep(0.05)
    asyncio.run(publish_mqtt(mosquitto.port, "killed", range(1)))


@pytest.mark.parametrize("kind", ["mqtt", "nats"])
def test_a_broker_that_is_killed_comes_back_and_nothing_is_lost(
    kind: str, tmp_path: Path, server_program: Callable[[str], str]
) -> None:
    server: Server
    if kind == "mqtt":
        server = Mosquitto(server_program("mosquitto"), tmp_path)
    else:
        server = Nats(server_program("nats-server"), tmp_path)
    with server, RunningWorker(tmp_path, engine=PATIENT) as worker, StateClient(worker.endpoint) as client:
        if isinstance(server, Nats):
            run_nats(server, lambda jetstream: jetstream.add_stream(name="BROKER", subjects=["BROKER.>"]))
            source = nats_entry(server.port, "BROKER")
        else:
            source = mqtt_entry(server.port, "BROKER")
        import numpy as np

        write_table(tmp_path / "other.csv", np.arange(ROWS))
        other = entry(
            {"kind": "files", "tables": [{"path": str(tmp_path / "other.csv")}], "speed": 1}, "other", "other", VALUES
        )
        connector = Connector(tmp_path, {"broker": source, "other": other}, worker.endpoint)
        try:
            connector.start()
            wait_until_says(connector, "broker: running")
            publish(server, range(100))
            wait_for_versions(client, {"BROKER": (100 - 4) // 2 + 1}, connector)
            server.kill()
            wait_until_says(connector, "broker: waiting")
            server.start()
            wait_until_says(connector, "broker: running", times=2)
            publish(server, range(100, ROWS))
            wait_for_versions(client, {"BROKER": SEGMENTS, "other": SEGMENTS}, connector)
        finally:
            connector.kill()
        assert worker.take_refusals() == {}


def publish(server: Server, numbers: range) -> None:
    if isinstance(server, Nats):
        asyncio.run(publish_nats(server, "BROKER.row", numbers))
    else:
        asyncio.run(publish_mqtt(server.port, "BROKER", numbers))


def wait_until_says(connector: Connector, text: str, times: int = 1) -> None:
    ends_s = time.monotonic() + WITHIN_S
    while connector.said().count(text) < times:
        assert time.monotonic() < ends_s, connector.said()
        time.sleep(0.05)
