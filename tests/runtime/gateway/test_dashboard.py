"""The dashboard in a real browser, before a real gateway and worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx

from tests.browser import browser, until
from tests.runtime.gateway.posting import path_of

SHOWN = "[...document.querySelectorAll('#rows tr')].map(row => row.dataset.id)"
STATUS = "document.getElementById('status').textContent"
VERSION = "document.querySelector('#rows tr').children[5].textContent"
COUNT = "document.getElementById('count').textContent"
OPEN_STREAMS = "grf_gateway_event_streams"
NAME = "bed <b>12</b>"


def streams_of(address: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{OPEN_STREAMS} "))


def test_sessions_come_change_and_go(address: str, server_program: Callable[[str], str]) -> None:
    def post(event_time_s: float) -> None:
        body = {"stream": "w", "modality": "imu", "event_time_s": event_time_s, "frames": [[1.0, 2.0]], "wait": "fused"}
        httpx.post(f"{address}{path_of(NAME, '/segments')}", json=body).raise_for_status()

    async def main() -> None:
        await asyncio.to_thread(post, 1.0)
        async with browser(server_program("chromium"), address) as evaluate:
            await until(evaluate, STATUS, "live")
            await until(evaluate, SHOWN, [NAME])
            await until(evaluate, VERSION, "1")
            await asyncio.to_thread(post, 2.0)
            await until(evaluate, VERSION, "2")
            assert await evaluate("document.querySelectorAll('#rows b').length") == 0, "ids are no HTML"
            gone = await asyncio.to_thread(httpx.delete, f"{address}{path_of(NAME)}")
            assert gone.json()["existed"]
            await until(evaluate, SHOWN, [])
            await until(evaluate, "document.getElementById('empty').hidden", False)

    asyncio.run(asyncio.wait_for(main(), 60.0))


def test_a_session_that_changes_may_be_clicked_and_is_shown_as_the_tenant_sees_it(
    address: str, server_program: Callable[[str], str]
) -> None:
    def post(name: str, event_time_s: float) -> None:
        body = {"stream": "w", "modality": "imu", "event_time_s": event_time_s, "frames": [[1.0, 2.0]]}
        sent = httpx.post(f"{address}{path_of(name, '/segments')}", json=body, headers={"X-GRF-Tenant": "ward"})
        sent.raise_for_status()

    async def main() -> None:
        await asyncio.to_thread(post, NAME, 1.0)
        async with browser(server_program("chromium"), address) as evaluate:
            await until(evaluate, STATUS, "live")
            await evaluate("by('tenant').value = 'ward'; by('tenant').dispatchEvent(new Event('change'))")
            await until(evaluate, SHOWN, [NAME])
            await evaluate("link = document.querySelector('#rows a'); link.focus()")
            await asyncio.to_thread(post, "aisle", 1.0)
            await asyncio.to_thread(post, NAME, 2.0)
            await until(evaluate, "document.querySelectorAll('#rows tr')[1]?.children[5].textContent", "2")
            assert await evaluate("document.activeElement === link")
            await evaluate("link.click()")
            await until(evaluate, "JSON.parse(by('one-state').textContent || '{}').tenant", "ward")

    asyncio.run(asyncio.wait_for(main(), 60.0))


def test_a_page_may_offer_a_token_with_its_websocket(address: str, server_program: Callable[[str], str]) -> None:
    """A browser ends a connection whose server has chosen none of the subprotocols that were offered."""
    body = {"stream": "w", "modality": "imu", "event_time_s": 1.0, "frames": [[1.0, 2.0]], "wait": "fused"}
    opened = """new Promise((tell, fail) => {
        const offered = ["grf", "bearer." + encodeURIComponent("a/token=")];
        const socket = new WebSocket(`ws://${location.host}/v1/ws?session=ward`, offered);
        socket.onerror = () => fail("refused");
        socket.onmessage = message => tell([socket.protocol, JSON.parse(message.data).data.session]);
    })"""

    async def main() -> None:
        posted = await asyncio.to_thread(httpx.post, f"{address}{path_of('ward', '/segments')}", json=body)
        posted.raise_for_status()
        async with browser(server_program("chromium"), address) as evaluate:
            await until(evaluate, STATUS, "live")
            assert await evaluate(opened) == ["grf", "ward"]
        await asyncio.to_thread(httpx.delete, f"{address}{path_of('ward')}")

    asyncio.run(asyncio.wait_for(main(), 60.0))


def test_a_hidden_tab_leaves_the_connections_to_others_and_catches_up(
    address: str, server_program: Callable[[str], str]
) -> None:
    def post(name: str) -> None:
        body = {"stream": "w", "modality": "imu", "event_time_s": 1.0, "frames": [[1.0, 2.0]]}
        httpx.post(f"{address}{path_of(name, '/segments')}", json=body).raise_for_status()

    def see(hidden: bool) -> str:
        looks = f"Object.defineProperty(document, 'hidden', {{value: {str(hidden).lower()}, configurable: true}})"
        return f"{looks}; document.dispatchEvent(new Event('visibilitychange'))"

    async def main() -> None:
        for name in ("stays", "goes"):
            await asyncio.to_thread(post, name)
        async with browser(server_program("chromium"), address) as evaluate:
            await until(evaluate, STATUS, "live")
            await until(evaluate, f"{SHOWN}.includes('goes')", True)
            await evaluate(see(hidden=True))
            while await asyncio.to_thread(streams_of, address) != 0.0:
                await asyncio.sleep(0.05)
            assert await evaluate(STATUS) == "paused"
            await asyncio.to_thread(httpx.delete, f"{address}{path_of('goes')}")
            await asyncio.to_thread(post, "comes")
            await evaluate(see(hidden=False))
            await until(evaluate, STATUS, "live")
            await until(evaluate, f"{SHOWN}.filter(id => ['stays', 'goes', 'comes'].includes(id))", ["comes", "stays"])
        for name in ("stays", "comes"):
            await asyncio.to_thread(httpx.delete, f"{address}{path_of(name)}")

    asyncio.run(asyncio.wait_for(main(), 60.0))


FAILS_TWICE = """
real = fetch; left = 2;
window.fetch = (path, options) =>
  path.startsWith("/v1/sessions/") && left-- > 0 ? Promise.reject(new Error("away")) : real(path, options);
void connect();
"""
OTHERS_HAVE_GONE = """
for (let i = 0; i < MOST_ROWS; i++) take({...sessions.get("stays").state, session: "gone" + i}, false);
"""


def test_a_connection_that_fails_while_sessions_are_read_leaves_no_stream_behind_nor_rows_of_what_has_gone(
    address: str, server_program: Callable[[str], str]
) -> None:
    def post(name: str) -> None:
        body = {"stream": "w", "modality": "imu", "event_time_s": 1.0, "frames": [[1.0, 2.0]]}
        httpx.post(f"{address}{path_of(name, '/segments')}", json=body).raise_for_status()

    async def main() -> None:
        await asyncio.to_thread(post, "stays")
        async with browser(server_program("chromium"), address) as evaluate:
            await until(evaluate, f"{STATUS} === 'live' && isRead && sessions.has('stays')", True)
            await evaluate("disconnect()")
            await asyncio.to_thread(post, "unseen")
            await evaluate(OTHERS_HAVE_GONE)
            await evaluate(f"isRead = false; {FAILS_TWICE}")
            await until(evaluate, f"{STATUS} === 'live' && isRead && left < 0", True)
            await until(evaluate, f"{SHOWN}.filter(id => /^(stays|unseen|gone)/.test(id))", ["stays", "unseen"])
            while await asyncio.to_thread(streams_of, address) != 1.0:
                await asyncio.sleep(0.05)
        for name in ("stays", "unseen"):
            await asyncio.to_thread(httpx.delete, f"{address}{path_of(name)}")

    asyncio.run(asyncio.wait_for(main(), 60.0))


def test_it_says_that_there_are_more_sessions_than_it_shows(address: str, server_program: Callable[[str], str]) -> None:
    body = {"stream": "w", "modality": "imu", "event_time_s": 1.0, "frames": [[1.0, 2.0]], "wait": "none"}

    def post(client: httpx.Client, *numbers: int) -> None:
        for number in numbers:
            client.post(f"{address}{path_of(f'{number}', '/segments')}", json=body).raise_for_status()

    async def main(client: httpx.Client) -> None:
        await asyncio.to_thread(post, client, *range(200))
        async with browser(server_program("chromium"), address) as evaluate:
            await until(evaluate, COUNT, "200")
            await asyncio.to_thread(post, client, 200)
            await until(evaluate, COUNT, "200+")

    with httpx.Client() as client:
        asyncio.run(asyncio.wait_for(main(client), 60.0))
