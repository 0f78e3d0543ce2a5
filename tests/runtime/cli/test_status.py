"""What `grf status` says, and its exit codes."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from runtime.cli import grf
from runtime.cli.common import FAILED, NO_RUNTIME, NOT_AS_IT_SHOULD_BE

WORKER = {
    "name": "worker-0",
    "role": "serving",
    "pid": 7,
    "heard_s_ago": 0.1,
    "endpoint": "tcp://127.0.0.1:5570",
    "groups": 1024,
    "sessions": 3,
    "busy": 0.1,
    "pending_bytes": 0,
    "store_error": "",
    "fenced": False,
}
STANDBY = WORKER | {"name": "worker-1", "role": "standby", "groups": 0}
SILENT = {"heard_s_ago": 40.0}
WELL: dict[str, Any] = {
    "lease_s": 2.0,
    "workers": [WORKER, STANDBY],
    "workers_wanted": 1,
    "standbys_wanted": 1,
    "taken_by": [],
    "events": [{"ago_s": 4.4, "kind": "died", "text": "worker-0/x: its process has ended"}],
}


def status(monkeypatch: pytest.MonkeyPatch, answer: httpx.Response, *flags: str) -> Result:
    answer.request = httpx.Request("GET", "http://grf/v1/cluster")
    monkeypatch.setattr(httpx, "get", lambda *_, **__: answer)
    return CliRunner().invoke(grf, ["status", *flags])


@pytest.mark.parametrize("flags", [(), ("--json",)])
@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({}, 0),
        ({"workers_wanted": 1, "standbys_wanted": 0}, 0),
        ({"workers": []}, NOT_AS_IT_SHOULD_BE),
        ({"workers": [STANDBY, STANDBY]}, NOT_AS_IT_SHOULD_BE),
        ({"workers": [WORKER]}, NOT_AS_IT_SHOULD_BE),
        ({"workers": [WORKER | SILENT, STANDBY]}, NOT_AS_IT_SHOULD_BE),
        ({"workers": [WORKER, STANDBY | SILENT]}, NOT_AS_IT_SHOULD_BE),
        ({"workers": [WORKER, STANDBY, STANDBY | SILENT | {"fenced": True}]}, 0),
        ({"workers": [WORKER | {"store_error": "the disk is full"}, STANDBY]}, NOT_AS_IT_SHOULD_BE),
        ({"workers": [WORKER | {"fenced": True}, STANDBY]}, NOT_AS_IT_SHOULD_BE),
        ({"taken_by": ["worker-0/b"]}, NOT_AS_IT_SHOULD_BE),
        ({"store_error": "redis://h:1: Connection refused"}, NOT_AS_IT_SHOULD_BE),
    ],
)
def test_the_exit_code_says_whether_all_is_well(
    changed: dict[str, Any], code: int, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = WELL | changed
    done = status(monkeypatch, httpx.Response(200, json=cluster), *flags)
    assert done.exit_code == code
    if flags:
        assert json.loads(done.stdout) == cluster
    else:
        assert "its process has ended" in done.stdout


def test_a_gateway_that_knows_nothing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    away = {"error": {"code": "unavailable", "message": "the controller does not answer: gone"}}
    done = status(monkeypatch, httpx.Response(503, json=away))
    assert (done.exit_code, done.stderr) == (FAILED, "grf: unavailable: the controller does not answer: gone\n")


@pytest.mark.parametrize("content", ["<html>", '{"error": "nginx"}', "[]"])
def test_another_server_is_no_runtime(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = status(monkeypatch, httpx.Response(502, text=content))
    assert done.exit_code == NO_RUNTIME
    assert "no runtime answers" in done.stderr
