"""A real browser at a page: headless Chromium, spoken to over its DevTools protocol."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import websockets.asyncio.client

Evaluate = Callable[[str], Any]


@asynccontextmanager
async def browser(chromium: str, url: str) -> AsyncIterator[Evaluate]:
    profile = Path(tempfile.mkdtemp())
    process = subprocess.Popen(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            url,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = await devtools_port(profile, process)
        async with httpx.AsyncClient() as client:
            pages = (await client.get(f"http://127.0.0.1:{port}/json/list")).json()
        page = next(page for page in pages if page["type"] == "page")
        async with websockets.asyncio.client.connect(page["webSocketDebuggerUrl"], proxy=None) as devtools:

            async def evaluate(script: str) -> Any:
                parameters = {"expression": script, "awaitPromise": True, "returnByValue": True}
                await devtools.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": parameters}))
                while (answer := json.loads(await devtools.recv())).get("id") != 1:
                    pass
                return answer["result"]["result"].get("value")

            yield evaluate
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(profile, ignore_errors=True)


async def devtools_port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    """Chromium writes it into its profile once it listens."""
    written = profile / "DevToolsActivePort"
    while not (written.exists() and written.read_text().strip()):
        assert process.poll() is None, "Chromium does not start"
        await asyncio.sleep(0.05)
    return int(written.read_text().split()[0])


async def until(evaluate: Evaluate, script: str, expected: Any) -> None:
    """Look until the page says what is expected of it."""
    while (found := await evaluate(script)) != expected:
        await asyncio.sleep(0.05)
    assert found == expected
