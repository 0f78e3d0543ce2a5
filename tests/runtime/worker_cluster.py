"""Several real workers and a real controller in this process: real sockets, one SQLite, a toy model; no Ray.

The workers' beats are plain calls, so what is measured here is our own code and nothing of Ray's.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry

from runtime.controller import Controller
from runtime.engine.policies import OrderPolicy
from runtime.orders import Orders
from runtime.placement import Beat, ClusterPolicy
from runtime.settings import RuntimeSettings, Settings
from runtime.store_source import open_store
from runtime.worker import Worker
from tests.relay import Relay
from tests.runtime.toy_model import ToyModel

WITHIN_S = 30.0


class WorkerCluster:
    def __init__(
        self, directory: Path, workers: int, standbys: int, store: str = "sqlite", order: OrderPolicy | None = None
    ) -> None:
        runtime = RuntimeSettings(state_dir=str(directory), data_port=0, store=store)
        self.settings = Settings(
            runtime=runtime, cluster=ClusterPolicy(workers=workers, standbys=standbys), order=order or OrderPolicy()
        )
        self.workers: dict[str, Worker] = {}
        self.stores: dict[str, str] = {}
        """addresses by which single workers reach the store, if not by the common one"""
        self.relays: dict[str, Relay] = {}
        """by which clients reach single workers, if not by their own endpoints"""
        self.unheard: set[str] = set()
        """workers that are cut off from the controller"""
        self.is_deaf = False
        """the controller hears and answers nobody"""
        self.controller = self.new_controller()
        self._stopping = threading.Event()
        self._ticks = threading.Thread(target=self._tick, daemon=True)

    def new_controller(self) -> Controller:
        settings = self.settings
        return Controller(
            open_store(settings),
            self,
            settings.cluster,
            settings.runtime.lease_s,
            CollectorRegistry(),
            time.monotonic(),
            list(self.workers),
        )

    # ---- the controller's hands ----

    def start(self, name: str, beside: object) -> None:
        runtime = replace(self.settings.runtime, store=self.stores.get(name, self.settings.runtime.store))
        settings = replace(self.settings, runtime=runtime)
        worker = Worker(name, settings, ToyModel(), self._beat, on_death=lambda: None)
        self.workers[name] = worker
        worker.start()

    def stop(self, name: str) -> None:
        threading.Thread(target=self.workers.pop(name).stop).start()

    def nudge(self, name: str) -> None:
        if name in self.workers:
            self.workers[name].nudge()

    def kill(self, beat: Beat) -> None:
        raise AssertionError(f"{beat.owner} is to be killed for the store's lock")

    # ---- what a test does ----

    def _beat(self, beat: Beat) -> Orders:
        if self.is_deaf or beat.name in self.unheard:
            raise ConnectionError("the controller is away")
        if beat.name in self.relays:
            relay = self.relays[beat.name]
            relay.target_port = int(beat.endpoint.rpartition(":")[2])
            beat = replace(beat, endpoint=f"tcp://127.0.0.1:{relay.port}")
        return self.controller.beat(beat, time.monotonic())

    def _tick(self) -> None:
        while not self._stopping.wait(self.settings.runtime.heartbeat_s):
            if not self.is_deaf:
                self.controller.tick(time.monotonic())

    def serving(self) -> dict[str, int]:
        """Key groups by worker."""
        workers = self.controller.cluster(time.monotonic())["workers"]
        return {worker["name"]: worker["groups"] for worker in workers if worker["groups"]}

    def endpoint(self, name: str) -> str:
        workers = self.controller.cluster(time.monotonic())["workers"]
        return next(str(worker["endpoint"]) for worker in workers if worker["name"] == name)

    def wait_until_balanced(self, workers: int) -> None:
        deadline_s = time.monotonic() + WITHIN_S
        while True:
            counts = list(self.serving().values())
            if len(counts) == workers and min(counts) > 0.7 * 1024 / workers and sum(counts) == 1024:
                return
            assert time.monotonic() < deadline_s, f"{counts} after {WITHIN_S:g} s"
            time.sleep(0.02)

    def crash(self, name: str) -> None:
        """As `kill -9`, noticed as a broken life line is."""
        worker = self.workers.pop(name)
        worker._stopped.set()
        worker._loop.kill()
        worker._life.close()
        self.controller.died(f"{name}/{worker.incarnation}", time.monotonic())

    def __enter__(self) -> Self:
        self._ticks.start()
        self.controller.tick(time.monotonic())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._ticks.join()
        for worker in list(self.workers.values()):
            worker.stop(0.5)
