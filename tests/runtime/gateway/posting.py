"""How the tests post segments."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx

IMU = [[0.5, -0.25], [0.125, 1.0]]
AUDIO = [[0.1, 0.2, 0.3]]


def path_of(session: str, rest: str = "") -> str:
    return f"/v1/sessions/{quote(session, safe='')}{rest}"


async def post(http: httpx.AsyncClient, session: str, **fields: Any) -> httpx.Response:
    body = {"stream": "wrist", "modality": "imu", "event_time_s": 1.0, "frames": IMU} | fields
    return await http.post(path_of(session, "/segments"), json=body)


async def posted(http: httpx.AsyncClient, session: str, **fields: Any) -> dict[str, Any]:
    """Post, and it must have been taken."""
    answer = await post(http, session, **fields)
    assert answer.is_success, answer.text
    content: dict[str, Any] = answer.json()
    return content


async def refused(http: httpx.AsyncClient, session: str, **fields: Any) -> tuple[int, str]:
    """Post, and it must have been refused: status and code."""
    return error_of(await post(http, session, **fields))


def error_of(answer: httpx.Response) -> tuple[int, str]:
    assert not answer.is_success, answer.text
    content = answer.json()
    assert list(content) == ["error"]
    assert list(content["error"]) == ["code", "message"]
    assert content["error"]["message"]
    return answer.status_code, content["error"]["code"]
