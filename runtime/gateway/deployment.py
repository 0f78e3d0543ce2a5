"""The gateway in Ray Serve: replicas behind Serve's HTTP proxy, each a client of the workers.

`create_app` runs inside the replica, so its clients live in the replica's event loop. Where the workers are it asks
the controller, a named actor; the last answer serves while that is away.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, start_http_server
from ray import serve

from runtime.actor_names import CONTROLLER, HEAD, NAMESPACE, address_of
from runtime.gateway.app import create_app
from runtime.gateway.backend import WorkerBackend
from runtime.gateway.metrics import GatewayMetrics
from runtime.gateway.proxy import PROXY_CALLBACK

if TYPE_CHECKING:  # the settings are those of all layers: a replica needs none but its own
    from runtime.settings import Settings

APPLICATION = "grf"
CONTROLLER_WITHIN_S = 2.0
BESIDE_EVENT_STREAMS = 500
"""requests that a replica works on at once, event streams not counted"""


class ControllerRoutes:
    """Asks the controller, and tells it where this gateway's metrics are. Blocking; for threads other than the event
    loop's."""

    def __init__(self, metrics_url: str) -> None:
        self._metrics_url = metrics_url
        self._controller: Any = None

    def routes(self) -> Mapping[str, Any]:
        routes = self._ask("routes")
        with suppress(AttributeError):  # a controller that runs on while the application is deployed anew may be older
            self._controller.hear_gateway.remote(self._metrics_url)
        return {**routes, "gateways": sorted({*routes.get("gateways", ()), self._metrics_url})}

    def cluster(self) -> Mapping[str, Any]:
        return self._ask("cluster")

    def _ask(self, method: str) -> Mapping[str, Any]:
        try:
            self._controller = self._controller or ray.get_actor(CONTROLLER, NAMESPACE)
            answer: Mapping[str, Any] = ray.get(getattr(self._controller, method).remote(), timeout=CONTROLLER_WITHIN_S)
            return answer
        except Exception:
            self._controller = None  # it may come back as another actor
            raise


def gateway_application(settings: Settings) -> serve.Application:
    """Each replica serves its own metrics on a free port: through the proxy any of them may answer."""
    policy, host, log_level = settings.gateway, settings.runtime.host, settings.runtime.log_level

    def build() -> FastAPI:
        logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        metrics = GatewayMetrics(CollectorRegistry())
        server, _ = start_http_server(0, host, metrics.registry)
        metrics_url = f"http://{address_of(host)}:{server.server_port}/metrics"
        return create_app(WorkerBackend(ControllerRoutes(metrics_url), policy, metrics))

    gateway = serve.deployment(
        name="gateway",
        num_replicas=policy.replicas,
        max_ongoing_requests=policy.max_event_streams + BESIDE_EVENT_STREAMS,
        # One that is alone dies with the head only: Ray takes 20 s to see that another node is lost, and the proxies of
        # all nodes would wait so long for it.
        ray_actor_options={"num_cpus": 0, "resources": {HEAD: 0.001} if policy.replicas == 1 else {}},
        graceful_shutdown_timeout_s=2.0,
        graceful_shutdown_wait_loop_s=0.5,
        logging_config={"enable_access_log": False, "log_level": log_level},
    )(serve.ingress(build)())
    application: serve.Application = gateway.bind()
    return application


def run_gateway(settings: Settings) -> None:
    """Start the gateway on the Ray that this process is connected to; returns once it answers."""
    serve.start(
        http_options={"host": settings.runtime.host, "port": settings.runtime.http_port},
        logging_config={"enable_access_log": False, "log_level": settings.runtime.log_level},
        controller_options={"runtime_env": {"env_vars": PROXY_CALLBACK}},  # which the controller hands to the proxies
    )
    serve.run(gateway_application(settings), name=APPLICATION, route_prefix="/")
