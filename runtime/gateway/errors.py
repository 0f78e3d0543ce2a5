"""What can go wrong at the gateway, and what the caller is told: {"error": {"code", "message"}}.

raised by                                      code                            status
a worker's Nack (Refused), or ApiError         the code itself                 STATUS[code]
a validation of FastAPI, unreadable JSON,
  a body that is not sent as JSON              malformed                       422
a path or a method that does not exist         not_found, method_not_allowed   404, 405
GET of /v1/ws that opens no WebSocket          upgrade_required                426, Upgrade
an id that no session can have (InvalidId)     bad_id                          422
a body over the limit                          too_large                       413
the gateway's buffer is full (PublisherFull)   slow_down                       429, Retry-After
no answer in time (RequestTimeout)             timeout                         503, Retry-After
no worker known (NotLocated), client closed    unavailable                     503, Retry-After
anything else                                  internal                        500: logged, and nothing told of it
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from runtime.client.errors import ClientClosed, ClientError, PublisherFull, Refused, RequestTimeout
from runtime.client.locate import NotLocated
from runtime.gateway.json_answer import JsonAnswer
from runtime.keys import InvalidId

log = logging.getLogger(__name__)

STATUS: Mapping[str, int] = {
    # the wire's codes, in the order of runtime.messages
    "malformed": 422,
    "version": 502,
    "unauthorised": 401,
    "bad_id": 422,
    "unknown_modality": 422,
    "bad_segment": 422,
    "far_future": 422,
    "late": 409,
    "step_failed": 422,
    "not_found": 404,
    "too_large": 413,
    "hello_first": 503,
    "not_open": 503,
    "slow_down": 429,
    "not_owner": 503,
    "unavailable": 503,
    "late_fused": 409,
    "session_reset": 409,
    "stream_taken": 409,
    # the gateway's own
    "sequence_gap": 409,
    "method_not_allowed": 405,
    "upgrade_required": 426,
    "timeout": 503,
    "internal": 500,
}
CODE_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
NOT_JSON = "Content-Type must be application/json"
UNREADABLE = "the body cannot be read as JSON in UTF-8: other bytes, compressed, cut off, or nested too deep"
RETRY_AFTER_S = 1
MAX_FAULTS = 5
"""of a request that an error names"""
MAX_PLACE = 200
"""characters of where a fault is: the name of a field is as long as its sender likes"""


class ApiError(Exception):
    """The gateway's own no: a code of STATUS and a text for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text

    def __reduce__(self) -> tuple[type[ApiError], tuple[str, str]]:
        """It may be raised in another process."""
        return type(self), (self.code, self.text)


def status_of(code: str) -> int:
    return STATUS.get(code, 502)  # a code of a newer worker


def error_answer(code: str, text: str, headers: Mapping[str, str] | None = None, status: int = 0) -> Response:
    status = status or status_of(code)
    extra = dict(headers or {})
    if status in (429, 503):
        extra["Retry-After"] = str(RETRY_AFTER_S)
    if status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    if status == 426:
        extra["Upgrade"] = "websocket"
    return JsonAnswer({"error": {"code": code, "message": text}}, status, extra)


def described(error: Exception) -> tuple[str, str]:
    """Code and text of an error that callers are told about; internal for any other."""
    match error:
        case Refused() | ApiError():
            return error.code, error.text
        case RequestTimeout():
            return "timeout", f"{error}; the runtime may be restarting, or its store be away"
        case PublisherFull():
            return "slow_down", str(error)
        case NotLocated() | ClientClosed():
            return "unavailable", str(error)
        case InvalidId():
            return "bad_id", str(error)
        case _:
            return "internal", "internal error; the gateway's log says more"


def handle_errors(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Give every error of this app, which has these routes, the one shape."""

    async def known(request: Request, error: Exception) -> Response:
        return error_answer(*described(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 400:  # FastAPI's answer to what the json module cannot read
            return error_answer("malformed", UNREADABLE)
        code = CODE_BY_STATUS.get(error.status_code, "malformed" if error.status_code < 500 else "internal")
        headers = {"Allow": _methods_of(request, routes)} if error.status_code == 405 else error.headers
        return error_answer(code, str(error.detail), headers, error.status_code)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        is_unparsed = isinstance(error.body, bytes)  # FastAPI parses what is sent as JSON, and hands on what is not
        return error_answer("malformed", NOT_JSON if is_unparsed else _faults(error.errors()))

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        ClientError: known,
        ApiError: known,
        InvalidId: known,
        HTTPException: http,
        RequestValidationError: invalid,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _methods_of(request: Request, routes: Sequence[BaseRoute]) -> str:
    """Those of all routes of this path: the one that refuses names its own alone."""
    fitting = [route for route in routes if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE]
    return ", ".join(sorted({method for route in fitting for method in route.methods or ()}))


def _faults(faults: Sequence[Mapping[str, object]]) -> str:
    named = "; ".join(map(_fault, faults[:MAX_FAULTS]))
    return named if len(faults) <= MAX_FAULTS else f"{named}; and {len(faults) - MAX_FAULTS} more"


def _fault(fault: Mapping[str, object]) -> str:
    where = fault.get("loc")
    place = ".".join(map(str, where)) if isinstance(where, tuple | list) else ""
    return f"{place[:MAX_PLACE]}: {fault.get('msg')}"
