"""Runs every source of a file, each by itself: one that fails never stops the others."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.backoff import Backoff
from connectors.base import Source
from connectors.config import ConnectOptions, MonitoringOptions, SourceEntry
from connectors.errors import ConfigError, SourceUnavailable
from connectors.known_streams import MAX_STREAMS
from connectors.listening import listening
from connectors.metrics import ConnectMetrics
from connectors.outcome import Outcome
from connectors.pipeline import Pipeline
from connectors.runner import TELL_EVERY_S, Runner
from connectors.snapshots import StateFolder, digest
from runtime.client import AsyncPublisher, PublisherEvent, PublisherPolicy

log = logging.getLogger("grf.connect")

LOOK_EVERY_S = 1.0
"""at a publisher: what it gave up, whether it has a runtime"""
SILENT_FOR_S = 5.0
"""of the runtime, before the log says so"""
HEALTHY = ("running", "ended", "stopped")


def pipeline_of(source: Source, entry: SourceEntry) -> Pipeline:
    return Pipeline(
        entry.routes,
        entry.clock,
        may_repeat=source.may_repeat,
        redelivers_at_most=source.redelivers_at_most,
        max_streams=entry.max_streams,
        key=entry.key,
    )


def meaning_of(entry: SourceEntry) -> str:
    """Digest of all that the meaning of a snapshot depends on: how samples become numbered segments."""
    encoders = [type(route.encoder).__name__ for route in entry.routes]
    memory = [] if entry.max_streams == MAX_STREAMS else [f"max_streams={entry.max_streams}"]
    keys = [] if entry.key is None else [entry.key]
    return digest(entry.clock, *entry.routes, *encoders, *memory, *keys)


def meanings_of(entry: SourceEntry) -> list[str]:
    """That of all its routes; then those of its first ones, before the others were added."""
    counts = range(len(entry.routes), 0, -1)
    return [meaning_of(entry.model_copy(update={"routes": entry.routes[:count]})) for count in counts]


class Supervisor:
    """One `grf connect`. Building it raises SourceBroken for a class that cannot be made; nothing is connected yet."""

    def __init__(self, options: ConnectOptions, folder: StateFolder, registry: CollectorRegistry | None = None) -> None:
        self._options = options
        self._folder = folder
        self._registry = registry or CollectorRegistry()
        self._metrics = ConnectMetrics(self._registry, list(options.sources))
        self._sources = {name: entry.from_.build() for name, entry in options.sources.items()}
        self.runners: dict[str, Runner] = {}
        self.http_port = 0
        self._dropped = dict.fromkeys(options.sources, 0)
        """segments that the publishers gave up, as counted so far"""
        self._unanswered: set[str] = set()
        """sources for which no runtime has answered for a while"""
        self._told_at_s: dict[tuple[str, str], float] = {}
        """when the log last told of a refusal, by source and code; the metrics count each"""

    async def run(self, stop: asyncio.Event) -> dict[str, str]:
        """Until every source has ended or is broken, or `stop` is set. Returns the health of each source."""
        http = self._options.http
        async with self._listening(http) as self.http_port, AsyncExitStack() as stack:
            log.info("metrics and health at http://%s:%d", http.host, self.http_port)
            tasks = [asyncio.create_task(self._run(name, stack), name=name) for name in self._sources]
            stopping: asyncio.Task[object] = asyncio.create_task(stop.wait())
            finished: asyncio.Task[object] = asyncio.create_task(_all(tasks))
            await asyncio.wait((stopping, finished), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            for runner in self.runners.values():
                runner.stop()
            await finished
        return {name: runner.health for name, runner in self.runners.items()}

    @property
    def outcomes(self) -> dict[str, Outcome]:
        return {name: Outcome(runner.health, self._metrics.totals[name]) for name, runner in self.runners.items()}

    async def _run(self, name: str, stack: AsyncExitStack) -> None:
        entry, source = self._options.sources[name], self._sources[name]
        publisher = await stack.enter_async_context(self._publisher(name, source, entry))
        pipeline = pipeline_of(source, entry)
        factories = {
            index: route.encoder.build() for index, route in enumerate(entry.routes) if route.encoder is not None
        }
        runner = self.runners[name] = Runner(
            name,
            source,
            pipeline,
            factories,
            publisher,
            self._folder.of(name, *meanings_of(entry)),
            self._metrics,
            options=entry.snapshot,
            backoff=Backoff(entry.restart),
        )
        try:
            await runner.run()
        except Exception:
            # A defect in one connector, encoder or plug-in is no reason for the others to stop.
            log.exception("%s: failed", name)
            runner.health, runner.reason = "broken", "a defect: see the log"

    @asynccontextmanager
    async def _publisher(self, name: str, source: Source, entry: SourceEntry) -> AsyncIterator[AsyncPublisher]:
        runtime = self._options.runtime
        when_full = "block" if source.delivery == "replayable" else entry.when_full
        async with AsyncPublisher(
            runtime.address,
            tenant=runtime.tenant,
            token=runtime.token,
            client=f"{runtime.client}-{name}",
            policy=PublisherPolicy(entry.buffer_bytes, when_full),
            on_event=lambda event: self._told(name, event),
        ) as publisher:
            looking = asyncio.create_task(self._look_after(name, publisher))
            try:
                yield publisher
            finally:
                looking.cancel()
                self._count_dropped(name, publisher)

    async def _look_after(self, name: str, publisher: AsyncPublisher) -> None:
        """Count what the publisher gave up; say when the runtime does not answer, and when it does again."""
        silent_s = 0.0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._count_dropped(name, publisher)
            self._metrics.runtime_up.labels(name).set(publisher.is_connected)
            silent_s = 0.0 if publisher.is_connected else silent_s + LOOK_EVERY_S
            if publisher.is_connected and name in self._unanswered:
                self._unanswered.remove(name)
                log.info("%s: the runtime answers", name)
            elif silent_s >= SILENT_FOR_S and name not in self._unanswered:
                self._unanswered.add(name)
                log.warning("%s: %s", name, self._absence)

    @property
    def _absence(self) -> str:
        return f"no runtime answers at {self._options.runtime.address}; segments wait"

    def _count_dropped(self, name: str, publisher: AsyncPublisher) -> None:
        dropped = publisher.stats.dropped
        self._metrics.dropped(name, "segments", dropped - self._dropped[name])
        self._dropped[name] = dropped

    def _told(self, name: str, event: PublisherEvent) -> None:
        self._metrics.refused(name, event.code, event.segments)
        now_s = time.monotonic()
        if now_s < self._told_at_s.get((name, event.code), -math.inf) + TELL_EVERY_S:
            return
        self._told_at_s[name, event.code] = now_s
        where = f"{event.session}/{event.stream}"
        log.warning("%s: %s, segment %d: %s: %s", name, where, event.sequence, event.code, event.text)

    # ---- health ----

    @asynccontextmanager
    async def _listening(self, http: MonitoringOptions) -> AsyncIterator[int]:
        async with AsyncExitStack() as stack:
            try:
                port = await stack.enter_async_context(listening(self._app(), http.host, http.port))
            except SourceUnavailable as error:
                raise ConfigError(f"http: {error}; http.port of the file names another, 0 is any free one") from None
            yield port

    def _app(self) -> Starlette:
        return Starlette(routes=[Route("/health", self._health), Route("/metrics", self._show_metrics)])

    async def _show_metrics(self, request: Request) -> Response:
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _health(self, request: Request) -> JSONResponse:
        """200 while each source is read or has ended and a runtime answers; 503 names those that wait or are broken."""
        sources: dict[str, Any] = {
            name: {
                "health": runner.health,
                "reason": runner.reason or (self._absence if name in self._unanswered else ""),
                "refused_streams": len(runner.refused),
            }
            for name, runner in self.runners.items()
        }
        healthy = not self._unanswered and all(runner.health in HEALTHY for runner in self.runners.values())
        return JSONResponse({"healthy": healthy, "sources": sources}, status_code=200 if healthy else 503)


async def _all(tasks: Sequence[asyncio.Task[None]]) -> object:
    return await asyncio.gather(*tasks)
