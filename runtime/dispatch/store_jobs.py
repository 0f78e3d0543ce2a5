"""What the dispatcher asks of the store: jobs, run one after another by whoever drives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from runtime.records import RecordError
from runtime.store.base import Store, StoreError, StoreFenced


@dataclass(frozen=True, slots=True)
class StoreJob:
    run: Callable[[Store], Any]
    """blocks; called where the store lives"""
    done: Callable[[Any, float], None]
    """called where the dispatcher lives, with what `run` returned and the time"""
    failed: Callable[[StoreError | RecordError, float], None]
    """called instead if `run` raised"""
    saves: bool = False
    """what waits to be saved: asked again until it is done"""


@dataclass(slots=True)
class StoreHealth:
    """How the store has answered lately."""

    last_error: str = ""
    """"" while it answers"""
    failing_since_s: float | None = None
    fenced: bool = False
    """another worker owns a group of ours: step down, write nothing more"""


class StoreQueue:
    def __init__(self, retry_s: float) -> None:
        self.retry_s = retry_s
        self.health = StoreHealth()
        self._cannot_save = False
        self._jobs: list[StoreJob] = []

    def put(self, job: StoreJob) -> None:
        self._jobs.append(job)

    def take(self) -> list[StoreJob]:
        """The jobs to run, in order."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def finish(self, job: StoreJob, outcome: object, now_s: float) -> None:
        """Bring back what came of a job: what it returned, or the StoreError or RecordError it raised."""
        if isinstance(outcome, StoreError | RecordError):
            self._note_error(job, outcome, now_s)
            job.failed(outcome, now_s)
        else:
            self._note_answer(job)
            if job.saves:  # where the store was emptied, the groups may be ours again at the epochs that they had
                self.health.fenced = False
            job.done(outcome, now_s)

    def disowned(self, *, of_all: bool) -> None:
        """What the store refused is another worker's now. `of_all`: so is whatever it failed to save, which is not
        asked again."""
        self.health.fenced = False
        if of_all:
            self._note_saved()

    def _note_answer(self, job: StoreJob) -> None:
        if job.saves or not self._cannot_save:  # a disk that is full can still be read
            self._note_saved()

    def _note_saved(self) -> None:
        self.health.last_error, self.health.failing_since_s = "", None
        self._cannot_save = False

    def _note_error(self, job: StoreJob, error: StoreError | RecordError, now_s: float) -> None:
        if isinstance(error, StoreFenced):  # an answer all the same
            self.health.fenced = True
            self._note_answer(job)
        elif isinstance(error, StoreError):
            self._cannot_save = self._cannot_save or job.saves
            self.health.last_error = str(error)
            if self.health.failing_since_s is None:
                self.health.failing_since_s = now_s
