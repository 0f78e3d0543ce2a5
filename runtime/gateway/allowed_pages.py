"""Lets web pages from elsewhere ask, of the named origins alone (CORS): browsers keep every answer from others."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class AllowedPages(CORSMiddleware):
    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=[origin.lower() for origin in origins],
            allow_methods=["*"],  # what does not exist is refused with its reason, which a browser would keep to itself
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=["Retry-After"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whoever is not of those origins is answered as if none were allowed."""
        is_allowed = scope["type"] == "http" and self.is_allowed_origin(Headers(scope=scope).get("origin", ""))
        await (super().__call__ if is_allowed else self.app)(scope, receive, send)
