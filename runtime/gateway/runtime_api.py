"""The runtime over HTTP: model, routes, cluster, health, metrics and their discovery, the dashboard."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import HTMLResponse, Response

from runtime.client import Refused, RequestTimeout
from runtime.gateway.asking import TheBackend, WhoAsks
from runtime.gateway.backend import Caller
from runtime.gateway.errors import ApiError
from runtime.gateway.json_answer import JsonAnswer
from runtime.gateway.page import DASHBOARD, REFERENCE
from runtime.gateway.runtime_models import (
    ClusterAnswer,
    HealthAnswer,
    ModelAnswer,
    ReadyAnswer,
    RouteAnswer,
    ScrapeTarget,
)

READY_WITHIN_S = 2.0
PAGE_MAY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
"""load nothing, and speak with nobody but this gateway"""

runtime_routes = APIRouter(tags=["runtime"])


@runtime_routes.get("/v1/model", response_model=ModelAnswer, summary="What the model takes and gives")
async def get_model(backend: TheBackend, caller: WhoAsks) -> Response:
    async with backend.clients(caller) as clients:
        welcome = await clients.welcome(backend.policy.answer_timeout_s)
    return JsonAnswer(welcome.signature)


@runtime_routes.get("/v1/route", response_model=RouteAnswer, summary="Where clients connect")
async def get_route(backend: TheBackend) -> Response:
    """The runtime's own clients read this: `Publisher("http://gateway")` finds its worker by it."""
    workers = [
        {"name": w.name, "endpoint": w.endpoint, "incarnation": w.incarnation, "groups": w.groups}
        for w in (await backend.routes()).workers
    ]
    return JsonAnswer({"workers": workers})


@runtime_routes.get("/v1/cluster", response_model=ClusterAnswer, summary="Every worker, with its load")
async def get_cluster(backend: TheBackend) -> Response:
    return JsonAnswer(dict(await backend.cluster()))


@runtime_routes.head("/health", include_in_schema=False)
@runtime_routes.get("/health", response_model=HealthAnswer, summary="Is this process alive?")
async def get_health() -> Response:
    return JsonAnswer({"status": "alive"})


@runtime_routes.head("/ready", include_in_schema=False)
@runtime_routes.get("/ready", response_model=ReadyAnswer, summary="Does a worker answer?")
async def get_ready(backend: TheBackend) -> Response:
    """503 with the reason while no worker has answered this gateway."""
    worker = (await backend.routes()).workers[0].name
    async with backend.clients(Caller()) as clients:
        try:
            await clients.state.check(READY_WITHIN_S)
            worker = clients.state.welcome.worker if clients.state.welcome else worker
        except Refused as refused:
            if refused.code != "unauthorised":  # a worker that asks for a token is there
                raise
        except RequestTimeout as error:
            raise ApiError("unavailable", f"{worker}: {error}") from None
    return JsonAnswer({"status": "ready", "worker": worker})


@runtime_routes.get("/sd/prometheus", response_model=list[ScrapeTarget], summary="Prometheus service discovery")
async def get_scrape_targets(request: Request, backend: TheBackend) -> Response:
    """For `http_sd_configs`: the metrics of every worker, standbys too, of the controller and of the gateway."""
    routes = await backend.processes()
    gateways = routes.gateway_metrics_urls or (str(request.url.replace(path="/metrics", query="")),)
    targets = [_target(url, "worker", name) for name, url in sorted(routes.metrics_urls.items()) if url]
    if routes.controller_metrics_url:
        targets.append(_target(routes.controller_metrics_url, "controller", "controller"))
    targets += [_target(url, "gateway", "gateway") for url in gateways]
    return JsonAnswer(targets)


def _target(url: str, component: str, name: str) -> dict[str, object]:
    parts = urlsplit(url)
    address = parts.netloc if parts.port else f"{parts.netloc}:{443 if parts.scheme == 'https' else 80}"
    labels = {"__scheme__": parts.scheme, "__metrics_path__": parts.path, "component": component, "name": name}
    return {"targets": [address], "labels": labels}


@runtime_routes.get("/metrics", response_class=Response, summary="Metrics of this gateway process, for Prometheus")
async def get_metrics(backend: TheBackend) -> Response:
    return Response(generate_latest(backend.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@runtime_routes.get("/", response_class=HTMLResponse, summary="The dashboard")
async def get_dashboard() -> Response:
    return HTMLResponse(DASHBOARD, headers={"Content-Security-Policy": PAGE_MAY})


@runtime_routes.get("/docs", response_class=HTMLResponse, summary="This reference")
async def get_reference() -> Response:
    return HTMLResponse(REFERENCE, headers={"Content-Security-Policy": PAGE_MAY})
