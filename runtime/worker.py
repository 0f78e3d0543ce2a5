"""A worker: the model, the store and the loop put together, its metrics, and its beat to the controller."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial

import torch
from prometheus_client import start_http_server

from grf_core.step import StepModel
from runtime.dispatch.dispatcher import Dispatcher
from runtime.engine.engine import Engine
from runtime.leases import lease_clock, renew_at_store
from runtime.life_line import hold_out
from runtime.metrics import WorkerMetrics, process_registry
from runtime.model_source import open_model
from runtime.orders import Orders
from runtime.placement import Beat, Place
from runtime.routes import as_message
from runtime.seldom_log import SeldomLog
from runtime.settings import Settings
from runtime.store.base import Store, StoreError
from runtime.store_source import open_store
from runtime.store_watch import StoreWatch
from runtime.timed_model import TimedModel
from runtime.tokens_file import TokensFile
from runtime.worker_loop import WorkerLoop

log = logging.getLogger(__name__)

FLUSH_METRICS_S = 0.5

SendBeat = Callable[[Beat], Orders]
"""to the controller; raises whatever its transport raises while the controller is away"""


def load_model(settings: Settings) -> StepModel:
    """The model of the settings on its device. Raises BundleError, ModelError, or RuntimeError for the device."""
    torch.set_num_threads(settings.runtime.threads)
    return open_model(settings.runtime.bundle, settings.runtime.device)


class Worker:
    """One worker in this process. `start` it, then let `beat` be called in turn with the controller's orders."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        model: StepModel,
        send_beat: SendBeat,
        on_death: Callable[[], None],
        place: Place | None = None,
    ) -> None:
        """`on_death` is called when the loop has failed: the process is of no use any more."""
        self.name = name
        self._advertise, self._node = place or Place(settings.runtime.host)
        self.incarnation = uuid.uuid4().hex[:12]
        self._settings = settings
        self._send_beat = send_beat
        self._on_death = on_death
        self._model = TimedModel(model)
        self._registry = process_registry()
        self._metrics = WorkerMetrics(self._registry)
        self._store_watch = StoreWatch()
        self._flush_at_s = 0.0
        self._lag_s = 0.0
        self._busy_s, self._busy, self._described_s = 0.0, 0.0, 0.0
        self._told_released: dict[int, int] = {}
        self._leaves = False
        self._table_stamp = ""
        self._lease_store: Store | None = None
        self._seldom = SeldomLog(log)
        self._beat_now = threading.Event()
        self._stopped = threading.Event()
        engine = Engine(self._model, settings.engine_policy)
        self._tokens = TokensFile(settings)
        self._dispatcher = Dispatcher(engine, name, self.incarnation, self._tokens.tokens, settings.dispatch)
        self._loop = WorkerLoop(self._dispatcher, lambda: open_store(settings), self._on_turn)
        self._beats = threading.Thread(target=self._beat_forever, name="grf-beat", daemon=True)

    def start(self) -> None:
        """Listen, serve metrics, and join the cluster. Owns nothing until the controller says so."""
        runtime = self._settings.runtime
        self._port = self._loop.bind(runtime.host, runtime.data_port)
        server, _ = start_http_server(0, runtime.host, self._registry)
        self._metrics_port = server.server_port
        self._life, self._life_port = hold_out(runtime.host)
        self._loop.start()
        self._beats.start()
        log.info("%s (%s) listens on port %d", self.name, self.incarnation, self._port)

    def stop(self, drain_s: float = 5.0) -> bool:
        """Save what is settled and stop; True if everything settled was saved."""
        self._stopped.set()
        self._beat_now.set()
        saved = self._loop.stop(drain_s)
        self._life.close()
        return saved

    def nudge(self) -> None:
        """Beat at once: the controller has news."""
        self._beat_now.set()

    def leave(self) -> None:
        """Ask the controller to give all that is owned to others; it ends this worker when nothing is left."""
        self._leaves = True
        self._beat_now.set()

    @property
    def is_alive(self) -> bool:
        return self._loop.is_alive

    # ---- the beat's thread ----

    def _beat_forever(self) -> None:
        while not self._stopped.is_set():
            if not self._loop.is_alive:
                self._on_death()
                return
            if self._tokens.has_changed():
                self._loop.call(partial(self._dispatcher.trust, self._tokens.tokens))
            self._beat()
            self._beat_now.wait(self._settings.runtime.heartbeat_s)
            self._beat_now.clear()

    def _beat(self) -> None:
        lease_s = self._settings.runtime.lease_s
        sent_s = lease_clock()
        try:
            beat = self._loop.call(self._describe).result(timeout=lease_s)
        except FutureTimeout:
            log.warning("the loop did not answer for %g s: no beat", lease_s)
            return
        except CancelledError:  # it has ended
            return
        try:
            orders = self._send_beat(beat)
        except Exception as error:  # the controller is being restarted: go on serving what is owned
            self._seldom.warn(sent_s, "no controller", error)
            self._renew_at_store(beat.owner)
            return
        self._loop.call(lambda: self._obey(orders, sent_s + lease_s))

    def _renew_at_store(self, owner: str) -> None:
        sent_s = lease_clock()
        try:
            self._lease_store = self._lease_store or open_store(self._settings)
            renewed = renew_at_store(self._lease_store, owner)
        except StoreError as error:
            self._seldom.warn(sent_s, "the lease cannot be renewed", error)
            return
        if renewed:
            until_s = sent_s + self._settings.runtime.lease_s
            self._loop.call(lambda: self._dispatcher.lease.extend(until_s))

    # ---- the loop's thread ----

    def _obey(self, orders: Orders, until_s: float) -> None:
        dispatcher = self._dispatcher
        dispatcher.lease.extend(until_s)
        dispatcher.own(orders.epochs)
        dispatcher.release(orders.releases)
        self._leaves = self._leaves or orders.leaves
        if orders.table is not None:
            dispatcher.route(as_message(orders.table))
        self._table_stamp = orders.table_stamp

    def _describe(self) -> Beat:
        runtime, dispatcher = self._settings.runtime, self._dispatcher
        engine, now_s = dispatcher.engine, time.monotonic()
        passed_s = now_s - self._described_s
        if passed_s > runtime.heartbeat_s / 2:
            self._busy = min((dispatcher.busy_s - self._busy_s) / passed_s, 1.0)
            self._busy_s, self._described_s = dispatcher.busy_s, now_s
        self._told_released = dispatcher.owned.released
        return Beat(
            name=self.name,
            incarnation=self.incarnation,
            endpoint=f"tcp://{self._advertise}:{self._port}",
            metrics_url=f"http://{self._advertise}:{self._metrics_port}/metrics",
            life_port=self._life_port,
            pid=os.getpid(),
            node=self._node,
            sessions=len(engine.sessions),
            pending_bytes=engine.quotas.pending_bytes,
            busy=self._busy,
            lag_s=self._lag_s,
            fenced=dispatcher.store.health.fenced,
            store_error=dispatcher.store.health.last_error,
            loads=dispatcher.group_load.rates(now_s),
            released=self._told_released,
            table_stamp=self._table_stamp,
            leaves=self._leaves,
            model=engine.signature.digest,
        )

    def _on_turn(self, now_s: float) -> None:
        owned = self._dispatcher.owned
        if owned.released != self._told_released and not owned.frozen:  # all at once: each beat costs its round trip
            self._beat_now.set()
        if now_s >= self._flush_at_s:
            self._flush_at_s = now_s + FLUSH_METRICS_S
            self._store_watch.look(self._dispatcher.store.health)
            self._lag_s = self._dispatcher.take_waited_s()
            self._flush_metrics(now_s)

    def _flush_metrics(self, now_s: float) -> None:
        dispatcher, engine, metrics = self._dispatcher, self._dispatcher.engine, self._metrics
        metrics.flush(engine.take_tally(), self._model.take_seconds(), dispatcher.outbox.take_refusals())
        metrics.sessions.set(len(engine.sessions))
        metrics.ready.set(engine.ready_sessions)
        metrics.pending_bytes.set(engine.quotas.pending_bytes)
        metrics.slab_used.set(engine.slab.capacity - engine.slab.available)
        metrics.slab_capacity.set(engine.slab.capacity)
        metrics.connections.set(len(dispatcher.peers))
        metrics.checkpoint_age_s.set(max(now_s - dispatcher.saver.saved_at_s, 0.0))
        metrics.store_up.set(dispatcher.store.health.failing_since_s is None)
        metrics.key_groups.set(len(dispatcher.owned.epochs))
