"""Who may see what: with tokens a caller is the tenant of its token, without them the tenant it names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from runtime.engine.policies import EnginePolicy
from runtime.gateway.app import create_app
from runtime.gateway.backend import Caller, WorkerBackend
from runtime.gateway.policy import GatewayPolicy
from runtime.gateway.route_table import FixedRoutes
from runtime.security import Tokens
from tests.runtime.gateway.asgi import EventReader, SocketReader, in_process
from tests.runtime.gateway.conftest import ORDER
from tests.runtime.gateway.posting import error_of, path_of
from tests.runtime.worker_harness import RunningWorker

pytestmark = pytest.mark.anyio

RED, BLUE = {"Authorization": "Bearer red-token"}, {"Authorization": "Bearer blue-token"}
BODY = {"stream": "s", "modality": "imu", "event_time_s": 0, "frames": [[1, 2]]}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorker]:
    tokens = {"red-token": "red", "blue-token": "blue"}
    with RunningWorker(tmp_path_factory.mktemp("tokens"), engine=EnginePolicy(order=ORDER), tokens=tokens) as worker:
        yield worker


@pytest.fixture
async def http(backend: WorkerBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(create_app(backend)) as client:
        yield client


async def test_two_tenants_cannot_see_each_other(http: httpx.AsyncClient, session: str) -> None:
    assert (await http.post(path_of(session, "/segments"), json=BODY, headers=RED)).status_code == 200

    assert error_of(await http.get(path_of(session), headers=BLUE)) == (404, "not_found")
    assert session not in (await http.get("/v1/sessions", headers=BLUE)).json()["sessions"]
    assert (await http.get(path_of(session, "/history"), headers=BLUE)).json()["rows"] == []
    assert (await http.delete(path_of(session), headers=BLUE)).json()["existed"] is False

    assert (await http.get(path_of(session), headers=RED)).json()["tenant"] == "red"
    blue = await http.post(path_of(session, "/segments"), json=BODY, headers=BLUE)
    assert (blue.json()["sequence"], blue.json()["version"]) == (1, 1)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}])
async def test_without_a_known_token_everything_is_refused(
    http: httpx.AsyncClient, session: str, headers: dict[str, str]
) -> None:
    for method, path in [
        ("GET", "/v1/sessions"),
        ("GET", path_of(session)),
        ("GET", path_of(session, "/history")),
        ("GET", path_of(session, "/events")),
        ("GET", "/v1/events"),
        ("GET", "/v1/model"),
        ("DELETE", path_of(session)),
    ]:
        answer = await http.request(method, path, headers=headers)
        assert error_of(answer) == (401, "unauthorised")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert error_of(await http.post(path_of(session, "/segments"), json=BODY, headers=headers)) == (401, "unauthorised")


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"{}", b'{"frames": [1, 1]}'])
async def test_a_body_is_not_parsed_for_an_unknown_token(http: httpx.AsyncClient, session: str, content: bytes) -> None:
    json_type = {"Content-Type": "application/json"}
    for headers in ({"Authorization": "Bearer wrong"}, {}):
        answer = await http.post(path_of(session, "/segments"), content=content, headers=json_type | headers)
        assert error_of(answer) == (401, "unauthorised")
    known = await http.post(path_of(session, "/segments"), content=content, headers=json_type | RED)
    assert error_of(known)[1] == "malformed"


async def test_a_token_does_not_speak_for_another_tenant(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/sessions", headers=RED | {"X-GRF-Tenant": "red"})).status_code == 200
    assert error_of(await http.get("/v1/sessions", headers=RED | {"X-GRF-Tenant": "blue"})) == (401, "unauthorised")


@pytest.mark.parametrize("tenant", [b"a/b", b"\xff", "ü".encode() * 150])
async def test_a_tenant_that_cannot_be_is_refused(http: httpx.AsyncClient, tenant: bytes) -> None:
    answer = await http.get("/v1/sessions", headers={b"X-GRF-Tenant": tenant, b"Authorization": b"Bearer red-token"})
    assert not answer.is_success
    assert error_of(answer)[1] in ("bad_id", "unauthorised")


async def test_the_gateway_is_ready_though_it_has_no_token_itself(http: httpx.AsyncClient) -> None:
    assert (await http.get("/ready")).json()["status"] == "ready"


async def test_refused_callers_are_not_kept(backend: WorkerBackend, http: httpx.AsyncClient) -> None:
    for number in range(5):
        await http.get("/v1/sessions", headers={"Authorization": f"Bearer guess-{number}"})
    assert not backend._callers


async def test_callers_make_room_for_each_other(worker: RunningWorker) -> None:
    backend = WorkerBackend(FixedRoutes(worker.endpoint), GatewayPolicy(max_callers=1))
    app = create_app(backend)
    async with in_process(app) as http:
        for headers in (RED, BLUE, RED):
            assert (await http.get("/v1/sessions", headers=headers)).status_code == 200
            assert len(backend._callers) == 1
        async with EventReader(app, "/v1/events", RED):
            assert error_of(await http.get("/v1/sessions", headers=BLUE)) == (429, "slow_down")
        assert (await http.get("/v1/sessions", headers=BLUE)).status_code == 200


async def test_a_tenant_leaves_event_streams_to_the_others(worker: RunningWorker) -> None:
    policy = GatewayPolicy(max_event_streams=3, max_event_streams_per_tenant=2)
    app = create_app(WorkerBackend(FixedRoutes(worker.endpoint), policy))
    red_by_name = RED | {"X-GRF-Tenant": "red"}  # another caller of the same tenant
    async with (
        in_process(app) as http,
        EventReader(app, "/v1/events", RED),
        EventReader(app, "/v1/events", red_by_name) as second,
    ):
        assert second.status == 200
        answer = await http.get("/v1/events", headers=RED)
        assert error_of(answer) == (429, "slow_down")
        assert answer.json()["error"]["message"] == "2 event streams of tenant 'red' are open"
        async with SocketReader(app, headers=RED) as refused:
            assert (await refused.next()).data["code"] == "slow_down"
        async with EventReader(app, "/v1/events", BLUE) as blue:
            assert blue.status == 200
            answer = await http.get("/v1/events", headers=BLUE)
            assert answer.json()["error"]["message"] == "3 event streams of all tenants are open"
    assert not app.state.event_streams._by_tenant


async def test_idle_callers_are_let_go(backend: WorkerBackend, http: httpx.AsyncClient) -> None:
    await http.get("/v1/sessions", headers=RED)
    clients = backend._callers[Caller("default", "red-token")]
    await backend.tidy(clients.used_s + backend.policy.idle_caller_s - 1)
    assert len(backend._callers) == 1
    await backend.tidy(clients.used_s + backend.policy.idle_caller_s + 1)
    assert not backend._callers


async def test_a_websocket_needs_the_token_too(backend: WorkerBackend) -> None:
    app = create_app(backend)
    async with in_process(app) as http:
        async with SocketReader(app) as refused:
            assert (await refused.next()).data["code"] == "unauthorised"
            assert await refused.closed() == (1008, "unauthorised")
        await http.post("/v1/sessions/by-socket/segments", json=BODY, headers=RED)
        async with SocketReader(app, "session=by-socket", RED) as red:
            assert (await red.next()).data["session"] == "by-socket"


async def test_a_web_page_offers_its_token_as_a_subprotocol(backend: WorkerBackend) -> None:
    """With a WebSocket it can send no header."""
    app = create_app(backend)
    async with in_process(app) as http:
        await http.post("/v1/sessions/by-page/segments", json=BODY, headers=RED)
        async with SocketReader(app, "session=by-page", subprotocols=["grf", "bearer.red%2Dtoken"]) as red:
            assert red.subprotocol == "grf"
            assert (await red.next()).data["session"] == "by-page"
        for wrong in ("bearer.wrong", "bearer.%FF", "bearer.", "red-token"):
            async with SocketReader(app, subprotocols=["grf", wrong]) as refused:
                assert (await refused.next()).data["code"] == ("bad_id" if "%FF" in wrong else "unauthorised")
        async with SocketReader(app, "session=by-page", RED, subprotocols=["other"]) as other:
            assert other.subprotocol is None


async def test_an_event_stream_ends_when_its_token_is_taken_back(tmp_path: Path) -> None:
    with RunningWorker(tmp_path, tokens={"red-token": "red"}) as worker:
        backend = WorkerBackend(FixedRoutes(worker.endpoint), GatewayPolicy())
        app = create_app(backend)
        async with in_process(app), EventReader(app, "/v1/events", RED) as events, SocketReader(app, headers=RED) as ws:
            worker.call(lambda: worker.dispatcher.trust(Tokens({"new-token": "red"})))
            assert await events.chunk() == ""
            assert (await ws.next()).data["code"] == "unauthorised"
