"""Live updates: server-sent events, and the same over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, WebSocket, WebSocketDisconnect
from fastapi.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.client import AsyncStateClient
from runtime.client.errors import ClientClosed, Refused
from runtime.gateway.asking import (
    SUBPROTOCOL,
    SessionId,
    TheBackend,
    WhoAsks,
    caller_of,
    check_parameters,
    is_foreign,
)
from runtime.gateway.backend import Backend, Caller
from runtime.gateway.errors import ApiError, described, status_of
from runtime.gateway.following import EventStreams, follow
from runtime.gateway.json_answer import to_json
from runtime.gateway.models import refusals
from runtime.gateway.taken import Window
from runtime.keys import check_id

log = logging.getLogger(__name__)

KEEP_ALIVE = b": keep-alive\n\n"
CLOSED_BY_POLICY = 1008
TRY_AGAIN_LATER = 1013

event_routes = APIRouter(tags=["events"])

EXAMPLE = 'id: 42\nevent: update\ndata: {"session": "robot-7", "version": 42, ...}\n\n'
SSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "server-sent events; `id` is the version",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
    },
    **refusals({429: "too many event streams are open, of the tenant or in all"}),
}


async def the_streams(connection: HTTPConnection) -> EventStreams:
    streams: EventStreams = connection.app.state.event_streams
    return streams


TheStreams = Annotated[EventStreams, Depends(the_streams)]


class EventStream(Response):
    """Sends events until the reader goes away, who is then unsubscribed at once."""

    media_type = "text/event-stream"

    def __init__(self, backend: Backend, streams: EventStreams, caller: Caller, session: str) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._backend = backend
        self._streams = streams
        self._caller = caller
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy = self._backend.policy
        window = Window(scope, send, policy.send_timeout_s)
        async with self._backend.clients(self._caller) as clients:
            welcome = await clients.welcome(policy.answer_timeout_s)
            with self._streams.one(welcome.tenant):
                start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                await window.send(start)

                async def send_all() -> None:
                    async with contextlib.aclosing(follow(clients.state, self._session, policy.keep_alive_s)) as coming:
                        async for event in coming:
                            chunk = event.as_sse() if event else KEEP_ALIVE
                            await window.send({"type": "http.response.body", "body": chunk, "more_body": True})

                with contextlib.suppress(Refused):  # its token was taken back: whoever asks again is told
                    await first_of(send_all(), _gone(receive, window))
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive, window: Window) -> None:
    """Hears the reader until it goes away, which Serve tells by a message or, as it happens, by an error of its own."""
    with contextlib.suppress(Exception):
        while not (message := await receive())["type"].endswith("disconnect"):
            window.heard(message)


async def first_of(*works: Awaitable[None]) -> None:
    """Run until one of them ends; the others are cancelled. Ends of a connection, and slow readers, are no errors."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, OSError | TimeoutError | ClientClosed | WebSocketDisconnect):
            raise error


@event_routes.get("/v1/sessions/{session}/events", response_class=Response, responses=SSE, summary="Follow one session")
async def follow_session(backend: TheBackend, streams: TheStreams, caller: WhoAsks, session: SessionId) -> Response:
    """Server-sent events: the present state, then one event for every change.

    `update`: a new state, as in GET /v1/sessions/{session}. `correction`: the live state was fused again because a
    segment landed out of order. `missed`: so many updates were skipped because you read too slowly; the state that
    follows is the newest.
    """
    return EventStream(backend, streams, caller, session)


@event_routes.get("/v1/events", response_class=Response, responses=SSE, summary="Follow all sessions")
async def follow_all(backend: TheBackend, streams: TheStreams, caller: WhoAsks) -> Response:
    """As for one session, for every session of the tenant; it begins with the next change of each."""
    return EventStream(backend, streams, caller, "")


@event_routes.websocket("/v1/ws")
async def follow_by_websocket(socket: WebSocket, backend: TheBackend, streams: TheStreams, session: str = "") -> None:
    """The same events as text messages {"event", "id", "data"}; `?session=` for one session. What goes wrong is told
    as an event `error` before the end."""
    if is_foreign(socket, backend.policy.allowed_origins):
        await socket.close(CLOSED_BY_POLICY)  # before it is accepted: the server answers 403
        return
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)
    try:
        caller = caller_of(socket)
        check_parameters(socket, ["session"])
        if session:
            check_id("session", session)
        async with backend.clients(caller) as clients:
            welcome = await clients.welcome(backend.policy.answer_timeout_s)
            with streams.one(welcome.tenant):
                window = Window(socket.scope, socket.send, backend.policy.send_timeout_s)
                sending = _send_all(window, clients.state, session, backend.policy.keep_alive_s)
                await first_of(sending, _gone(socket.receive, window))
    except Exception as error:
        code, text = described(error)
        if code == "internal":
            log.exception("a WebSocket failed")
        with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):  # it may be gone
            await socket.send_text(to_json({"event": "error", "id": 0, "data": {"code": code, "message": text}}))
            await socket.close(CLOSED_BY_POLICY if status_of(code) < 429 else TRY_AGAIN_LATER, code)


@event_routes.get("/v1/ws", include_in_schema=False)
async def refuse_what_is_no_websocket(session: str = "") -> Response:
    raise ApiError("upgrade_required", "a WebSocket is opened here: proxies have to pass its Upgrade header on")


async def _send_all(window: Window, state: AsyncStateClient, session: str, keep_alive_s: float) -> None:
    async with contextlib.aclosing(follow(state, session, keep_alive_s)) as coming:
        async for event in coming:
            if event is not None:  # the protocol has pings of its own
                await window.send({"type": "websocket.send", "text": event.as_json()})
