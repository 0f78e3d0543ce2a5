"""A network that falls silent: no end of the connection, no error, nothing. Real brokers and a real worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from connectors.config import load_config
from connectors.snapshots import StateFolder
from connectors.supervisor import Supervisor
from runtime.client import StateClient
from runtime.engine.policies import EnginePolicy, OrderPolicy
from tests.connectors.materials import publish_mqtt, publish_nats, run_nats
from tests.connectors.servers import Mosquitto, Nats
from tests.relay import Relay
from tests.runtime.worker_harness import RunningWorker

NOTICED_WITHIN_S = 4.0
PATIENT = EnginePolicy(order=OrderPolicy(lateness_s=0.1, idle_timeout_s=0.5))
DECODE = {"format": "json", "fields": ["n", "half"], "time": "t", "scale": 0.01}


async def publish(server: Mosquitto | Nats, numbers: range) -> None:
    if isinstance(server, Nats):
        await publish_nats(server, "SILENT.row", numbers)
    else:
        await publish_mqtt(server.port, "SILENT", numbers)


def source_of(server: Mosquitto | Nats, port: int) -> dict[str, Any]:
    if isinstance(server, Nats):
        return {"kind": "nats", "servers": [f"nats://127.0.0.1:{port}"], "stream": "SILENT"}
    broker = {"kind": "mqtt", "host": "127.0.0.1", "port": port, "topics": ["SILENT/#"], "client_id": "silent"}
    return {**broker, "identity_property": "id", "keepalive_s": 1}


def written(folder: Path, source: dict[str, Any], endpoint: str) -> Path:
    route = {"session": "silent", "stream": "rows", "modality": "imu", "decode": DECODE}
    entry = {"from": source, "routes": [route], "restart": {"first_s": 0.1, "max_s": 0.4}}
    options = {"runtime": {"address": endpoint}, "state_dir": str(folder), "http": {"port": 0}}
    (folder / "connect.yaml").write_text(json.dumps({**options, "sources": {"it": entry}}))
    return folder / "connect.yaml"


class Scene:
    """A connector whose broker is at the other end of a relay."""

    def __init__(self, supervisor: Supervisor, registry: CollectorRegistry, client: StateClient) -> None:
        self._supervisor = supervisor
        self._registry = registry
        self._client = client

    async def until_it_is(self, health: str, within_s: float = 10.0) -> None:
        await self._until(lambda: health in [runner.health for runner in self._supervisor.runners.values()], within_s)

    async def until_settled(self, segments: int) -> None:
        await self._until(lambda: self._settled() == segments)

    async def until_opened_in_vain(self) -> None:
        before = self._restarts()
        await self._until(lambda: self._restarts() > before)

    def _settled(self) -> int:
        known = "silent" in self._client.sessions()[0]
        return int((self._client.state("silent")["settled"] or {"version": 0})["version"]) if known else 0

    def _restarts(self) -> float:
        labels = {"source": "it", "reason": "unavailable"}
        return self._registry.get_sample_value("grf_connect_restarts_total", labels) or 0.0

    async def _until(self, is_so: Callable[[], bool], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not await asyncio.to_thread(is_so):
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["mqtt", "nats"])
def test_it_is_noticed_in_time_and_nothing_is_lost_or_doubled(
    kind: str, tmp_path: Path, mosquitto: Mosquitto, nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("jetstream.ANSWER_WITHIN_S", "jetstream.FETCH_S", "mqtt.CALL_WITHIN_S", "mqtt.CLOSE_WITHIN_S"):
        monkeypatch.setattr(f"connectors.{limit}", 0.5)
    server = nats if kind == "nats" else mosquitto
    if kind == "nats":
        run_nats(nats, lambda jetstream: jetstream.add_stream(name="SILENT", subjects=["SILENT.>"]))

    async def main(endpoint: str, client: StateClient) -> None:
        with Relay(server.port) as relay, StateFolder(tmp_path) as folder:
            options = load_config(written(tmp_path, source_of(server, relay.port), endpoint))
            registry, stop = CollectorRegistry(), asyncio.Event()
            supervisor = Supervisor(options, folder, registry)
            running = asyncio.create_task(supervisor.run(stop))
            scene = Scene(supervisor, registry, client)
            await scene.until_it_is("running")
            await publish(server, range(50))
            await scene.until_settled(50)
            relay.cut()
            await publish(server, range(50, 100))
            await scene.until_it_is("waiting", NOTICED_WITHIN_S)
            await scene.until_opened_in_vain()
            relay.heal()
            await scene.until_it_is("running")
            await publish(server, range(100, 150))
            await scene.until_settled(150)
            stop.set()
            assert await running == {"it": "stopped"}

    with RunningWorker(tmp_path, engine=PATIENT) as worker, StateClient(worker.endpoint) as client:
        asyncio.run(main(worker.endpoint, client))
        assert worker.take_refusals() == {}
