"""What endpoints read of a request is read where they run."""

from __future__ import annotations

from typing import NoReturn

import anyio.to_thread
import httpx
import pytest
from fastapi import FastAPI

from tests.runtime.gateway.asgi import EventReader
from tests.runtime.gateway.posting import path_of, posted

pytestmark = pytest.mark.anyio


async def test_no_request_goes_through_other_threads(
    app: FastAPI, http: httpx.AsyncClient, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastAPI calls what is not `async` in a thread: four of them had been nearly half of a post."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a thread for what waits for nothing")

    monkeypatch.setattr(anyio.to_thread, "run_sync", refuse)
    await posted(http, session)
    for path in (path_of(session), path_of(session, "/history"), "/v1/sessions", "/v1/model", "/v1/route", "/ready"):
        assert (await http.get(path)).is_success, path
    async with EventReader(app, path_of(session, "/events")) as events:
        assert (await events.next()).data["session"] == session
    assert (await http.delete(path_of(session))).is_success
