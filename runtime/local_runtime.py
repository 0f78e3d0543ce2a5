"""The embedded default: a Ray of its own on this machine, the controller, one worker, SQLite, the gateway."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from runtime.first_service import READY_WITHIN_S, wait_for_service
from runtime.settings import Settings
from runtime.state_dir import Note, StartError, forget_note, take_lock, write_note
from runtime.store.base import StoreError
from runtime.store_source import open_store, put_together

RAY_ATTEMPTS = 3
DRAIN_S = 5.0
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray would run the worker at niceness 15: behind every publisher on the same machine.
    "RAY_worker_niceness": "0",
    # Serve replaces its HTTP proxy after three checks that fail: ten seconds apart, nobody is answered meanwhile.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # Two dozen logs would come to 3 GB each within months, and what our own processes say has no limit at all.
    "RAY_ROTATION_MAX_BYTES": str(16 << 20),
    "RAY_ROTATION_BACKUP_COUNT": "1",
    # Each process would write there once a minute how often it has done what.
    "RAY_event_stats_print_interval_ms": "0",
    # The last 100,000 calls would be kept, and beats are calls, for a dashboard that is not there.
    "RAY_task_events_report_interval_ms": "0",
}
"""of Ray's processes, where the operator has not set something else"""


class LocalRuntime:
    """Starts everything in `start`, stops everything in `stop`; nothing outlives this process."""

    def __init__(self, settings: Settings, *, show_logs: bool = False) -> None:
        self.settings = settings
        self._state_dir = Path(settings.runtime.state_dir)
        self._show_logs = show_logs
        self._controller: Any = None
        self._lock: IO[str] | None = None
        self._ray_thread = _thread_of_ray()
        """Ray is started in it and it stays while Ray does: in the main thread SIGTERM would end Ray's start in its
        middle, and Linux ends Ray's processes with the thread that started them"""

    @property
    def address(self) -> str:
        return f"http://{self.settings.runtime.host}:{self.settings.runtime.http_port}"

    def start(self, on_progress: Callable[[str], None] = lambda text: None) -> None:
        """Start and wait until segments can be published and states queried. Raises StartError."""
        self._lock = take_lock(self._state_dir)
        try:
            self._check()
        except BaseException:
            self._release(forgets=True)
            raise
        note = Note(os.getpid(), self.address)
        write_note(self._state_dir, note)
        try:
            ray_address = self._start(on_progress)
        except BaseException:
            self.stop(drain_s=0.0)
            raise
        auth_mode = os.environ.get("RAY_AUTH_MODE", "")  # Ray sets it as it starts
        write_note(self._state_dir, replace(note, ray=ray_address, ray_auth=auth_mode))

    def stop(self, drain_s: float = DRAIN_S) -> bool:
        """Save what is settled, then stop all processes; True if all that was settled is saved."""
        import ray

        saved = False
        if self._lock is None:
            return saved
        # Asked in its thread: a start that was interrupted goes on there, and Ray is there after it.
        if self._ray_thread.submit(ray.is_initialized).result():
            if self._controller is not None:
                saved = self._stop_workers(drain_s)
            ray.shutdown()
            if self._controller is not None:
                put_together(self.settings)  # who had the store open has ended
        self._ray_thread.shutdown()
        self._release(forgets=saved or self._controller is None)
        return saved

    def _release(self, *, forgets: bool) -> None:
        """The note stays where not all is saved: so `grf down` learns of it."""
        if self._lock is not None:
            if forgets:
                forget_note(self._state_dir)
            self._lock.close()
            self._lock = None

    # ---- before anything is started ----

    def _check(self) -> None:
        # Not at the top: commands that start no runtime import this module, and have no use for torch.
        from grf_core.bundle import BundleError
        from runtime.model_source import check_model

        runtime = self.settings.runtime
        try:
            self.settings.tokens()
            check_model(runtime.bundle, runtime.device, self.settings.order.lateness_by_modality_s)
            open_store(self.settings).close()
        except BundleError as error:
            raise StartError(f"runtime.bundle: {error} (looked for from {Path.cwd()})") from None
        except (StoreError, ValueError) as error:
            raise StartError(str(error)) from None
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((runtime.host, runtime.http_port))
            except OSError as error:
                hint = "; --set runtime.http_port takes another" if error.errno == errno.EADDRINUSE else ""
                raise StartError(f"{runtime.host}:{runtime.http_port}: {error.strerror}{hint}") from None

    # ---- Ray ----

    def _start(self, on_progress: Callable[[str], None]) -> str:
        """The address of the Ray that was started."""
        for name, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # In a file they are noise.
        os.environ.setdefault("RAY_COLOR_PREFIX", str(int(sys.stderr.isatty())))
        import ray

        from runtime.actor_names import NAMESPACE
        from runtime.controller_actor import start_controller
        from runtime.gateway.deployment import run_gateway

        on_progress("starting Ray")
        self._start_ray(NAMESPACE, on_progress)
        logging.getLogger("ray.serve").setLevel(logging.INFO if self._show_logs else logging.ERROR)
        on_progress("starting the worker and the gateway")
        self._controller = start_controller(self.settings)
        run_gateway(self.settings)  # while the worker loads its model
        log_is = "its log is under /tmp/ray/session_latest/logs"
        wait_for_service(self._routes, on_progress, log_is)
        return str(ray.get_runtime_context().gcs_address)

    def _start_ray(self, namespace: str, on_progress: Callable[[str], None]) -> None:
        """Its parts give one another a few seconds to answer, too few on a machine that is busy: try again."""
        import ray

        for attempts_left in reversed(range(RAY_ATTEMPTS)):
            try:
                with _own_signal_handlers():
                    self._ray_thread.submit(
                        ray.init,
                        address="local",  # never join a cluster that happens to run on this machine
                        namespace=namespace,
                        include_dashboard=False,
                        num_cpus=max(4, os.cpu_count() or 1),
                        log_to_driver=self._show_logs,
                        logging_level=logging.ERROR,
                    ).result()
                return
            except Exception as error:  # of a part that was too late to register Ray says so by no class of its own
                ray.shutdown()
                self._ray_thread.shutdown()  # which ends those parts that a start cut short has left
                self._ray_thread = _thread_of_ray()
                if not attempts_left:
                    raise StartError(f"Ray does not start: {error}") from None
                on_progress("Ray did not answer in time: starting it again")

    def _routes(self) -> Mapping[str, Any]:
        import ray

        try:
            routes: Mapping[str, Any] = ray.get(self._controller.routes.remote(), timeout=READY_WITHIN_S)
            return routes
        except ray.exceptions.RayError as error:
            raise StartError(f"the controller did not start: {error}") from None

    def _stop_workers(self, drain_s: float) -> bool:
        import ray

        try:
            return bool(ray.get(self._controller.stop.remote(drain_s), timeout=drain_s + 10.0))
        except ray.exceptions.RayError:
            return False


def _thread_of_ray() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "ray", initializer=_block_hang_up)


def _block_hang_up() -> None:
    """For this thread and what it starts: a terminal that closes tells Ray's processes as well, before all is saved."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep SIGTERM: a Ray that is initialised takes it for itself, and ends the process before anything is saved."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where we may set no handler
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
