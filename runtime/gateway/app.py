"""The gateway as an ASGI application: `create_app(backend)`. Runs in process, under uvicorn, or in Ray Serve.

request -> RawPath -> AllowedPages (CORS, where origins are allowed) -> Observing (counts, opaque 500) -> BodyLimit
  -> FastAPI: a handler of *_api.py -> backend
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import Depends, FastAPI

from runtime.gateway.allowed_pages import AllowedPages
from runtime.gateway.asking import refuse_unknown_parameters
from runtime.gateway.backend import Backend
from runtime.gateway.body_limit import BodyLimit
from runtime.gateway.errors import handle_errors
from runtime.gateway.event_api import event_routes
from runtime.gateway.following import EventStreams
from runtime.gateway.models import refusals
from runtime.gateway.observing import Observing
from runtime.gateway.raw_path import RawPath
from runtime.gateway.runtime_api import runtime_routes
from runtime.gateway.session_api import post_routes, session_routes

DESCRIPTION = """
Live fused state of many sessions. Every answer that is not a success is `{"error": {"code", "message"}}`.

A session id is ONE percent-encoded path segment: the session `a/b` is `/v1/sessions/a%2Fb`.

Tenancy: `Authorization: Bearer TOKEN` where the runtime has tokens, else `X-GRF-Tenant` names the tenant.
"""

EVERYWHERE = refusals(
    {
        401: "the token is missing or unknown",
        422: "the request cannot be understood",
        503: "no worker answers now: try again after Retry-After",
    }
)


ROUTES = (session_routes, post_routes, event_routes, runtime_routes)


def create_app(backend: Backend) -> FastAPI:
    """The application; its lifespan starts and stops the backend, so run it with lifespan on."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        await backend.start()
        try:
            yield
        finally:
            await backend.stop()

    app = FastAPI(
        title="GRF runtime",
        description=DESCRIPTION,
        version=_version(),
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's pages load scripts from the Internet; /docs is ours
        redoc_url=None,
    )
    app.state.backend = backend
    policy = backend.policy
    app.state.event_streams = EventStreams(
        policy.max_event_streams, policy.max_event_streams_per_tenant, backend.metrics
    )
    for routes in ROUTES:
        app.include_router(routes, responses=EVERYWHERE, dependencies=[Depends(refuse_unknown_parameters)])
    handle_errors(app, [route for routes in ROUTES for route in routes.routes])
    app.add_middleware(BodyLimit, max_bytes=policy.max_body_bytes)
    app.add_middleware(Observing, metrics=backend.metrics)
    if policy.allowed_origins:
        app.add_middleware(AllowedPages, origins=policy.allowed_origins)
    app.add_middleware(RawPath)  # added last, so it is the first to see a request
    return app


def _version() -> str:
    try:
        return version("grf-runtime")
    except PackageNotFoundError:
        return "0"
