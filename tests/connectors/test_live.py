"""Live sources over the wire: what is refused, what waits, what is given up and counted."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed

from connectors.base import Sample
from connectors.contract import run, take
from connectors.http_push import HttpOptions
from connectors.intake import Intake
from connectors.listening import _bound
from connectors.websocket import WebSocketOptions
from tests.browser import browser, until

SECRET = {"Authorization": "Bearer secret"}


@asynccontextmanager
async def http(**options: Any) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    source = HttpOptions.model_validate({"port": 0, **options}).build()
    async with source.opened(), httpx.AsyncClient(base_url=f"http://127.0.0.1:{source.port}") as client:
        yield source, client


def test_a_posted_body_is_a_sample_and_lines_are_many() -> None:
    async def main() -> None:
        async with http() as (source, client):
            answer = await client.post("/belt/7", content=b'{"bpm": 71}', headers={"X-Event-Time": "1700000000.5"})
            assert (answer.status_code, answer.json()) == (202, {"taken": 1})
            assert (await client.post("/belt/8?lines", content=b"1\n2\n\n3")).json() == {"taken": 3}
            samples = await take(source, 4)
        assert [(sample.stream_key, sample.value) for sample in samples] == [
            ("belt/7", b'{"bpm": 71}'),
            ("belt/8", b"1"),
            ("belt/8", b"2"),
            ("belt/8", b"3"),
        ]
        assert samples[0].event_time_s == 1_700_000_000.5
        assert samples[0].arrival_s is not None
        assert abs(samples[0].arrival_s - time.time()) < 20.0

    run(main())


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/belt", {}, b"1", 401),
        ("/belt", {"Authorization": "Bearer guess"}, b"1", 401),
        ("/", SECRET, b"1", 404),
        ("/" + "x" * 600, SECRET, b"1", 404),
        ("/belt", {**SECRET, "X-Event-Time": "noon"}, b"1", 400),
        ("/belt", {**SECRET, "X-Event-Time": "nan"}, b"1", 400),
        ("/belt", SECRET, b"x" * 2000, 413),
    ],
)
def test_what_cannot_be_taken_is_answered_with_a_reason(
    path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    async def main() -> None:
        async with http(token="secret", max_body_bytes=1000) as (_, client):
            answer = await client.post(path, content=body, headers=headers)
            assert answer.status_code == status
            assert answer.json()["error"]

    run(main())


def test_what_no_route_takes_is_told_to_who_posted_it() -> None:
    async def main() -> None:
        async with http(token="secret") as (source, client):
            source.ask(
                lambda sample: "" if sample.value.startswith(b"1") else f"no route matches {sample.stream_key!r}"
            )
            assert (await client.post("/belt/7", content=b"2")).status_code == 401  # asked of no stranger
            answer = await client.post("/belt/7", content=b"2", headers=SECRET)
            assert (answer.status_code, answer.json()) == (404, {"error": "no route matches 'belt/7'"})
            answer = await client.post("/belt/7?lines", content=b"1\n2\n11\n", headers=SECRET)
            assert (answer.status_code, answer.json()) == (202, {"taken": 2, "left_out": 1})
            assert [sample.value for sample in await take(source, 2)] == [b"1", b"11"]

    run(main())


def test_who_posts_more_lines_than_fit_is_told_where_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.http_push.WAIT_S", 0.0)

    async def main() -> None:
        async with http(queue=1) as (source, client):
            source.ask(lambda sample: "" if sample.value.startswith(b"1") else "no route")
            answer = await client.post("/belt/7?lines", content=b"2\n1\n2\n11\n2\n")
            assert (answer.status_code, answer.json()) == (503, {"error": "full", "taken": 1, "left_out": 2})

    run(main())


def test_a_socket_whose_message_no_route_takes_is_closed() -> None:
    async def main() -> None:
        source = WebSocketOptions(port=0).build()
        source.ask(lambda sample: "no route" if sample.stream_key == "belt" else "")
        async with source.opened():
            for path, is_taken in (("belt", False), ("phone", True)):
                async with websockets.asyncio.client.connect(f"ws://127.0.0.1:{source.port}/{path}") as socket:
                    await socket.send("1")
                    if is_taken:
                        assert [sample.stream_key for sample in await take(source, 1)] == ["phone"]
                        continue
                    with pytest.raises(ConnectionClosed) as closed:
                        await socket.recv()
                    assert (closed.value.rcvd and closed.value.rcvd.code) == 1008

    run(main())


DESK = "https://desk.example:8443"


def test_a_page_of_another_server_may_post_where_its_origin_is_named() -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}

    async def main() -> None:
        async with http(token="secret", allowed_origins=[DESK.upper()]) as (_, client):
            asked = await client.options("/desk/7", headers={**asks, "Origin": DESK})
            assert asked.status_code == 200
            assert asked.headers["access-control-allow-origin"] == DESK
            assert "authorization" in asked.headers["access-control-allow-headers"]
            for headers, status in ((SECRET, 202), ({}, 401)):  # and may read why not
                answer = await client.post("/desk/7", content=b"1", headers={**headers, "Origin": DESK})
                assert answer.status_code == status
                assert answer.headers["access-control-allow-origin"] == DESK
            other = await client.post("/desk/7", content=b"1", headers={**SECRET, "Origin": "https://other.example"})
            assert "access-control-allow-origin" not in other.headers
        async with http() as (_, client):
            assert (await client.options("/desk/7", headers={**asks, "Origin": DESK})).status_code == 405

    run(main())


@pytest.mark.parametrize("origin", ["desk.example", "https://desk.example/", "*", "https://*.example", "://x"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        HttpOptions.model_validate({"allowed_origins": [origin]})


def test_an_answer_does_not_wait_for_the_sender_to_acknowledge_its_head() -> None:
    """asyncio turns Nagle's algorithm off for what it knows to be TCP."""
    bound = _bound("127.0.0.1", 0)
    with bound, socket.create_connection(bound.getsockname()), bound.accept()[0] as accepted:
        assert accepted.proto == socket.IPPROTO_TCP


def test_a_full_queue_makes_the_sender_wait() -> None:
    async def main() -> None:
        async with http(queue=2) as (source, client):
            await client.post("/a?lines", content=b"1\n2")
            waiting = asyncio.create_task(client.post("/a", content=b"3"))
            while source._intake._room.is_set():
                await asyncio.sleep(0)
            assert not waiting.done()
            assert [sample.value for sample in await take(source, 2)] == [b"1", b"2"]
            assert (await waiting).status_code == 202
            assert [sample.value for sample in await take(source, 1)] == [b"3"]
            assert source.dropped == 0

    run(main())


def test_a_full_queue_gives_up_the_oldest_and_counts_it() -> None:
    async def main() -> None:
        async with http(queue=2, when_queue_full="drop_oldest") as (source, client):
            assert (await client.post("/a?lines", content=b"1\n2\n3\n4\n5")).json() == {"taken": 5}
            assert [sample.value for sample in await take(source, 2)] == [b"4", b"5"]
            assert source.dropped == 3

    run(main())


def test_what_was_taken_and_nobody_read_is_counted_at_the_end() -> None:
    async def main() -> None:
        async with http() as (source, client):
            assert (await client.post("/a?lines", content=b"1\n2\n3")).status_code == 202
        assert source.dropped == 3
        await source.close()
        assert source.dropped == 3

    run(main())


def test_a_port_that_is_taken_is_told() -> None:
    async def main() -> None:
        async with http() as (source, _):
            other = HttpOptions(port=source.port).build()
            with pytest.raises(Exception, match=r"127\.0\.0\.1:\d+: .*in use"):
                await other.open(position=None)

    run(main())


def test_an_intake_hands_over_what_came_before_it_failed() -> None:
    async def main() -> None:
        intake = Intake(max_samples=10, when_full="block")
        intake.offer(Sample("a", 1))
        intake.fail(RuntimeError("unplugged"))
        batches = intake.batches()
        assert await anext(batches) == [Sample("a", 1)]
        with pytest.raises(RuntimeError, match="unplugged"):
            await anext(batches)

    run(main())


@pytest.mark.parametrize(("path", "reason"), [("phone/7", "unauthorised"), ("phone/7?token=guess", "unauthorised")])
def test_a_socket_without_the_token_is_closed_with_the_reason(path: str, reason: str) -> None:
    async def main() -> None:
        async with WebSocketOptions(port=0, token="secret").build().opened() as source:
            url = f"ws://127.0.0.1:{source.port}/{path}"
            async with websockets.asyncio.client.connect(url, proxy=None) as socket:
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.reason == reason

    run(main())


def test_the_page_is_served_unless_it_is_switched_off() -> None:
    async def page(**options: Any) -> httpx.Response:
        source = WebSocketOptions.model_validate({"port": 0, **options}).build()
        async with source.opened(), httpx.AsyncClient() as client:
            return await client.get(f"http://127.0.0.1:{source.port}/")

    assert "Publish this phone's motion" in run(page()).text
    assert run(page(page=False)).status_code == 404


# ---- the page, in a real browser ----

SHAKE = """
(async () => {
  for (let n = 0; n < 50; n++) {
    dispatchEvent(new DeviceMotionEvent("devicemotion", {
      accelerationIncludingGravity: {x: n, y: -n, z: 9.81},
      rotationRate: {alpha: 1, beta: 2, gamma: 3}, interval: 20}));
    await new Promise(done => setTimeout(done, 5));
  }
  return [document.getElementById("sent").textContent, document.getElementById("dropped").textContent,
          document.getElementById("status").textContent];
})()
"""


def test_a_browser_publishes_its_motion(server_program: Callable[[str], str]) -> None:
    chromium = server_program("chromium")

    async def main() -> None:
        async with WebSocketOptions(port=0, token="secret").build().opened() as source:
            url = f"http://127.0.0.1:{source.port}/?start&device=test-phone&token=secret"
            async with browser(chromium, url) as evaluate:
                await until(evaluate, "document.getElementById('status').textContent", "open")
                sent, dropped, status = await evaluate(SHAKE)
                assert (sent, dropped, status) == ("50", "0", "open")
                samples = await take(source, 50)
        assert {sample.stream_key for sample in samples} == {"phone/test-phone"}
        messages = [json.loads(sample.value) for sample in samples]
        assert [message["a"] for message in messages] == [[n, -n, 9.81] for n in range(50)]
        assert all(message["r"] == [1, 2, 3] for message in messages)
        assert all(abs(message["t"] / 1000 - time.time()) < 60.0 for message in messages)

    asyncio.run(asyncio.wait_for(main(), 60.0))
