"""Model, routes, discovery, metrics, health, the pages and the OpenAPI."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from runtime.cluster_view import EventKind
from runtime.gateway.app import create_app
from runtime.gateway.backend import WorkerBackend
from runtime.gateway.models import ErrorAnswer, PublishedAnswer, StateAnswer
from runtime.gateway.policy import GatewayPolicy
from runtime.gateway.route_table import FixedRoutes
from runtime.gateway.runtime_models import ClusterAnswer, ClusterEvent, ModelAnswer, RouteAnswer, ScrapeTarget
from tests.runtime.gateway.asgi import in_process
from tests.runtime.gateway.posting import error_of, path_of, posted
from tests.runtime.worker_harness import RunningWorker

pytestmark = pytest.mark.anyio


async def test_the_model_says_what_it_takes_and_gives(http: httpx.AsyncClient) -> None:
    model = ModelAnswer.model_validate((await http.get("/v1/model")).json())
    assert [(modality.name, modality.width) for modality in model.modalities] == [("audio", 3), ("imu", 2), ("text", 2)]
    assert [head.labels for head in model.heads] == [["calm", "loud"], []]


async def test_clients_find_their_worker_by_the_route(worker: RunningWorker, http: httpx.AsyncClient) -> None:
    answer = RouteAnswer.model_validate((await http.get("/v1/route")).json())
    assert [route.endpoint for route in answer.workers] == [worker.endpoint]
    cluster = ClusterAnswer.model_validate((await http.get("/v1/cluster")).json())
    assert [known.endpoint for known in cluster.workers] == [worker.endpoint]


class Controller:
    """A controller with a worker, a gateway and metrics, that can be away."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.is_away = False
        self.has_workers = True

    def routes(self) -> Mapping[str, Any]:
        if self.is_away:
            raise ConnectionError("gone")
        controller = {"controller_metrics_url": "http://10.0.0.2:9102/metrics"}
        if not self.has_workers:
            return {"workers": [], "metrics_urls": {}} | controller
        worker = {
            "name": "w0",
            "endpoint": self.endpoint,
            "metrics_url": "http://10.0.0.1:9101/metrics",
            "incarnation": "x",
            "groups": 1024,
            "pid": 7,
        }
        urls = {"w0": "http://10.0.0.1:9101/metrics", "standby": "http://10.0.0.3:9103/metrics"}
        return {"workers": [worker], "metrics_urls": urls} | controller

    def cluster(self) -> Mapping[str, Any]:
        routes = self.routes()
        return {
            "lease_s": 5.0,
            "workers": [{**worker, "role": "serving", "busy": 0.25} for worker in routes["workers"]],
        }


async def test_prometheus_discovers_all_processes(worker: RunningWorker) -> None:
    async with in_process(create_app(WorkerBackend(Controller(worker.endpoint)))) as http:
        targets = [ScrapeTarget.model_validate(entry) for entry in (await http.get("/sd/prometheus")).json()]
    assert [(target.targets, target.labels["component"], target.labels["name"]) for target in targets] == [
        (["10.0.0.3:9103"], "worker", "standby"),
        (["10.0.0.1:9101"], "worker", "w0"),
        (["10.0.0.2:9102"], "controller", "controller"),
        (["grf:80"], "gateway", "gateway"),
    ]
    assert {target.labels["__metrics_path__"] for target in targets} == {"/metrics"}
    assert {target.labels["__scheme__"] for target in targets} == {"http"}


async def test_prometheus_discovers_what_is_there_while_no_worker_serves() -> None:
    controller = Controller("tcp://127.0.0.1:9")
    controller.has_workers = False
    async with in_process(create_app(WorkerBackend(controller))) as http:
        assert error_of(await http.get("/v1/route")) == (503, "unavailable")
        targets = (await http.get("/sd/prometheus")).json()
    assert [(target["targets"], target["labels"]["component"]) for target in targets] == [
        (["10.0.0.2:9102"], "controller"),
        (["grf:80"], "gateway"),
    ]


async def test_the_last_routes_serve_while_the_controller_is_away(worker: RunningWorker) -> None:
    controller = Controller(worker.endpoint)
    backend = WorkerBackend(controller)
    async with in_process(create_app(backend)) as http:
        cluster = ClusterAnswer.model_validate((await http.get("/v1/cluster")).json())
        assert (cluster.workers[0].role, cluster.workers[0].busy) == ("serving", 0.25)
        assert (await http.get("/ready")).json() == {"status": "ready", "worker": "w0"}

        controller.is_away = True
        backend._table._asked_s = float("-inf")  # long ago
        assert (await http.get("/v1/route")).json()["workers"][0]["endpoint"] == worker.endpoint
        assert (await http.get("/ready")).status_code == 200
        assert error_of(await http.get("/v1/cluster")) == (503, "unavailable")


async def test_a_gateway_without_a_worker_is_alive_and_not_ready() -> None:
    controller = Controller("tcp://127.0.0.1:9")
    controller.is_away = True
    async with in_process(create_app(WorkerBackend(controller, GatewayPolicy(answer_timeout_s=0.1)))) as http:
        assert (await http.get("/health")).json() == {"status": "alive"}
        assert [(await http.head(path)).status_code for path in ("/health", "/ready")] == [200, 503]
        for path in ("/ready", "/v1/route", "/v1/cluster", "/sd/prometheus"):
            answer = await http.get(path)
            assert error_of(answer) == (503, "unavailable")
            assert "gone" in answer.json()["error"]["message"]


async def test_a_gateway_whose_worker_does_not_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.gateway.runtime_api.READY_WITHIN_S", 0.1)
    async with in_process(create_app(WorkerBackend(FixedRoutes("tcp://127.0.0.1:9")))) as http:
        answer = await http.get("/ready")
        assert error_of(answer) == (503, "unavailable")
        assert "worker-0" in answer.json()["error"]["message"]


async def test_requests_are_counted_by_route_and_never_by_session(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session)
    await http.get(path_of(session))
    await http.get(path_of("nobody"))
    await http.get("/no/such/path")
    text = (await http.get("/metrics")).text
    assert 'grf_gateway_requests_total{route="/v1/sessions/{session}",status="2xx"} 1.0' in text
    assert 'grf_gateway_requests_total{route="/v1/sessions/{session}",status="4xx"} 1.0' in text
    assert 'grf_gateway_requests_total{route="other",status="4xx"} 1.0' in text
    assert 'grf_gateway_request_seconds_count{route="/v1/sessions/{session}/segments"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    assert session not in text


@pytest.mark.parametrize(("path", "marks"), [("/", ["/v1/events", "Settled"]), ("/docs", ["/openapi.json", "Send"])])
async def test_pages_are_whole_in_themselves(http: httpx.AsyncClient, path: str, marks: list[str]) -> None:
    answer = await http.get(path)
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["'](https?:)?//""", answer.text)
    assert "innerHTML" not in answer.text
    for mark in marks:
        assert mark in answer.text


async def test_the_openapi_lists_all_with_models_and_descriptions(http: httpx.AsyncClient, app: FastAPI) -> None:
    api = (await http.get("/openapi.json")).json()
    listed = {(method.upper(), path) for path, methods in api["paths"].items() for method in methods}
    assert listed == {
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/ready"),
        ("GET", "/sd/prometheus"),
        ("GET", "/v1/cluster"),
        ("GET", "/v1/events"),
        ("GET", "/v1/model"),
        ("GET", "/v1/route"),
        ("GET", "/v1/sessions"),
        ("GET", "/v1/sessions/{session}"),
        ("DELETE", "/v1/sessions/{session}"),
        ("GET", "/v1/sessions/{session}/events"),
        ("GET", "/v1/sessions/{session}/history"),
        ("POST", "/v1/sessions/{session}/segments"),
    }
    for path, methods in api["paths"].items():
        for method, does in methods.items():
            assert does["summary"], (method, path)
            assert all(one.get("description") or one["name"] == "limit" for one in does.get("parameters", ())), path
    for name, model in api["components"]["schemas"].items():
        undescribed = [field for field, what in model.get("properties", {}).items() if "description" not in what]
        assert len(undescribed) < len(model.get("properties", {})) or len(undescribed) <= 4, (name, undescribed)
    assert "HTTPValidationError" not in api["components"]["schemas"]
    assert "HTTPBearer" in api["components"]["securitySchemes"]


def test_the_examples_of_the_openapi_are_valid() -> None:
    for model in (StateAnswer, PublishedAnswer, ErrorAnswer):
        (example,) = model.model_json_schema()["examples"]
        model.model_validate(example)


def test_every_kind_of_event_is_described() -> None:
    assert ClusterEvent.model_fields["kind"].description == ", ".join(typing.get_args(EventKind))
