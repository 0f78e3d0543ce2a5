"""A worker as a named actor: its process, and its way to the controller."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

import ray

from runtime.actor_names import CONTROLLER, NAMESPACE, address_of
from runtime.compiled import stale_modules
from runtime.orders import Orders
from runtime.placement import Beat, Place
from runtime.settings import Settings

Handle = Any
"""of an actor: Ray's types do not follow methods through `options`"""

NODE_ID_CHARS = 12

log = logging.getLogger(__name__)


def log_to_stderr(level: str) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)


def place_of(settings: Settings) -> Place:
    return Place(address_of(settings.runtime.host), ray.get_runtime_context().get_node_id()[:NODE_ID_CHARS])


class WorkerActor:
    def __init__(self, name: str, settings: Settings) -> None:
        log_to_stderr(settings.runtime.log_level)
        if os.nice(0) > 0:
            log.warning("niceness is %d: start Ray with RAY_worker_niceness=0, or others go first", os.nice(0))
        if stale := [path.stem for path in stale_modules()]:
            log.warning("what runs was compiled from older source: %s. `make compiled`, please", ", ".join(stale))
        # Not at the top: the controller, which starts this, imports this module, and has no use for torch.
        from runtime.huge_pages import use_huge_pages
        from runtime.warm_up import quieten_interpreter, warm_up
        from runtime.worker import Worker, load_model

        use_huge_pages()
        model = load_model(settings)
        warm_up(model)
        self._controller: Handle = None
        self._timeout_s = settings.runtime.lease_s / 2  # then the lease can still be renewed elsewhere before it ends
        self._ended = threading.Event()
        self._worker = Worker(
            name, settings, model, self._send_beat, on_death=lambda: os._exit(1), place=place_of(settings)
        )
        quieten_interpreter()
        self._worker.start()
        self._at_second_sigterm = signal.signal(signal.SIGTERM, self._leave)

    def _send_beat(self, beat: Beat) -> Orders:
        try:
            self._controller = self._controller or ray.get_actor(CONTROLLER, NAMESPACE)
            orders: Any = ray.get(self._controller.beat.remote(beat), timeout=self._timeout_s)
        except Exception:
            self._controller = None
            raise
        assert isinstance(orders, Orders)
        return orders

    def life(self, incarnation: str) -> None:
        """Lasts as long as this process, if it is this incarnation: whoever waits for it hears when it ends."""
        if incarnation == self._worker.incarnation:
            self._ended.wait()

    def _leave(self, *_: object) -> None:
        """Whoever ends this process gives it time: its key groups move away first, then the controller ends it."""
        signal.signal(signal.SIGTERM, self._at_second_sigterm)
        self._worker.leave()

    def nudge(self) -> None:
        self._worker.nudge()

    def process(self) -> int:
        """The process id, for those who want to see it die."""
        return os.getpid()

    def stop(self, drain_s: float) -> bool:
        saved = self._worker.stop(drain_s)
        self._ended.set()
        return saved
