"""Web pages that another server sent, and what a browser lets them see."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from runtime.gateway.app import create_app
from runtime.gateway.backend import WorkerBackend
from runtime.gateway.policy import GatewayPolicy
from runtime.gateway.route_table import FixedRoutes
from tests.runtime.gateway.asgi import EventReader, in_process
from tests.runtime.gateway.posting import path_of
from tests.runtime.worker_harness import RunningWorker

pytestmark = pytest.mark.anyio

ALLOWED = "https://dash.example:8443"
FOREIGN = "https://elsewhere.example"
BODY = {"stream": "s", "modality": "imu", "event_time_s": 0, "frames": [[1, 2]]}


@pytest.fixture
def backend(worker: RunningWorker) -> WorkerBackend:
    policy = GatewayPolicy(allowed_origins=("https://Dash.example:8443",), max_body_bytes=1000)
    return WorkerBackend(FixedRoutes(worker.endpoint), policy)


@pytest.fixture
async def page(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Sends what a browser sends for a page of the allowed origin."""
    async with in_process(app, headers={"Origin": ALLOWED}) as client:
        yield client


def preflight(method: str, origin: str) -> dict[str, str]:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,content-type"}
    return {"Origin": origin, **asked}


def may_see(answer: httpx.Response) -> str | None:
    origin: str | None = answer.headers.get("Access-Control-Allow-Origin")
    return origin


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
async def test_an_allowed_page_may_ask_anything(page: httpx.AsyncClient, session: str, method: str) -> None:
    answer = await page.options(path_of(session), headers=preflight(method, ALLOWED))
    assert (answer.status_code, may_see(answer)) == (200, ALLOWED)
    assert method in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
    assert "Access-Control-Allow-Credentials" not in answer.headers, "no cookie is asked for"


async def test_an_allowed_page_sees_every_answer(app: FastAPI, page: httpx.AsyncClient, session: str) -> None:
    answers = [
        await page.post(path_of(session, "/segments"), json=BODY),
        await page.get(path_of(session)),
        await page.get("/v1/nothing"),
        await page.put(path_of(session)),
        await page.post(path_of(session, "/segments"), content=b" " * 1001),
        await page.delete(path_of(session)),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 405, 413, 200]
    assert {may_see(answer) for answer in answers} == {ALLOWED}
    async with EventReader(app, "/v1/events", {"Origin": ALLOWED}) as events:
        assert events.headers["access-control-allow-origin"] == ALLOWED


async def test_a_page_from_elsewhere_sees_nothing(page: httpx.AsyncClient, session: str) -> None:
    for origin in (FOREIGN, "http://dash.example:8443", "null"):
        asked = await page.options(path_of(session), headers=preflight("DELETE", origin))
        told = await page.get("/v1/sessions", headers={"Origin": origin})
        assert (asked.status_code, asked.json()["error"]["code"]) == (405, "method_not_allowed")
        assert may_see(asked) is may_see(told) is None


async def test_no_page_from_elsewhere_is_allowed_unless_it_is_named(worker: RunningWorker, session: str) -> None:
    async with in_process(create_app(WorkerBackend(FixedRoutes(worker.endpoint)))) as client:
        asked = await client.options(path_of(session), headers=preflight("DELETE", FOREIGN))
        assert asked.status_code == 405
        assert may_see(await client.get("/v1/sessions", headers={"Origin": FOREIGN})) is None
