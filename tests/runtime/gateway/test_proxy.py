"""What Serve's proxy would say in the gateway's place is what the gateway would."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private import http_util
from ray.serve._private.proxy import HTTPProxy
from ray.serve.config import HTTPOptions

from runtime.gateway.proxy import PROXY_CALLBACK, SaysUnavailable
from runtime.gateway.taken import TellsTaken

pytestmark = pytest.mark.anyio

PATH = "/v1/sessions/x/state"
App = Callable[[Any, Any, Any], Awaitable[None]]


def saying(*messages: Any) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


async def answer_of(app: App, path: str = PATH) -> list[Any]:
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        raise AssertionError

    await SaysUnavailable(app)({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
    return said


async def serves_not_found(path: str) -> list[Any]:
    """As Serve says it of a path that it has no application for."""
    told = HTTPProxy.not_found_response(None, SimpleNamespace(path=path))  # type: ignore[arg-type]
    return [message async for message in told if isinstance(message, dict)]


def check_unavailable(said: list[Any]) -> None:
    start, body = said
    assert start["status"] == 503
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"retry-after"] == b"1"
    assert json.loads(body["body"])["error"]["code"] == "unavailable"


async def test_a_proxy_that_has_not_heard_of_the_gateway_says_that_it_is_unavailable() -> None:
    check_unavailable(await answer_of(saying(*await serves_not_found(PATH))))


async def test_a_request_over_which_the_gateway_was_killed_is_answered() -> None:
    check_unavailable(await answer_of(saying()))


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_what_the_gateway_says_passes_untouched(status: int) -> None:
    messages = [
        {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]},
        {"type": "http.response.body", "body": b"{", "more_body": True},
        {"type": "http.response.body", "body": b"}"},
    ]
    assert await answer_of(saying(*messages)) == messages


async def test_a_session_may_have_the_name_of_the_path_that_serve_tells() -> None:
    messages = [
        {"type": "http.response.start", "status": 404, "headers": []},
        {"type": "http.response.body", "body": b'{"error":{"code":"not_found","message":"no session \'/-/routes\'"}}'},
    ]
    assert await answer_of(saying(*messages)) == messages


async def test_an_answer_that_breaks_off_gets_no_second_one() -> None:
    begun = [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"data: ", "more_body": True},
    ]
    assert await answer_of(saying(*begun)) == begun


async def test_other_applications_keep_what_serve_says_for_them() -> None:
    not_found = await serves_not_found("/other")
    assert await answer_of(saying(*not_found), "/other") == not_found
    assert await answer_of(saying(), "/other") == []


async def test_a_proxy_of_ray_serve_finds_it_by_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    [(variable, path)] = PROXY_CALLBACK.items()
    monkeypatch.setattr(http_util, variable, path)
    made = http_util.configure_http_middlewares(HTTPOptions()).middlewares
    assert [one.cls for one in made] == [SaysUnavailable, TellsTaken]
