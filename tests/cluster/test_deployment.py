"""The gateway in Ray Serve: odd paths, event streams and a controller that goes away, through Serve's proxy."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from runtime.actor_names import CONTROLLER, NAMESPACE
from runtime.engine.policies import EnginePolicy
from runtime.gateway.policy import GatewayPolicy
from runtime.settings import RuntimeSettings, Settings
from tests.cluster.running import wait_until
from tests.runtime.gateway.conftest import ORDER
from tests.runtime.gateway.posting import path_of
from tests.runtime.worker_harness import RunningWorker

pytestmark = pytest.mark.cluster
REPLICAS = 2


class Controller:
    """As much of the controller as a gateway asks."""

    def __init__(self, endpoint: str) -> None:
        self._worker = {"name": "w0", "endpoint": endpoint, "metrics_url": "", "incarnation": "x", "groups": 1024}
        self._gateways: set[str] = set()

    def routes(self) -> Mapping[str, Any]:
        return {"workers": [self._worker], "gateways": sorted(self._gateways)}

    def hear_gateway(self, metrics_url: str) -> None:
        self._gateways.add(metrics_url)

    def cluster(self) -> Mapping[str, Any]:
        return {"workers": [{**self._worker, "role": "serving"}]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    import ray
    from ray import serve

    from runtime.gateway.deployment import run_gateway

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory = tmp_path_factory.mktemp("worker")
    with (
        RunningWorker(directory, engine=EnginePolicy(order=ORDER)) as worker,
        TemporaryDirectory(prefix="grf-") as ray_directory,  # short: Unix sockets lie in it
    ):
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=4,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=ray_directory,
        )
        try:
            actor = ray.remote(Controller).options(name=CONTROLLER, namespace=NAMESPACE, num_cpus=0)
            controller: Any = actor.remote(worker.endpoint)
            ray.get(controller.routes.remote())
            run_gateway(Settings(RuntimeSettings(http_port=port), gateway=GatewayPolicy(replicas=REPLICAS)))
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
                yield http
        finally:
            serve.shutdown()
            ray.shutdown()


def sum_over_replicas(gateway: httpx.Client, metric: str) -> float:
    """The sum of what both replicas tell of a metric."""

    def all_listed() -> list[str]:
        found = gateway.get("/sd/prometheus").json()
        targets = [target["targets"][0] for target in found if target["labels"]["component"] == "gateway"]
        return targets if len(targets) == REPLICAS else []

    # Not asked again: the other one may answer then, which hears of this one a moment later.
    targets = wait_until(all_listed, 20.0, "both replicas are listed")
    texts = [httpx.get(f"http://{target}/metrics").text for target in targets]
    lines = [line for text in texts for line in text.splitlines() if line.startswith(metric)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.parametrize("session", ["a/b", "x/history", "%2F", "🙂"])
def test_any_id_reaches_its_session_through_serve(gateway: httpx.Client, session: str) -> None:
    body = {"stream": "s", "modality": "imu", "event_time_s": 0, "frames": [[1, 2]]}
    assert gateway.post(path_of(session, "/segments"), json=body).json()["version"] == 1
    assert gateway.get(path_of(session)).json()["session"] == session


def test_events_come_through_serve_and_a_reader_who_leaves_is_let_go(gateway: httpx.Client) -> None:
    body = {"stream": "s", "modality": "imu", "event_time_s": 0, "frames": [[1, 2]]}
    gateway.post(path_of("followed", "/segments"), json=body)
    with gateway.stream("GET", path_of("followed", "/events")) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "id: 1"
        assert sum_over_replicas(gateway, "grf_gateway_event_streams") == 1
    wait_until(
        lambda: sum_over_replicas(gateway, "grf_gateway_event_streams") == 0, 20.0, "the event stream is let go of"
    )


def test_each_replica_is_scraped_by_itself_and_together_they_have_counted_every_request(gateway: httpx.Client) -> None:
    """A scrape through the proxy would meet one or the other, and counts would go back and forth."""
    counted = 'grf_gateway_requests_total{route="/health",status="2xx"}'
    before = sum_over_replicas(gateway, counted)
    for _ in range(20):
        assert gateway.get("/health").status_code == 200
    assert sum_over_replicas(gateway, counted) == before + 20


def test_the_gateway_serves_on_without_its_controller(gateway: httpx.Client) -> None:
    import ray

    assert gateway.get("/v1/cluster").json()["workers"][0]["role"] == "serving"
    ray.kill(ray.get_actor(CONTROLLER, NAMESPACE))
    while gateway.get("/v1/cluster").status_code == 200:
        pass
    assert gateway.get("/ready").json()["status"] == "ready"
    assert gateway.get("/v1/route").json()["workers"][0]["name"] == "w0"
    assert gateway.get("/v1/sessions").status_code == 200
