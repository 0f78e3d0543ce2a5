"""Encoders in processes of their own: what holds the interpreter's lock for milliseconds never holds up the event loop.

    class Workshop:                      # one in each process, made there: the model
        def work(self, stream): ...      # a Work: the synchronous encoder of one stream
        def encode(self, jobs): ...      # the work of several streams together, where the model takes batches

A stream always goes to the same process, for its memory is there (a followed face, half a word). While a process is
busy, what comes for it waits; then all of it goes over in one call, so streams share the way there and the model's
batch. Nobody waits for a timer.

A process that dies takes the memory of its streams along: a new one is started, each stream goes on in it from its
snapshot, and what was on its way is given to it again, this time stream by stream. Samples over which it dies a second
time are bad.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

from connectors.base import JsonValue, Sample
from connectors.errors import BadSample, ConnectorError, SourceBroken, SourceUnavailable

log = logging.getLogger("grf.connect")

MAX_JOBS = 64
"""streams that go over in one call"""


class Work(Protocol):
    """Of one stream. Raises BadSample before it changes anything."""

    def encode(self, samples: Sequence[Sample]) -> Sequence[Any]: ...

    def end(self) -> Sequence[Any]: ...

    def snapshot(self) -> JsonValue: ...

    def restore(self, state: JsonValue) -> None: ...


class Workshop(Protocol):
    """Of one process."""

    def work(self, stream: str) -> Work: ...


class Job(NamedTuple):
    work: Work
    samples: Sequence[Sample]


Outcome = Sequence[Any] | ConnectorError


class BatchingWorkshop(Workshop, Protocol):
    def encode(self, jobs: Sequence[Job]) -> list[Outcome]:
        """For each job what its work's `encode` would give."""


class _Order(NamedTuple):
    stream: str
    anew: bool
    alone: bool
    """in a call of its own: it may be what killed the process before"""
    state: JsonValue
    samples: Sequence[Sample] | None
    """None: the stream is at its end"""


class _Died(ConnectorError):
    """The process is gone; a new one has been started."""


class _Forgotten(ConnectorError):
    """The process knows no such stream: it has not always been there."""


class Answer(NamedTuple):
    results: Sequence[Any]
    snapshot: JsonValue


_Waiting = tuple[_Order, asyncio.Future[Answer]]


@dataclass(slots=True)
class _Process:
    executor: ProcessPoolExecutor
    waiting: list[_Waiting] = field(default_factory=list)
    busy: asyncio.Task[None] | None = None


class Processes:
    """`make` is called once in each process and must be importable there: a class, or a partial of one."""

    def __init__(self, make: Callable[[], Workshop], *, count: int) -> None:
        self._make = make
        self._count = count
        self._processes: list[_Process] = []

    async def open(self) -> None:
        """Start them, load the models. Raises what `make` raises if it is a ConnectorError, else SourceBroken."""
        if self._processes:
            return
        self._processes = [_Process(_executor()) for _ in range(self._count)]
        loop = asyncio.get_running_loop()
        starts = [loop.run_in_executor(process.executor, _make_workshop, self._make) for process in self._processes]
        try:
            for error in await asyncio.gather(*starts):
                if error is not None:
                    raise error
        except BrokenProcessPool as broken:
            await self.close()
            raise SourceBroken(f"the process of the encoder does not start: {broken}") from broken
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Whoever waits for an answer is cancelled."""
        processes, self._processes = self._processes, []
        for process in processes:
            if process.busy is not None:
                process.busy.cancel()
            for _, future in process.waiting:
                future.cancel()
        await asyncio.gather(*(self._shut_down(process) for process in processes))

    async def _shut_down(self, process: _Process) -> None:
        if process.busy is not None:
            with suppress(asyncio.CancelledError):
                await process.busy
        await asyncio.to_thread(process.executor.shutdown, wait=True, cancel_futures=True)

    @property
    def process_ids(self) -> list[int]:
        return [pid for process in self._processes for pid in (process.executor._processes or {})]

    async def encode(self, stream: str, samples: Sequence[Sample], *, anew: bool, state: JsonValue) -> Answer:
        """`anew`: the stream begins, or goes on from `state`, whatever is known of one of its name.

        Raises BadSample, SourceBroken; SourceUnavailable if it is not open.
        """
        plain = [sample._replace(attributes=dict(sample.attributes)) for sample in samples]  # a proxy cannot go over
        return await self._ask(_Order(stream, anew, False, state, plain))

    async def end(self, stream: str, *, anew: bool, state: JsonValue) -> Answer:
        """What was held back; the stream is forgotten."""
        return await self._ask(_Order(stream, anew, False, state, None))

    async def _ask(self, order: _Order) -> Answer:
        try:
            return await self._put(order if order.anew else order._replace(state=None))
        except _Forgotten:  # by a process that was started since
            again = order._replace(anew=True)
        except _Died:
            again = order._replace(anew=True, alone=True)
        try:
            return await self._put(again)
        except _Died as died:
            raise BadSample("codec", f"the encoder's process died over it: {order.stream}") from died

    async def _put(self, order: _Order) -> Answer:
        if not self._processes:
            raise SourceUnavailable("the encoder's processes are not open")
        process = self._processes[zlib.crc32(order.stream.encode()) % len(self._processes)]
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        process.waiting.append((order, future))
        if process.busy is None or process.busy.done():
            process.busy = asyncio.create_task(self._drain(process))
        return await future

    async def _drain(self, process: _Process) -> None:
        """Whatever waits, as long as something does."""
        loop = asyncio.get_running_loop()
        while process.waiting:
            taken = self._next(process)
            orders = [order for order, _ in taken]
            answers: Sequence[Answer | ConnectorError]
            try:
                answers = await loop.run_in_executor(process.executor, _do, orders)
            except BrokenProcessPool:
                answers = [await self._start_again(process)] * len(taken)
            except Exception as error:  # what goes over or comes back cannot be pickled: a defect, told to who waits
                answers = [SourceBroken(f"{type(error).__name__}: {error}")] * len(taken)
            except asyncio.CancelledError:
                for _, future in taken:
                    future.cancel()
                raise
            for (_, future), answer in zip(taken, answers, strict=True):
                if future.done():  # nobody waits any more
                    continue
                if isinstance(answer, Answer):
                    future.set_result(answer)
                else:
                    future.set_exception(answer)

    def _next(self, process: _Process) -> list[_Waiting]:
        """As many as go over together."""
        count = next((at for at, (order, _) in enumerate(process.waiting) if order.alone), len(process.waiting))
        count = min(max(count, 1), MAX_JOBS)
        taken, process.waiting = process.waiting[:count], process.waiting[count:]
        return taken

    async def _start_again(self, process: _Process) -> ConnectorError:
        """What to tell those who waited for the one that died."""
        log.warning("the process of an encoder (%s) died; it is started again", _name_of(self._make))
        process.executor.shutdown(wait=False)
        process.executor = _executor()
        try:
            error = await asyncio.get_running_loop().run_in_executor(process.executor, _make_workshop, self._make)
        except BrokenProcessPool as broken:
            return SourceBroken(f"the encoder's process died, and a new one does not start: {broken}")
        return error or _Died()


def _name_of(make: Callable[[], Workshop]) -> str:
    made = make.func if isinstance(make, partial) else make
    return getattr(made, "__name__", repr(made)).removesuffix("Workshop")


def _executor() -> ProcessPoolExecutor:
    # A fork of a process with threads may hold a lock for ever.
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare)


# ---- inside the process ----

_workshop: Workshop | None = None
_works: dict[str, Work] = {}


def _prepare() -> None:
    """Ctrl-C and a terminal that closes are for the parent, which closes its processes; a parent that was killed closes
    nothing.

    C++ libraries write warnings about themselves to the terminal of whoever uses them: GRF_ENCODER_STDERR=1 shows them.
    What goes wrong in our own code comes back as an answer.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not os.environ.get("GRF_ENCODER_STDERR"):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    threading.Thread(target=_leave_with_the_parent, name="orphan-watch", daemon=True).start()


def _leave_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make_workshop(make: Callable[[], Workshop]) -> ConnectorError | None:
    global _workshop
    try:
        _workshop = make()
    except ConnectorError as error:
        return error
    except Exception as error:  # told to whoever opens the encoder, with its reason
        return SourceBroken(f"the encoder cannot be loaded: {type(error).__name__}: {error}")
    return None


def _do(orders: Sequence[_Order]) -> list[Answer | ConnectorError]:
    jobs: dict[int, Job] = {}
    answers: dict[int, Answer | ConnectorError] = {}
    for at, order in enumerate(orders):
        work = _work_of(order)
        if work is None:
            answers[at] = _Forgotten()
        elif order.samples is None:
            outcome = attempt(work.end)
            answers[at] = outcome if isinstance(outcome, ConnectorError) else Answer(outcome, None)
            del _works[order.stream]
        else:
            jobs[at] = Job(work, order.samples)
    for (at, job), outcome in zip(jobs.items(), _encode(list(jobs.values())), strict=True):
        answers[at] = outcome if isinstance(outcome, ConnectorError) else Answer(outcome, job.work.snapshot())
    return [answers[at] for at in range(len(orders))]


def _work_of(order: _Order) -> Work | None:
    assert _workshop is not None, "opened first"
    if order.anew:
        _works[order.stream] = _workshop.work(order.stream)
        if order.state is not None:
            _works[order.stream].restore(order.state)
    return _works.get(order.stream)


def _encode(jobs: Sequence[Job]) -> list[Outcome]:
    together: Callable[[Sequence[Job]], list[Outcome]] | None = getattr(_workshop, "encode", None)
    return together(jobs) if together is not None else [encode_alone(job) for job in jobs]


def encode_alone(job: Job) -> Outcome:
    return attempt(lambda: job.work.encode(job.samples))


def attempt(action: Callable[[], Sequence[Any]]) -> Outcome:
    try:
        return action()
    except ConnectorError as error:
        return error
    except Exception as error:  # of this stream; the others in the call go on
        return SourceBroken(f"{type(error).__name__}: {error}")
