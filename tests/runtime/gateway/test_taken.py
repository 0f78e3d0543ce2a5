"""Between the gateway and a reader stands a proxy whose connection waits, where the gateway's own never does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.gateway.taken import TAKEN, TELL_AFTER_BYTES, WINDOW_BYTES, TellsTaken, Window

pytestmark = pytest.mark.anyio

EVENT = {"type": "http.response.body", "body": b"x" * 1024, "more_body": True}
TEXT = {"type": "websocket.send", "text": "x" * 1024}
STREAM = {"type": "http", "method": "GET", "path": "/v1/events"}
SOCKET = {"type": "websocket", "path": "/v1/ws"}


class Connection:
    """The proxy's side of a reader, and an application behind it that says as much as it may, as Serve runs it: what it
    sends is queued without a limit."""

    def __init__(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        self.may_read = asyncio.Event()
        self.gone: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.n_bytes_queued = 0
        self.n_bytes_read = 0
        self.heard: list[dict[str, Any]] = []
        self._event = event
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.ensure_future(TellsTaken(self._served)(scope, self.gone.get, self._write))

    async def _write(self, message: Any) -> None:
        await self.may_read.wait()
        self.n_bytes_read += 1024

    async def _served(self, scope: Any, receive: Any, send: Any) -> None:
        window = Window(scope, self._enqueue, patience_s=60.0)

        async def say() -> None:
            while True:
                await window.send(self._event)
                await asyncio.sleep(0)

        async def forward() -> None:
            while True:
                await send(await self._queue.get())

        tasks = [asyncio.ensure_future(work()) for work in (say, forward)]
        while "disconnect" not in (message := await receive())["type"]:
            self.heard.append(message)
            window.heard(message)
        for task in tasks:
            task.cancel()

    async def _enqueue(self, message: Any) -> None:
        self.n_bytes_queued += 1024
        self._queue.put_nowait(message)

    async def turns(self, n: int) -> None:
        for _ in range(n):
            await asyncio.sleep(0)

    async def leave(self) -> None:
        self.gone.put_nowait({"type": "http.disconnect"})
        await self.task


@pytest.mark.parametrize(("scope", "event"), [(STREAM, EVENT), (SOCKET, TEXT)])
async def test_the_gateway_is_no_further_ahead_of_a_reader_than_its_window(
    scope: dict[str, Any], event: dict[str, Any]
) -> None:
    reader = Connection(scope, event)
    await reader.turns(4 * WINDOW_BYTES // 1024)
    assert reader.n_bytes_queued == WINDOW_BYTES
    reader.may_read.set()
    await reader.turns(16 * WINDOW_BYTES // 1024)
    assert reader.n_bytes_read > 2 * WINDOW_BYTES, "who reads on gets more"
    reader.may_read.clear()
    await reader.turns(4 * WINDOW_BYTES // 1024)
    assert reader.n_bytes_queued - reader.n_bytes_read <= WINDOW_BYTES
    assert len(reader.heard) <= reader.n_bytes_read // TELL_AFTER_BYTES, "it is told seldom"
    await reader.leave()


async def test_what_the_reader_says_arrives_between_what_it_has_taken() -> None:
    reader = Connection(SOCKET, TEXT)
    said = {"type": "websocket.receive", "text": "hello"}
    reader.gone.put_nowait(said)
    reader.may_read.set()
    await reader.turns(4 * WINDOW_BYTES // 1024)
    reader.gone.put_nowait(said)
    await reader.turns(100)
    assert reader.heard.count(said) == 2
    await reader.leave()


async def test_requests_that_end_pass_untouched() -> None:
    seen: list[Any] = []

    async def app(*given: Any) -> None:
        seen.extend(given)

    async def unused(*_: Any) -> Any:
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/v1/sessions/x/segments"}
    await TellsTaken(app)(scope, unused, unused)
    assert seen == [scope, unused, unused]


@pytest.mark.parametrize(("scope", "event"), [(STREAM, EVENT), (SOCKET, TEXT)])
async def test_an_application_of_others_behind_the_same_proxy_hears_its_reader_alone(
    scope: dict[str, Any], event: dict[str, Any]
) -> None:
    said: asyncio.Queue[Any] = asyncio.Queue()
    heard: list[Any] = []

    async def others(_: Any, receive: Any, send: Any) -> None:
        listening = asyncio.ensure_future(receive())
        for _ in range(4 * TELL_AFTER_BYTES // 1024):
            await send(event)
            await asyncio.sleep(0)
        said.put_nowait({"type": f"{scope['type']}.disconnect"})
        heard.append(await listening)

    async def write(_: Any) -> None:
        pass

    await TellsTaken(others)(scope, said.get, write)
    assert heard == [{"type": f"{scope['type']}.disconnect"}]


@pytest.mark.parametrize(("scope", "event"), [(STREAM, EVENT), (SOCKET, TEXT)])
async def test_what_is_said_to_a_reader_that_is_gone_is_no_error_of_the_proxy(
    scope: dict[str, Any], event: dict[str, Any]
) -> None:
    """uvicorn raises it; Serve would log it with a traceback, and leave its own work on the request undone."""
    tried = list[Any]()

    async def broken(message: Any) -> None:
        tried.append(message)
        raise ConnectionResetError

    async def app(_: Any, receive: Any, send: Any) -> None:
        await send({**event, TAKEN: 60.0})
        await send({**event, TAKEN: 60.0})
        await send(event)

    async def unused() -> Any:
        raise AssertionError

    await TellsTaken(app)(scope, unused, broken)
    assert len(tried) == 1


async def test_a_reader_that_takes_nothing_for_too_long_is_cut_off() -> None:
    """Else its connection would stay in the proxy with all that was on its way, and count nowhere."""

    class Server:
        def __init__(self) -> None:
            self.transport = self
            self.is_cut_off = asyncio.Event()

        def abort(self) -> None:
            self.is_cut_off.set()

        async def send(self, _: Any) -> None:
            await self.is_cut_off.wait()

        async def receive(self) -> Any:
            await self.is_cut_off.wait()
            return {"type": "http.disconnect"}

    async def served(scope: Any, receive: Any, send: Any) -> None:
        async def forward(message: Any) -> None:
            forwarded.append(asyncio.ensure_future(send(message)))

        await Window(scope, forward, patience_s=0.01).send(EVENT)
        assert await receive() == {"type": "http.disconnect"}

    forwarded: list[asyncio.Future[None]] = []
    server = Server()
    async with asyncio.timeout(10):
        await TellsTaken(served)(STREAM, server.receive, server.send)
        await asyncio.gather(*forwarded)


async def test_without_anybody_who_tells_only_the_connection_waits() -> None:
    n_sent = 0

    async def send(_: Any) -> None:
        nonlocal n_sent
        n_sent += 1

    window = Window({"type": "http"}, send, patience_s=60.0)
    for _ in range(2 * WINDOW_BYTES // 1024):
        await window.send(EVENT)
    assert n_sent == 2 * WINDOW_BYTES // 1024
