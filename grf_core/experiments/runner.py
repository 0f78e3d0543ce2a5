"""Arms times seeds: each is trained once, its figures are kept in a small file, and what is kept is not done again.

An arm is a recipe, a model and what is measured of it once it is trained. The epoch is chosen on the validation part by
the training run; the test part is only ever measured, once, at the end.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from grf_core.data.sessions import Dataset, LabelledSession
from grf_core.experiments.cost import parameters
from grf_core.experiments.trained import EVERYTHING, Scores, Trained
from grf_core.model import GRF
from grf_core.training.preparation import TrainingError
from grf_core.training.recipe import Condition, Recipe
from grf_core.training.run import ModelFactory, TrainingRun

FORMAT = 1
"""Of what is kept; files of another are not believed."""
QUICK_TRAINING_SESSIONS = 80
QUICK_TEST_SESSIONS = 40


@dataclass(frozen=True, slots=True)
class Measured:
    scores: Mapping[str, Scores]
    """By condition."""
    shown: Mapping[str, Any] = field(default_factory=dict)
    """What plots need beyond scores, as JSON."""


Measure = Callable[[Trained], Measured]
"""Can be sent to another process, so it is a function of a module or a frozen dataclass."""


@dataclass(frozen=True, slots=True)
class UnderConditions:
    conditions: tuple[Condition, ...] = (EVERYTHING,)

    def __call__(self, trained: Trained) -> Measured:
        return Measured({condition.name: trained.scores(condition) for condition in self.conditions})


@dataclass(frozen=True, slots=True)
class Arm:
    name: str
    recipe: Recipe
    factory: ModelFactory = GRF
    measure: Measure = UnderConditions()


@dataclass(frozen=True, slots=True)
class Finished:
    """One arm with one seed."""

    arm: str
    seed: int
    scores: Mapping[str, Scores]
    shown: Mapping[str, Any]
    validation_figure: float | None
    best_epoch: int
    epochs: int
    parameters: int
    seconds: float
    failed: str | None = None
    """Why the training came to nothing."""


@dataclass(frozen=True, slots=True)
class Laboratory:
    """Where and how arms are run."""

    work: Path
    data: Path | None = None
    seeds: int = 3
    jobs: int = 1
    quick: bool = False
    fresh: bool = False
    """Do again what is kept."""
    tell: Callable[[str], None] = lambda _: None

    def run(self, arms: Sequence[Arm]) -> list[Finished]:
        """Of every arm with every seed, in that order."""
        tasks = [Task(arm, seed, self.data, self.quick) for seed in range(self.seeds) for arm in arms]
        kept = {task.key: self._kept(task) for task in tasks}
        missing = [task for task in tasks if kept[task.key] is None]
        if len(missing) < len(tasks):
            self.tell(f"{len(tasks) - len(missing)} of {len(tasks)} are kept from before in {self.work}")
        for done, (task, finished) in enumerate(self._finish(missing), start=len(tasks) - len(missing) + 1):
            self._keep(task, finished)
            kept[task.key] = finished
            self.tell(f"{done} of {len(tasks)}: {told(finished)}")
        results = {(f.arm, f.seed): f for f in kept.values() if f is not None}
        return [results[arm.name, seed] for arm in arms for seed in range(self.seeds)]

    def _finish(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Finished]]:
        if self.jobs == 1 or len(tasks) < 2:
            for task in tasks:
                with one_thread():
                    finished = perform(task)
                yield task, finished
            return
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.jobs, spawn, torch.set_num_threads, (1,)) as pool:
            futures = {pool.submit(perform, task): task for task in tasks}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _path(self, task: Task) -> Path:
        return self.work / f"{task.key}.json"

    def _kept(self, task: Task) -> Finished | None:
        if self.fresh or not self._path(task).exists():
            return None
        try:
            return Finished(**json.loads(self._path(task).read_text()))
        except (ValueError, TypeError):
            return None  # half written by another version: done again, and replaced

    def _keep(self, task: Task, finished: Finished) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        partial = self._path(task).with_suffix(".partial")
        values = {name: getattr(finished, name) for name in Finished.__slots__}
        partial.write_text(json.dumps(values, allow_nan=False))
        os.replace(partial, self._path(task))


@dataclass(frozen=True, slots=True)
class Task:
    arm: Arm
    seed: int
    data: Path | None
    quick: bool

    @property
    def key(self) -> str:
        """A name that changes with all that the result depends on, but the code and the bytes of the data."""
        described = {
            "format": FORMAT,
            "arm": self.arm.name,
            "recipe": self.arm.recipe.to_json(),
            "load": described_callable(self.arm.recipe.load),
            "factory": described_callable(self.arm.factory),
            "measure": described_callable(self.arm.measure),
            "data": None if self.data is None else str(self.data.resolve()),
            "quick": self.quick,
        }
        digest = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=6).hexdigest()
        readable = "".join(letter if letter.isalnum() else "-" for letter in self.arm.name)[:60]
        return f"{readable}-{digest}-{self.seed}"


def perform(task: Task) -> Finished:
    """Train and measure; the result of a training that diverges is that it failed."""
    arm, began_s = task.arm, time.monotonic()
    dataset = loaded(arm.recipe, task.data, task.quick)
    recipe = arm.recipe.fitted(dataset)
    run = TrainingRun(recipe, dataset.train, task.seed, model_factory=arm.factory)
    weights = parameters(run.model)
    try:
        for _ in run.epochs():
            pass
    except TrainingError as error:
        seconds = time.monotonic() - began_s
        return Finished(
            arm.name,
            task.seed,
            scores={},
            shown={},
            validation_figure=None,
            best_epoch=run.best_epoch,
            epochs=run.epoch,
            parameters=weights,
            seconds=seconds,
            failed=str(error),
        )
    seconds = time.monotonic() - began_s
    with torch.random.fork_rng([]):
        torch.manual_seed(task.seed)
        measured = arm.measure(Trained.of(run, dataset.test))
    return Finished(
        arm.name,
        task.seed,
        scores=dict(measured.scores),
        shown=dict(measured.shown),
        validation_figure=run.best,
        best_epoch=run.best_epoch,
        epochs=run.epoch,
        parameters=weights,
        seconds=seconds,
    )


@lru_cache(maxsize=1)
def _loaded(load: Callable[[Path | None], Dataset], data: Path | None) -> Dataset:
    return load(data)


def loaded(recipe: Recipe, data: Path | None, quick: bool) -> Dataset:
    """The dataset, read once in each process; of a quick run some of its sessions, evenly chosen."""
    dataset = _loaded(recipe.load, data)
    if not quick:
        return dataset
    return replace(
        dataset,
        train=_thinned(dataset.train, QUICK_TRAINING_SESSIONS),
        test=_thinned(dataset.test, QUICK_TEST_SESSIONS),
    )


def _thinned(sessions: tuple[LabelledSession, ...], count: int) -> tuple[LabelledSession, ...]:
    if len(sessions) <= count:
        return sessions
    return tuple(sessions[position * len(sessions) // count] for position in range(count))


def described_callable(callable_: object) -> str:
    """The same in every process: no address is part of it."""
    if is_dataclass(callable_) and not isinstance(callable_, type):
        return f"{type(callable_).__module__}.{callable_!r}"
    return f"{getattr(callable_, '__module__', '')}.{getattr(callable_, '__qualname__', repr(callable_))}"


def told(finished: Finished) -> str:
    text = f"{finished.arm}, seed {finished.seed}, {finished.seconds:.0f} s"
    if finished.failed is not None:
        return f"{text}: failed, {finished.failed}"
    scores = next(iter(finished.scores.values()), {})
    figures = [f"{name} {value:.3f}" for name, value in scores.items() if name not in ("n", "segments")][:2]
    return f"{text}, epoch {finished.best_epoch} of {finished.epochs}: {', '.join(figures)}"


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
