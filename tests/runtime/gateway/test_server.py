"""The gateway behind a real HTTP server, with the runtime's own clients finding their worker through it."""

from __future__ import annotations

import contextlib
import json

import httpx
import numpy as np

from runtime.client import Publisher, StateClient
from tests.runtime.gateway.posting import path_of


def test_a_session_is_published_followed_and_read_over_http(address: str) -> None:
    session = "ward 3/bed 12"
    with httpx.Client(base_url=address, timeout=10) as http, contextlib.ExitStack() as stack:
        answer = stack.enter_context(http.stream("GET", path_of(session, "/events")))
        lines = answer.iter_lines()
        with Publisher(address) as publisher, StateClient(address) as reader:
            for number in range(5):
                publisher.publish(session, "wrist", "imu", np.ones((2, 2)), number / 100)
            publisher.flush(10)
            assert reader.state(session)["settled"]["version"] == 5
        while True:
            line = next(lines)
            if line.startswith("data: ") and json.loads(line[6:])["version"] == 5:
                break
        assert http.get(path_of(session)).json()["session"] == session
        assert http.get("/v1/sessions/ward%203/bed%2012").status_code == 404
