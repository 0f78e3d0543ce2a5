"""A WebSocket server, for browsers and devices; it serves a page that publishes a phone's motion sensors. Needs the
extra `websocket` (websockets).

    from: {kind: websocket, port: 8443, tls_certificate: cert.pem, tls_key: key.pem, token: "${PHONE_TOKEN}"}

    new WebSocket("wss://host:8443/phone/7?token=...").send(JSON.stringify({t: Date.now(), x: 0.1, y: 0.2, z: 9.8}))

A stream key is the path, each message a sample, text or binary. Event time is a field (`decode.time`); arrival is now.
GET / is the page. Browsers give motion sensors to pages from https or localhost only.

**Live**: nothing is acknowledged. With `block` (the default) a full queue makes the sender's socket wait, since we stop
reading it; with `drop_oldest` the oldest is given up and counted. A socket is closed (1008) when no route takes its
message.
"""

from __future__ import annotations

import time
from importlib import resources
from typing import ClassVar, Literal

from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from connectors.base import Position, Sample
from connectors.errors import need
from connectors.http_push import MAX_KEY, ListeningSource, ListenOptions

POLICY_VIOLATION = 1008


class WebSocketOptions(ListenOptions):
    extra: ClassVar[str] = "websocket"

    kind: Literal["websocket"] = "websocket"
    page: bool = Field(True, description="Serve the page at /.")

    def build(self) -> WebSocketSource:
        return WebSocketSource(self)


class WebSocketSource(ListeningSource):
    def __init__(self, options: WebSocketOptions) -> None:
        super().__init__(options)
        self._serves_page = options.page

    async def open(self, *, position: Position) -> None:
        need("websockets", "websocket")
        await super().open(position=position)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/", self._page), WebSocketRoute("/{key:path}", self._serve)])

    def server_options(self) -> dict[str, object]:
        return {"ws": "websockets-sansio", "ws_max_size": self._options.max_body_bytes, "ws_ping_interval": 20.0}

    async def _page(self, request: Request) -> Response:
        if not self._serves_page:
            return Response(status_code=404)
        return HTMLResponse(resources.files("connectors").joinpath("motion.html").read_text())

    async def _serve(self, socket: WebSocket) -> None:
        key = socket.path_params["key"].strip("/")
        await socket.accept()
        if not self.is_allowed(socket.query_params.get("token", "")):
            return await socket.close(POLICY_VIOLATION, "unauthorised")
        if not key or len(key) > MAX_KEY:
            return await socket.close(POLICY_VIOLATION, "the path names the stream")
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return None
                text, data = message.get("text"), message.get("bytes")
                value = text.encode() if text is not None else data
                sample = Sample(key, value, None, time.time())
                if self._fault_of(sample):
                    return await socket.close(POLICY_VIOLATION, "no route takes this")  # the reason may be too long
                await self._intake.put(sample)
        except WebSocketDisconnect:
            return None
