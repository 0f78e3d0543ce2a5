"""The gateway in Ray Serve: replicas behind Serve's HTTP proxy, each a client of the workers.

`create_app` runs inside the replica, so its clients live in the replica's event loop. Where the workers are it asks
the controller, a named actor; the last answer serves while that is away.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray
from fastapi import FastAPI
from ray import serve

from runtime.actor_names import CONTROLLER, HEAD, NAMESPACE
from runtime.gateway.app import create_app
from runtime.gateway.backend import WorkerBackend
from runtime.gateway.policy import GatewayPolicy

if TYPE_CHECKING:  # the settings are those of all layers: a replica needs none but its own
    from runtime.settings import Settings

APPLICATION = "grf"
CONTROLLER_WITHIN_S = 2.0
BESIDE_EVENT_STREAMS = 500
"""requests that a replica works on at once, event streams not counted"""


class ControllerRoutes:
    """Asks the controller. Blocking; for threads other than the event loop's."""

    def __init__(self) -> None:
        self._controller: Any = None

    def routes(self) -> Mapping[str, Any]:
        return self._ask("routes")

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


def gateway_application(policy: GatewayPolicy, replicas: int = 1, log_level: str = "INFO") -> serve.Application:
    def build() -> FastAPI:
        logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        return create_app(WorkerBackend(ControllerRoutes(), policy))

    gateway = serve.deployment(
        name="gateway",
        num_replicas=replicas,
        max_ongoing_requests=policy.max_event_streams + BESIDE_EVENT_STREAMS,
        # One that is alone dies with the head only: Ray takes 20 s to see that another node is lost, and the proxies of
        # all nodes would wait so long for it.
        ray_actor_options={"num_cpus": 0, "resources": {HEAD: 0.001} if replicas == 1 else {}},
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
    )
    replicas = settings.gateway.replicas
    application = gateway_application(settings.gateway, replicas, log_level=settings.runtime.log_level)
    serve.run(application, name=APPLICATION, route_prefix="/")
