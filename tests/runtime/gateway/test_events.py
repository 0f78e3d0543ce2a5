"""Event streams and WebSockets, against a real worker."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from runtime.gateway.app import create_app
from runtime.gateway.backend import WorkerBackend
from runtime.gateway.models import StateAnswer
from runtime.gateway.policy import GatewayPolicy
from runtime.gateway.route_table import FixedRoutes
from tests.runtime.gateway.asgi import EventReader, SocketReader, in_process
from tests.runtime.gateway.posting import path_of, post, posted
from tests.runtime.worker_harness import RunningWorker

pytestmark = pytest.mark.anyio


def subscribers(worker: RunningWorker) -> int:
    """Subscriptions the worker knows of, over all connections."""
    peers = worker.dispatcher.peers
    return worker.call(lambda: sum(len(peer.subscriptions) for peer in peers._peers.values()))


async def until_no_subscribers(worker: RunningWorker) -> None:
    for _ in range(200):
        if not subscribers(worker):
            return
        await asyncio.sleep(0.005)
    pytest.fail("the worker still has subscribers after a second")


async def test_a_session_is_followed_from_its_present_state_on(
    app: FastAPI, http: httpx.AsyncClient, session: str
) -> None:
    await posted(http, session)
    async with EventReader(app, path_of(session, "/events")) as events:
        assert events.status == 200
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.headers["cache-control"] == "no-store"
        present = await events.next()
        assert (present.event, present.id, present.data["session"]) == ("update", "1", session)

        await posted(http, session, event_time_s=1.01)
        update = await events.until(2)
        assert (update.event, update.id) == ("update", "2")
        StateAnswer.model_validate(update.data)


async def test_a_session_may_be_followed_before_it_exists(app: FastAPI, http: httpx.AsyncClient, session: str) -> None:
    async with EventReader(app, path_of(session, "/events")) as events:
        await posted(http, session)
        assert (await events.until(1)).data["session"] == session


async def test_a_correction_is_marked(app: FastAPI, http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session, event_time_s=1.04)
    async with EventReader(app, path_of(session, "/events")) as events:
        await posted(http, session, stream="mic", modality="audio", frames=[[1, 2, 3]], event_time_s=1.02)
        seen = []
        while "correction" not in seen:
            seen.append((await events.next()).event)


async def test_all_sessions_of_a_tenant_are_followed_and_no_others(app: FastAPI, http: httpx.AsyncClient) -> None:
    red, blue = {"X-GRF-Tenant": "red"}, {"X-GRF-Tenant": "blue"}
    body = {"stream": "s", "modality": "imu", "event_time_s": 0, "frames": [[1, 2]]}
    async with EventReader(app, "/v1/events", red) as events:
        for tenant, session in ((blue, "hidden"), (red, "one"), (blue, "hidden-2"), (red, "two")):
            assert (await http.post(path_of(session, "/segments"), json=body, headers=tenant)).status_code == 200
        seen: list[str] = []
        while "two" not in seen:
            event = await events.next()
            assert event.data["tenant"] == "red"
            seen.append(event.data["session"])
        assert set(seen) == {"one", "two"}


async def test_a_reader_who_goes_away_is_unsubscribed_at_once(
    worker: RunningWorker, app: FastAPI, http: httpx.AsyncClient, session: str
) -> None:
    await posted(http, session)
    async with EventReader(app, path_of(session, "/events")) as events, EventReader(app, "/v1/events"):
        await events.next()
        await posted(http, session, event_time_s=1.01)
        assert subscribers(worker) == 2
        assert "grf_gateway_event_streams 2.0" in (await http.get("/metrics")).text
    await until_no_subscribers(worker)
    assert "grf_gateway_event_streams 0.0" in (await http.get("/metrics")).text


async def test_a_reader_of_whom_serve_tells_by_an_error_that_it_has_gone_is_no_failure(
    app: FastAPI, http: httpx.AsyncClient, session: str, caplog: pytest.LogCaptureFixture
) -> None:
    await posted(http, session)
    async with EventReader(app, path_of(session, "/events")) as reader:
        await reader.next()
        reader.gone_by = RuntimeError("task was cancelled")
    assert not [record for record in caplog.records if record.name == "runtime.gateway.observing"]


async def test_a_slow_reader_is_told_what_it_missed_and_sees_the_newest(
    app: FastAPI, http: httpx.AsyncClient, session: str
) -> None:
    n = 300
    await posted(http, session, event_time_s=0.0)
    async with EventReader(app, path_of(session, "/events")) as events:
        await events.next()
        events.may_read.clear()
        for number in range(1, n):
            await posted(http, session, event_time_s=number / 1000)
        events.may_read.set()
        missed, told, newest = 0, 0, 0
        while newest < n:
            event = await events.next()
            told += event.event != "missed"
            missed += event.data.get("missed", 0)
            newest = max(newest, event.data.get("version", 0))
        assert missed > 0
        assert told < n


async def test_a_quiet_stream_is_kept_alive(worker: RunningWorker, session: str) -> None:
    app = create_app(WorkerBackend(FixedRoutes(worker.endpoint), GatewayPolicy(keep_alive_s=0.02)))
    async with in_process(app), EventReader(app, path_of(session, "/events")) as events:
        assert await events.chunk() == ": keep-alive\n\n"
        assert await events.chunk() == ": keep-alive\n\n"


async def test_event_streams_go_on_after_the_worker_has_started_again(
    worker: RunningWorker, app: FastAPI, http: httpx.AsyncClient, session: str
) -> None:
    await posted(http, session, wait="durable", sequence=1)
    async with EventReader(app, path_of(session, "/events")) as events:
        await events.next()
        worker.crash()
        worker.start()
        while True:  # until the subscription has found the new worker
            await posted(http, session, sequence=2, event_time_s=1.5)
            if subscribers(worker):
                break
            await asyncio.sleep(0.02)
        await posted(http, session, sequence=3, event_time_s=1.6)
        assert (await events.until(3)).data["session"] == session


async def test_a_reader_who_takes_nothing_is_dropped(worker: RunningWorker, session: str) -> None:
    app = create_app(WorkerBackend(FixedRoutes(worker.endpoint), GatewayPolicy(send_timeout_s=0.05)))
    async with in_process(app) as http:
        await posted(http, session)
        async with EventReader(app, path_of(session, "/events")) as events:
            await events.next()
            events.may_read.clear()
            await posted(http, session, event_time_s=1.01)
            await until_no_subscribers(worker)
            events.may_read.set()


async def test_the_number_of_event_streams_is_bounded(worker: RunningWorker) -> None:
    app = create_app(WorkerBackend(FixedRoutes(worker.endpoint), GatewayPolicy(max_event_streams=1)))
    async with in_process(app) as http:
        async with EventReader(app, "/v1/events"):
            answer = await http.get("/v1/events")
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "slow_down")
        async with EventReader(app, "/v1/events") as events:
            assert events.status == 200


async def test_without_a_worker_the_answer_is_an_error_and_no_stream(session: str) -> None:
    app = create_app(WorkerBackend(FixedRoutes("tcp://127.0.0.1:9"), GatewayPolicy(answer_timeout_s=0.1)))
    async with in_process(app) as http:
        answer = await http.get(path_of(session, "/events"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")


async def test_a_websocket_tells_the_same(
    worker: RunningWorker, app: FastAPI, http: httpx.AsyncClient, session: str
) -> None:
    async with SocketReader(app, f"session={session}") as one, SocketReader(app) as every:
        while subscribers(worker) < 2:
            await asyncio.sleep(0.005)
        await posted(http, session)
        for socket in (one, every):
            event = await socket.next()
            assert (event.event, event.id, event.data["session"]) == ("update", "1", session)
    await until_no_subscribers(worker)


async def test_a_websocket_is_told_what_is_wrong_before_it_is_closed(app: FastAPI, http: httpx.AsyncClient) -> None:
    for query, code in (("session=" + "x" * 201, "bad_id"), ("token=secret", "malformed")):
        async with SocketReader(app, query) as socket:
            error = await socket.next()
            assert (error.event, error.data["code"]) == ("error", code)
            assert await socket.closed() == (1008, code)


async def test_a_websocket_whose_upgrade_was_lost_on_the_way_is_told_so(http: httpx.AsyncClient) -> None:
    for path in ("/v1/ws", "/v1/ws?session=a"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (426, "upgrade_required")
        assert answer.headers["upgrade"] == "websocket"


async def test_what_a_reader_sends_over_a_websocket_is_ignored(
    app: FastAPI, http: httpx.AsyncClient, session: str
) -> None:
    async with SocketReader(app, f"session={session}") as socket:
        socket.say(b"\0")
        await posted(http, session)
        assert (await socket.next()).event == "update"


def sockets_from(app: FastAPI, origin: str, *, opens: bool) -> SocketReader:
    return SocketReader(app, headers={"Host": "grf:8000", "Origin": origin}, opens=opens)


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "http://grf", "https://grf:8001", "null", "http://["])
async def test_a_web_page_from_elsewhere_cannot_open_a_websocket(
    app: FastAPI, http: httpx.AsyncClient, origin: str
) -> None:
    async with sockets_from(app, origin, opens=False):
        pass


async def test_a_page_of_the_gateway_or_of_an_allowed_origin_opens_a_websocket(worker: RunningWorker) -> None:
    policy = GatewayPolicy(allowed_origins=("https://dash.example:8443",))
    app = create_app(WorkerBackend(FixedRoutes(worker.endpoint), policy))
    async with in_process(app):
        for origin in ("http://grf:8000", "https://GRF:8000", "https://dash.example:8443"):
            async with sockets_from(app, origin, opens=True):
                pass
        async with sockets_from(app, "http://dash.example:8443", opens=False):
            pass


async def test_a_stream_of_posts_and_events_agrees(app: FastAPI, http: httpx.AsyncClient, session: str) -> None:
    async with EventReader(app, path_of(session, "/events")) as events:
        await asyncio.gather(*(post(http, session, event_time_s=n / 100) for n in range(20)))
        last = await events.until(20)
        assert last.data["live"]["version"] == 20
