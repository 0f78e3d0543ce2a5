"""The controller as a named actor, which starts the workers as such. Ray places and restarts them, no more.

Ray never carries a segment: clients speak ZeroMQ with the worker's own socket. Nothing here needs torch: a controller
is to be back at once.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from prometheus_client import CollectorRegistry, start_http_server

from runtime.actor_names import CONTROLLER, HEAD, NAMESPACE, address_of
from runtime.controller import Controller
from runtime.death_watch import DeathWatch
from runtime.heard_gateways import HeardGateways
from runtime.metrics import process_registry
from runtime.orders import Orders
from runtime.placement import Beat
from runtime.rival import RivalWatch
from runtime.seldom_log import SeldomLog
from runtime.settings import Settings
from runtime.starting_workers import StartingWorkers
from runtime.store.base import StoreError
from runtime.store_source import open_store
from runtime.worker_actor import NODE_ID_CHARS, Handle, WorkerActor, log_to_stderr

WORKERS = "worker-"
STORE_RETRY_S = 0.5
NODE_ID_LABEL = "ray.io/node-id"
ANYWHERE: list[dict[str, Any]] = [{"label_selector": {}}]
"""where Ray may start an actor once the node that it was meant for is lost. A soft NodeAffinitySchedulingStrategy says
as much, but of actors that ask for no resources Ray put 8 of 24 where it said"""
LOOK_AT_NODES_S = 1.0

log = logging.getLogger(__name__)

T = TypeVar("T")


class ControllerActor:
    def __init__(self, settings: Settings) -> None:
        log_to_stderr(settings.runtime.log_level)
        registry = process_registry()
        server, _ = start_http_server(0, settings.runtime.host, registry)
        self._metrics_url = f"http://{address_of(settings.runtime.host)}:{server.server_port}/metrics"
        self._settings = settings
        self._gateways = HeardGateways()
        self._stopping = threading.Event()
        self._hands = RayHands(settings)
        self._controller = patiently(lambda: self._new_controller(registry))
        self._hands.avoided |= self._controller.drained_nodes
        self._witness = DeathWatch(_hold_reference, self._died)
        threading.Thread(target=self._watch, name="grf-watch", daemon=True).start()
        threading.Thread(target=self._watch_nodes, name="grf-nodes", daemon=True).start()
        threading.Thread(target=self._watch_rival, name="grf-rival", daemon=True).start()

    def _new_controller(self, registry: CollectorRegistry) -> Controller:
        """Raises StoreError."""
        settings = self._settings
        return Controller(
            open_store(settings),
            self._hands,
            settings.cluster,
            settings.runtime.lease_s,
            registry,
            time.monotonic(),
            expected=worker_names(),
        )

    def _watch_nodes(self) -> None:
        drained: set[str] = set()
        while not self._stopping.wait(LOOK_AT_NODES_S):
            try:
                draining = set(draining_nodes())
                usable = {node[:NODE_ID_CHARS] for node in self._hands.usable_nodes()}
                self._controller.see_nodes(usable, draining | self._hands.avoided)
                for node in draining - drained:
                    log.info("Ray drains node %s", node)
                    self._controller.drain(node, time.monotonic())
                    drained.add(node)
            except Exception as error:
                log.warning("cannot see which nodes live or are drained: %s", error)

    def _watch(self) -> None:
        while not self._stopping.wait(self._settings.runtime.heartbeat_s):
            try:
                self._controller.tick(time.monotonic())
                for name, reason in self._hands.starting.look().items():
                    self._controller.cannot_start(name, reason, time.monotonic())
            except Exception:
                log.exception("a tick of the controller failed")

    def _watch_rival(self) -> None:
        """On a connection and in a thread of its own: a store that hangs must not keep beats waiting."""
        watch = RivalWatch(patiently(lambda: open_store(self._settings)), self._settings.runtime.lease_s)
        while not self._stopping.wait(watch.look_every_s):
            try:
                self._controller.see_rival(watch.look(time.monotonic()), time.monotonic())
                self._controller.see_store(watch.store_error, time.monotonic())
            except Exception:
                log.exception("looking for another controller failed")

    def _died(self, owner: str) -> None:
        self._controller.died(owner, time.monotonic())

    def beat(self, beat: Beat) -> Orders:
        orders = self._controller.beat(beat, time.monotonic())
        self._witness.watch(beat)
        self._hands.saw(beat)
        return orders

    def settings(self) -> Settings:
        """Those that count, whatever a later `grf up` was given."""
        return self._settings

    def routes(self) -> dict[str, Any]:
        gateways = self._gateways.metrics_urls(time.monotonic())
        return self._controller.routes() | {
            "controller_metrics_url": self._metrics_url,
            "gateways": gateways,
            "failed": self._hands.starting.failed,
        }

    def hear_gateway(self, metrics_url: str) -> None:
        self._gateways.hear(metrics_url, time.monotonic())

    def cluster(self) -> dict[str, Any]:
        return self._controller.cluster(time.monotonic())

    def scale(self, workers: int) -> None:
        self._controller.scale(workers, time.monotonic())

    def drain(self, name: str) -> list[str]:
        self._hands.avoid(name)
        self._controller.note_drained(self._hands.avoided)
        return self._controller.drain(name, time.monotonic())

    def stop(self, drain_s: float) -> bool:
        """Stop all workers; True if all that was settled is saved."""
        self._stopping.set()
        alive = [
            worker for worker in self.cluster()["workers"] if worker["heard_s_ago"] < self._settings.runtime.lease_s
        ]
        saved = stop_workers([worker["name"] for worker in alive], drain_s)
        self._controller.end()
        return saved


def stop_workers(names: Collection[str], drain_s: float) -> bool:
    """Have these save and stop, then end all there are; True if each of them says that all settled is saved."""
    stopped: list[Any] = []
    for name in names:
        with suppress(ValueError):  # it has ended, who knows how
            stopped.append(ray.get_actor(name, NAMESPACE).stop.remote(drain_s))
    done: list[Any] = ray.wait(stopped, num_returns=len(stopped), timeout=drain_s + 5.0)[0] if stopped else []
    try:
        saved = len(done) == len(names) and all(ray.get(done))
    except ray.exceptions.RayError as error:
        log.warning("a worker has failed as it was to save: %s", error)
        saved = False
    for name in worker_names():  # they are detached: they would outlive everything
        with suppress(ValueError):
            ray.kill(ray.get_actor(name, NAMESPACE))
    return saved


def _hold_reference(beat: Beat) -> None:
    ray.get(ray.get_actor(beat.name, NAMESPACE).life.remote(beat.incarnation))


def patiently(make: Callable[[], T]) -> T:
    """A controller without its store can do nothing but wait for it, whatever is wrong with it: one that has failed to
    start is never started again, and the runtime would not recover with the store."""
    seldom = SeldomLog(log)
    while True:
        try:
            return make()
        except StoreError as error:
            seldom.warn(time.monotonic(), "waiting for the store", error)
            time.sleep(STORE_RETRY_S)


def worker_names() -> list[str]:
    listed: list[dict[str, str]] = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in listed if actor["namespace"] == NAMESPACE and actor["name"].startswith(WORKERS)]


class RayHands:
    """What the controller asks of Ray, done in threads: nobody waits for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, "grf-hands")
        self._nudges = ThreadPoolExecutor(1, "grf-nudges")
        """by themselves: publishers wait for them, and to end a worker takes seconds"""
        self.starting = StartingWorkers()
        self._handles: dict[str, Handle] = {}
        self._node_of: dict[str, str] = {}
        """workers, by name"""
        self.avoided: frozenset[str] = frozenset()
        """nodes that were drained by `grf drain`; of those that Ray drains it says so itself"""

    def start(self, name: str, beside: Collection[str]) -> None:
        self._thread.submit(self._logged, partial(self._start, beside=beside), name)

    def stop(self, name: str) -> None:
        self._thread.submit(self._logged, self._stop, name)

    def nudge(self, name: str) -> None:
        self._nudges.submit(self._logged, self._nudge, name)

    def _nudge(self, name: str) -> None:
        if name not in self._handles:  # finding an actor by name is a call of its own; a handle outlives restarts
            self._handles[name] = ray.get_actor(name, NAMESPACE)
        self._handles[name].nudge.remote()

    def kill(self, beat: Beat) -> None:
        """A stopped process does not hear Ray, so its pid is used: of an actor's process, in case the number was
        given to another since."""
        if beat.node != ray.get_runtime_context().get_node_id()[: len(beat.node)]:
            return
        with suppress(OSError):  # it is gone
            if b"ray::" in Path(f"/proc/{beat.pid}/cmdline").read_bytes():
                os.kill(beat.pid, signal.SIGKILL)

    def _logged(self, do: Any, name: str) -> None:
        try:
            do(name)
        except Exception as error:
            self._handles.pop(name, None)
            log.warning("%s: %s", name, error)

    def _start(self, name: str, beside: Collection[str]) -> None:
        # Detached: a worker must outlive the controller that started it.
        cluster = self._settings.cluster
        actor = ray.remote(WorkerActor).options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            max_restarts=-1,
            max_concurrency=8,
            num_cpus=cluster.num_cpus,
            num_gpus=cluster.num_gpus,
            label_selector={NODE_ID_LABEL: self._emptiest_node(name, beside)},
            fallback_strategy=ANYWHERE,
            get_if_exists=True,
        )
        self.starting.add(name, actor.remote(name, self._settings))

    def _emptiest_node(self, name: str, beside: Collection[str]) -> str:
        """Ray's own spreading counts resources, of which our actors may ask for none: all would be lost with a node."""
        nodes = self.usable_nodes() or [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        used = Counter(self._node_of[other] for other in beside if other != name and other in self._node_of)
        chosen = min(nodes, key=lambda node: (used[node[:NODE_ID_CHARS]], node))
        self._node_of[name] = chosen[:NODE_ID_CHARS]
        return chosen

    def avoid(self, name: str) -> None:
        """If this is a node (its id, or its address), start nobody there while there is another: it is about to go. A
        machine that comes back is another node."""
        living = [node for node in ray.nodes() if node["Alive"]]
        ids = {node["NodeID"][:NODE_ID_CHARS]: node["NodeManagerAddress"] for node in living}
        drained = frozenset(node for node, address in ids.items() if name in (node, address))
        self.avoided = drained | (self.avoided & ids.keys())

    def usable_nodes(self) -> list[str]:
        """Whole ids of those that live and are not about to go."""
        unusable = {*draining_nodes(), *self.avoided}
        living = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        return [node for node in living if node[:NODE_ID_CHARS] not in unusable]

    def saw(self, beat: Beat) -> None:
        self._node_of[beat.name] = beat.node

    def _stop(self, name: str) -> None:
        actor = ray.get_actor(name, NAMESPACE)
        ray.wait([actor.stop.remote(1.0)], timeout=3.0)
        ray.kill(actor, no_restart=True)
        self._node_of.pop(name, None)
        self._handles.pop(name, None)  # the next one of this name is another actor


def start_controller(settings: Settings, *, detached: bool = False) -> Handle:
    """Start the controller, or find it where one is running; it starts the workers. A detached one outlives drivers.

    It lives on the head node, which Ray itself cannot do without: Ray needs long to see that a node is lost, and
    meanwhile nobody would replace the workers that were lost with it and with the controller.
    """
    actor = ray.remote(ControllerActor).options(
        resources=of_head(),
        name=CONTROLLER,
        namespace=NAMESPACE,
        lifetime="detached" if detached else None,
        max_restarts=-1,
        max_concurrency=64,
        num_cpus=0,
        get_if_exists=True,
    )
    return actor.remote(settings)


def of_head() -> dict[str, float]:
    """A trace of what only the head node has."""
    return {HEAD: 0.001} if any(node["Alive"] and HEAD in node["Resources"] for node in ray.nodes()) else {}


def draining_nodes() -> list[str]:
    """Nodes that Ray has been told to drain (an autoscaler, a spot instance's notice); it has no public call for it."""
    state = ray._private.state.state
    ask = getattr(state, "get_draining_nodes", None)
    return [node[:NODE_ID_CHARS] for node in ask()] if ask is not None else []
