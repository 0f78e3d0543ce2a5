"""One shape and one table for every error."""

from __future__ import annotations

import logging
import typing
from collections.abc import Mapping
from typing import Any, NoReturn

import httpx
import pytest
from fastapi import FastAPI

from runtime.client import PublisherFull, Refused, RequestTimeout
from runtime.client.errors import ClientClosed
from runtime.client.locate import NotLocated
from runtime.gateway.app import create_app
from runtime.gateway.backend import Caller, WorkerBackend
from runtime.gateway.errors import STATUS, ApiError, described, error_answer
from runtime.gateway.route_table import FixedRoutes, Routes
from runtime.keys import InvalidId
from runtime.nack_codes import Code
from tests.runtime.gateway.asgi import in_process
from tests.runtime.gateway.posting import error_of

pytestmark = pytest.mark.anyio


def test_every_code_of_the_wire_has_a_status() -> None:
    codes = {code for group in typing.get_args(Code) for code in typing.get_args(group)}
    assert codes <= STATUS.keys()
    assert set(STATUS) - codes == {"sequence_gap", "method_not_allowed", "upgrade_required", "timeout", "internal"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Refused("late", "x"), ("late", 409)),
        (Refused("a_code_of_tomorrow", "x"), ("a_code_of_tomorrow", 502)),
        (ApiError("slow_down", "x"), ("slow_down", 429)),
        (RequestTimeout("x"), ("timeout", 503)),
        (PublisherFull("x"), ("slow_down", 429)),
        (NotLocated("x"), ("unavailable", 503)),
        (ClientClosed("x"), ("unavailable", 503)),
        (InvalidId("x"), ("bad_id", 422)),
        (KeyError("secret"), ("internal", 500)),
    ],
)
def test_every_error_has_a_code_and_a_status(error: Exception, expected: tuple[str, int]) -> None:
    code, text = described(error)
    answer = error_answer(code, text)
    assert (code, answer.status_code) == expected
    assert "secret" not in text
    assert ("retry-after" in answer.headers) == (answer.status_code in (429, 503))


async def test_what_does_not_exist_has_the_same_shape(http: httpx.AsyncClient) -> None:
    assert error_of(await http.get("/nothing/here")) == (404, "not_found")
    answer = await http.put("/v1/sessions/x")
    assert error_of(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "DELETE, GET"
    assert (await http.post("/v1/sessions/x/history")).headers["allow"] == "GET"
    assert error_of(await http.get("/v1/sessions/")) == (404, "not_found")


class BrokenBackend(WorkerBackend):
    """Fails as nobody expected."""

    def __init__(self) -> None:
        super().__init__(FixedRoutes("tcp://127.0.0.1:9"))

    async def routes(self) -> Routes:
        raise ZeroDivisionError("the secret of the house")

    async def cluster(self) -> Mapping[str, Any]:
        raise NotLocated("no controller")

    def clients(self, caller: Caller) -> NoReturn:
        raise ClientClosed("the client was closed")


async def test_the_unexpected_is_logged_and_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    app: FastAPI = create_app(BrokenBackend())
    async with in_process(app) as http:
        with caplog.at_level(logging.ERROR):
            answer = await http.get("/v1/route")
        assert error_of(answer) == (500, "internal")
        assert "secret" not in answer.text
        assert "the secret of the house" in caplog.text
        assert 'requests_total{route="/v1/route",status="5xx"} 1.0' in (await http.get("/metrics")).text
        assert error_of(await http.get("/v1/cluster")) == (503, "unavailable")
        assert error_of(await http.get("/v1/sessions")) == (503, "unavailable")
