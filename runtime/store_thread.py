"""Runs store jobs one after another in a thread of their own, so that no fsync holds up the worker's loop."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from runtime.dispatch.store_jobs import StoreJob
from runtime.records import RecordError
from runtime.store.base import Store, StoreError

log = logging.getLogger(__name__)


class StoreThread:
    def __init__(self, open_store: Callable[[], Store], on_outcome: Callable[[], None]) -> None:
        """`on_outcome` is called in this thread whenever outcomes can be taken."""
        self._open_store = open_store
        self._on_outcome = on_outcome
        self._jobs: queue.SimpleQueue[StoreJob | None] = queue.SimpleQueue()
        self._outcomes: deque[tuple[StoreJob, object]] = deque()
        self._store: Store | None = None
        self._thread = threading.Thread(target=self._run, name="grf-store", daemon=True)
        self._thread.start()

    def submit(self, job: StoreJob) -> None:
        self._jobs.put(job)

    def take_outcome(self) -> tuple[StoreJob, object] | None:
        """A finished job and what it returned, or the StoreError or RecordError it raised; in order."""
        return self._outcomes.popleft() if self._outcomes else None

    def close(self) -> None:
        """Finish the jobs in hand, then close the store."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        self._open()
        while (job := self._jobs.get()) is not None:
            self._outcomes.append((job, self._outcome(job)))
            self._on_outcome()
        if self._store is not None:
            self._store.close()

    def _open(self) -> None:
        """Before the first job, which may be the load of sessions that wait for their new owner: connecting to a Redis
        and importing its client take up to half a second. What goes wrong is the first job's to tell."""
        with suppress(Exception):
            self._store = self._open_store()

    def _outcome(self, job: StoreJob) -> object:
        try:
            if self._store is None:
                self._store = self._open_store()
            return job.run(self._store)
        except (StoreError, RecordError) as error:
            return error
        except Exception as error:  # a fault of ours; without this thread nothing would ever be durable again
            log.exception("a store job failed")
            return StoreError(f"{type(error).__name__}: {error}")
