"""The shells around Ray: the controller and the workers as named actors. Ray places and restarts them, no more.

Ray never carries a segment: clients speak ZeroMQ with the worker's own socket.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

import ray
from prometheus_client import CollectorRegistry, start_http_server

from runtime.controller import Controller, Orders
from runtime.placement import Beat
from runtime.settings import Settings
from runtime.warm_up import quieten_interpreter, warm_up
from runtime.worker import Worker, load_model, open_store

NAMESPACE = "grf"
CONTROLLER = "grf-controller"
BEAT_TIMEOUT_S = 2.0
START_WORKER_WITHIN_S = 60.0

log = logging.getLogger(__name__)

Handle = Any
"""of an actor: Ray's types do not follow methods through `options`"""


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)


class ControllerActor:
    def __init__(self, settings: Settings) -> None:
        _log_to_stderr(settings.runtime.log_level)
        registry = CollectorRegistry()
        server, _ = start_http_server(0, settings.runtime.host, registry)
        self._metrics_url = f"http://{settings.runtime.host}:{server.server_port}/metrics"
        self._settings = settings
        self._stopping = threading.Event()
        self._controller = Controller(
            open_store(settings),
            self._start_worker,
            settings.runtime.lease_s,
            START_WORKER_WITHIN_S,
            registry,
            time.monotonic(),
        )
        threading.Thread(target=self._watch, name="grf-watch", daemon=True).start()

    def _watch(self) -> None:
        while not self._stopping.wait(self._settings.runtime.heartbeat_s):
            self._controller.tick(time.monotonic())

    def _start_worker(self, name: str) -> None:
        # Detached: a worker must outlive the controller that started it.
        actor = ray.remote(WorkerActor).options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            max_restarts=-1,
            max_concurrency=4,
            num_cpus=0,
            get_if_exists=True,
        )
        actor.remote(name, self._settings)

    def beat(self, beat: Beat) -> Orders:
        return self._controller.beat(beat, time.monotonic())

    def routes(self) -> dict[str, Any]:
        return self._controller.routes() | {"controller_metrics_url": self._metrics_url}

    def cluster(self) -> dict[str, Any]:
        return self._controller.cluster(time.monotonic())

    def stop(self, drain_s: float) -> bool:
        """Stop all workers; True if all that was settled is saved."""
        self._stopping.set()
        alive = [
            worker for worker in self.cluster()["workers"] if worker["heard_s_ago"] < self._settings.runtime.lease_s
        ]
        names = [worker["name"] for worker in alive]
        stopped: list[Any] = [ray.get_actor(name, NAMESPACE).stop.remote(drain_s) for name in names]
        done: list[Any] = ray.wait(stopped, num_returns=len(stopped), timeout=drain_s + 5.0)[0] if stopped else []
        return len(done) == len(stopped) and all(ray.get(done))


class WorkerActor:
    def __init__(self, name: str, settings: Settings) -> None:
        _log_to_stderr(settings.runtime.log_level)
        if os.nice(0) > 0:
            log.warning("niceness is %d: start Ray with RAY_worker_niceness=0, or others go first", os.nice(0))
        model = load_model(settings)
        warm_up(model)
        self._controller: Handle = None
        self._worker = Worker(name, settings, model, self._send_beat, on_death=lambda: os._exit(1))
        quieten_interpreter()
        self._worker.start()

    def _send_beat(self, beat: Beat) -> Orders:
        try:
            self._controller = self._controller or ray.get_actor(CONTROLLER, NAMESPACE)
            orders: Any = ray.get(self._controller.beat.remote(beat), timeout=BEAT_TIMEOUT_S)
        except Exception:
            self._controller = None
            raise
        assert isinstance(orders, Orders)
        return orders

    def process(self) -> int:
        """The process id, for those who want to see it die."""
        return os.getpid()

    def stop(self, drain_s: float) -> bool:
        return self._worker.stop(drain_s)


def start_controller(settings: Settings) -> Handle:
    """Start the controller, or find it where one is running; it starts the workers."""
    actor = ray.remote(ControllerActor).options(
        name=CONTROLLER, namespace=NAMESPACE, max_restarts=-1, max_concurrency=16, num_cpus=0, get_if_exists=True
    )
    return actor.remote(settings)
