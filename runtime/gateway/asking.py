"""What every endpoint reads of a request in the same way: who asks, and which session.

What FastAPI resolves is `async` though it waits for nothing: it calls every other function in a thread, and four of
them in turn were nearly half of what a post takes here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Header, Path, Security
from fastapi.requests import HTTPConnection
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from runtime.gateway.backend import Backend, Caller
from runtime.gateway.errors import ApiError
from runtime.keys import check_id

SUBPROTOCOL = "grf"
"""of a WebSocket, for those that offer it: a browser wants one of what it has offered"""
TOKEN_OFFERED = "bearer."
"""begins the other one that a web page offers, with its token, percent-encoded: its WebSocket can send no header"""

_bearer = HTTPBearer(auto_error=False, description="a token of the runtime's tokens file; needed where there is one")


def as_text(what: str, encoded: bytes) -> str:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        raise ApiError("bad_id", f"{what} is not UTF-8") from None


async def the_caller(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    x_grf_tenant: Annotated[
        str, Header(description="the tenant, UTF-8; without tokens any may be named, with them the token decides")
    ] = "default",
) -> Caller:
    return _read_caller(credentials.credentials.encode("latin-1") if credentials else b"", x_grf_tenant)


def caller_of(connection: HTTPConnection) -> Caller:
    """The same for what FastAPI does not resolve: a WebSocket, and a request whose body was not read yet."""
    scheme, token = get_authorization_scheme_param(connection.headers.get("authorization"))
    sent = token.encode("latin-1") if scheme.lower() == "bearer" else _offered_token(connection)
    return _read_caller(sent, connection.headers.get("x-grf-tenant", "default"))


def _offered_token(connection: HTTPConnection) -> bytes:
    offered = (one for one in connection.scope.get("subprotocols", ()) if one.startswith(TOKEN_OFFERED))
    return unquote_to_bytes(next(offered, "").removeprefix(TOKEN_OFFERED))


def is_foreign(connection: HTTPConnection, allowed_origins: Collection[str]) -> bool:
    """Does a web page ask that another server sent? Browsers keep its answers from such a page, but not a WebSocket."""
    origin = connection.headers.get("origin", "").lower()
    host = connection.headers.get("host", "").lower()
    return bool(origin) and origin.partition("://")[2] != host and origin not in map(str.lower, allowed_origins)


def _read_caller(token: bytes, tenant: str) -> Caller:
    """`tenant`: as ASGI has it, Latin-1."""
    return Caller(as_text("tenant", tenant.encode("latin-1")), as_text("token", token))


async def refuse_unknown_parameters(request: HTTPConnection) -> None:
    """Of /v1 alone: a proxy, a browser or Prometheus may add what it likes to pages and probes."""
    route = request.scope.get("route")
    if isinstance(route, APIRoute) and route.path.startswith("/v1/"):  # a WebSocket is told once it is open
        check_parameters(request, [field.alias for field in route.dependant.query_params])


def check_parameters(connection: HTTPConnection, known: Sequence[str]) -> None:
    """Raises ApiError for a parameter of the query that does not exist: nobody would see that it has no effect."""
    unknown = next((name for name in connection.query_params if name not in known), None)
    if unknown is not None:
        there_are = f"there are {', '.join(known)}" if known else "there are none here"
        raise ApiError("malformed", f"unknown query parameter {unknown[:100]!r}: {there_are}")


async def the_session(
    session: Annotated[
        str,
        Path(
            description="id of the session as ONE percent-encoded path segment: `a/b` is `a%2Fb`",
            examples=["robot-7"],
        ),
    ],
) -> str:
    """Paths are matched as they were sent (`raw_path`), so a slash of the id is still encoded here."""
    return check_id("session", as_text("session", unquote_to_bytes(session)))


def backend_of(connection: HTTPConnection) -> Backend:
    backend: Backend = connection.app.state.backend
    return backend


async def the_backend(connection: HTTPConnection) -> Backend:
    return backend_of(connection)


WhoAsks = Annotated[Caller, Depends(the_caller)]
SessionId = Annotated[str, Depends(the_session)]
TheBackend = Annotated[Backend, Depends(the_backend)]
