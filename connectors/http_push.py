"""Plain HTTP: devices and webhooks that POST.

    from: {kind: http, port: 8080, token: "${PUSH_TOKEN}"}

    curl -H "Authorization: Bearer $PUSH_TOKEN" -d '{"t": 1700000000.5, "bpm": 71}' http://127.0.0.1:8080/belt/7

A stream key is the path (`belt/7`), a value the body; with `?lines` each line of the body is a sample. Event time is a
field (`decode.time`) or the header X-Event-Time, in seconds; arrival is now.

**Live**: 202 says that a sample was taken, not that it is durable (the gateway's own API does, docs/http.md), nor that
its body can be decoded. What no route takes is answered 404 with the reason; of several lines some may be `left_out`.
When the queue is full, `block` lets the answer wait, and then says 503 with Retry-After, and how many lines came before
those to send again (`taken` and `left_out`); `drop_oldest` gives up the oldest.

Browsers let a page of another server neither read the answer nor send a token or JSON, unless `allowed_origins` names
its origin: `[https://desk.example]`. What any page may send unasked (a plain post) is taken, so set a token as well.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.base import Position, Sample, Source, SourceOptions
from connectors.intake import Intake, WhenFull
from connectors.listening import listening

WAIT_S = 10.0
"""for room in the queue, before the sender is told to come again"""
MAX_KEY = 512


def _origin(text: str) -> str:
    scheme, separator, host = text.lower().partition("://")
    if not (scheme and separator and host) or "/" in host or "*" in host:
        raise ValueError(f"{text!r} is no origin, as https://desk.example:8443 is, without a path")
    return text.lower()


class ListenOptions(SourceOptions):
    host: str = Field("127.0.0.1", description="0.0.0.0 lets other machines in: set a token then.")
    port: int = Field(8080, ge=0, le=65_535, description="0: any free one.")
    token: str = Field("", description="If set, asked of every sender; better as ${NAME}.", repr=False)
    tls_certificate: str = Field("", description="File, for https; with tls_key.")
    tls_key: str = Field("", description="File.")
    max_body_bytes: int = Field(1 << 20, ge=1, le=64 << 20, description="Of one message.")
    queue: int = Field(10_000, ge=1, description="Samples that wait to be taken.")
    when_queue_full: WhenFull = Field("block", description="block: the sender waits. drop_oldest: counted.")

    def tls(self) -> dict[str, str]:
        if not self.tls_certificate:
            return {}
        return {"ssl_certfile": self.tls_certificate, "ssl_keyfile": self.tls_key}


class HttpOptions(ListenOptions):
    kind: Literal["http"] = "http"
    allowed_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(
        (), description="Web pages of other servers that may post (CORS)."
    )

    def build(self) -> HttpSource:
        return HttpSource(self)


class ListeningSource(Source):
    """What HTTP and WebSocket share: a server that puts samples into one queue."""

    delivery = "live"

    def __init__(self, options: ListenOptions) -> None:
        self.port = 0
        """where it listens, once open"""
        self._options = options
        self._stack = AsyncExitStack()
        self._intake = self._new_intake()
        self._dropped_before = 0
        self._fault_of: Callable[[Sample], str] = lambda sample: ""

    def ask(self, fault_of: Callable[[Sample], str]) -> None:
        self._fault_of = fault_of

    @property
    def dropped(self) -> int:  # type: ignore[override]  # the intake counts, where other sources do so themselves
        return self._dropped_before + self._intake.dropped

    def _new_intake(self) -> Intake:
        return Intake(max_samples=self._options.queue, when_full=self._options.when_queue_full)

    def app(self) -> Starlette:
        raise NotImplementedError

    async def open(self, *, position: Position) -> None:
        self._intake = self._new_intake()
        options = self._options
        server = listening(self.app(), options.host, options.port, **options.tls(), **self.server_options())
        self.port = await self._stack.enter_async_context(server)

    def server_options(self) -> dict[str, object]:
        return {}

    async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
        async for batch in self._intake.batches():
            yield batch

    async def close(self) -> None:
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()
        self._dropped_before += self._intake.dropped + len(self._intake)  # senders were told that those were taken
        self._intake = self._new_intake()

    def is_allowed(self, token: str) -> bool:
        return not self._options.token or hmac.compare_digest(token.encode(), self._options.token.encode())


class HttpSource(ListeningSource):
    def __init__(self, options: HttpOptions) -> None:
        super().__init__(options)
        self._allowed_origins = options.allowed_origins

    def app(self) -> Starlette:
        route = Route("/{key:path}", self._post, methods=["POST"])
        if not self._allowed_origins:
            return Starlette(routes=[route])
        pages = Middleware(
            CORSMiddleware,
            allow_origins=self._allowed_origins,
            allow_methods=["POST"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=["Retry-After"],
        )
        return Starlette(routes=[route], middleware=[pages])

    async def _post(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not self.is_allowed(token):
            return JSONResponse({"error": "unauthorised"}, 401)
        key = request.path_params["key"].strip("/")
        if not key or len(key) > MAX_KEY:
            return JSONResponse({"error": "the path names the stream"}, 404)
        time_s, text = None, request.headers.get("x-event-time")
        if text is not None:
            time_s = _seconds(text)
            if time_s is None:
                return JSONResponse({"error": "X-Event-Time: not a number of seconds"}, 400)
        try:
            body = await self._body(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return JSONResponse({"error": f"more than {self._options.max_body_bytes} bytes"}, 413)
        parts = [line for line in body.split(b"\n") if line.strip()] if "lines" in request.query_params else [body]
        samples = [Sample(key, part, time_s, time.time()) for part in parts]
        faults = [self._fault_of(sample) for sample in samples]
        if samples and all(faults):
            return JSONResponse({"error": faults[0]}, 404)
        return await self._taken(samples, faults)

    async def _taken(self, samples: Sequence[Sample], faults: Sequence[str]) -> Response:
        """How many were taken, and how many no route takes: of the first ones, where the others did not fit."""
        counts = Counter(taken=0)
        try:
            async with asyncio.timeout(WAIT_S):
                for sample, fault in zip(samples, faults, strict=True):
                    if not fault:
                        await self._intake.put(sample)
                    counts["left_out" if fault else "taken"] += 1
        except TimeoutError:
            return JSONResponse({"error": "full", **counts}, 503, {"Retry-After": "1"})
        return JSONResponse(counts, 202)

    async def _body(self, request: Request) -> bytes | None:
        """None once it is too large; the rest is not read."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._options.max_body_bytes:
                return None
        return bytes(body)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None
