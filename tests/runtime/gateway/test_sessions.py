"""GET and DELETE of sessions, against a real worker."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import httpx
import pytest

from runtime.gateway.models import DeletedAnswer, HistoryAnswer, SessionsAnswer, StateAnswer
from tests.runtime.gateway.posting import AUDIO, error_of, path_of, post, posted

pytestmark = pytest.mark.anyio

ODD_IDS = ["a/b", "x/history", "x/events", "/", "//", "%", "%2F", "a%2Fb", "a b", "a+b", "?q=1#f", "🙂", "ü", "..a"]


async def test_no_cache_keeps_an_answer(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session)
    for path in (path_of(session), "/v1/sessions", "/v1/model", path_of("nobody"), "/v1/nothing"):
        assert (await http.get(path)).headers["cache-control"] == "no-store", path


async def test_state_shows_live_and_settled_as_the_model_says(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session, event_time_s=1.0)
    await posted(http, session, stream="mic", modality="audio", frames=AUDIO, event_time_s=1.5, wait="durable")
    last = await posted(http, session, event_time_s=2.0)

    state = StateAnswer.model_validate((await http.get(path_of(session))).json())

    assert (state.session, state.tenant, state.model) == (session, "default", "toy")
    assert state.version == last["version"] == 3
    assert state.live is not None
    assert state.settled is not None
    assert (state.settled.version, state.durable_version) == (2, 2)
    assert sum(state.live.shares.values()) == pytest.approx(1)
    assert state.modalities.keys() == {"audio", "imu"}
    assert state.modalities["audio"].behind_s == pytest.approx(0.5)
    assert state.live.context is None


async def test_the_raw_context_comes_on_request(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session)
    state = StateAnswer.model_validate((await http.get(path_of(session), params={"context": "true"})).json())
    assert state.live is not None
    assert state.live.context is not None
    assert [len(row) for row in state.live.context] == [4]


async def test_a_session_before_its_first_settling_is_valid_json(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session)
    state = StateAnswer.model_validate((await http.get(path_of(session))).json())
    assert state.settled is None or state.settled.version == 1
    text = (await http.get(path_of(session))).text
    assert "NaN" not in text
    assert "Infinity" not in text


async def test_read_your_writes_waits_for_the_version(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session)
    waiting = asyncio.create_task(http.get(path_of(session), params={"after": 2, "wait_ms": 10_000}))
    await http.get(path_of(session))  # answered behind the one that waits
    assert not waiting.done()
    await posted(http, session, event_time_s=1.1)
    state = (await waiting).json()
    assert (state["version"], state["timed_out"]) == (2, False)


async def test_a_version_that_does_not_come_is_said_to_have_timed_out(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session)
    state = (await http.get(path_of(session), params={"after": 5, "wait_ms": 30})).json()
    assert (state["version"], state["timed_out"]) == (1, True)


async def test_no_session_is_not_found(http: httpx.AsyncClient) -> None:
    assert error_of(await http.get(path_of("nobody"))) == (404, "not_found")


@pytest.mark.parametrize("session", ODD_IDS)
async def test_any_id_is_one_path_segment(http: httpx.AsyncClient, session: str) -> None:
    first = await posted(http, session, stream="one")
    assert first["session"] == session
    assert (await http.get(path_of(session))).json()["session"] == session
    assert (await http.get(path_of(session, "/history"))).json()["session"] == session
    assert session in (await http.get("/v1/sessions", params={"limit": 1000})).json()["sessions"]
    assert (await http.delete(path_of(session))).json() == {"session": session, "existed": True}
    assert error_of(await http.get(path_of(session))) == (404, "not_found")


async def test_an_id_that_is_not_encoded_is_another_path(http: httpx.AsyncClient) -> None:
    await posted(http, "x/history")
    assert (await http.get("/v1/sessions/x/history")).json() == {"session": "x", "rows": []}
    assert error_of(await http.get("/v1/sessions/x/y/z")) == (404, "not_found")


@pytest.mark.parametrize("encoded", ["%FF", quote("x" * 201), "%00", "a%0Ab"])
async def test_an_id_that_no_session_can_have_is_refused(http: httpx.AsyncClient, encoded: str) -> None:
    for rest in ("", "/history", "/events"):
        assert error_of(await http.get(f"/v1/sessions/{encoded}{rest}")) == (422, "bad_id")
    assert error_of(await http.delete(f"/v1/sessions/{encoded}")) == (422, "bad_id")
    body = {"stream": "s", "modality": "imu", "event_time_s": 0, "frames": [[1, 2]]}
    assert error_of(await http.post(f"/v1/sessions/{encoded}/segments", json=body)) == (422, "bad_id")


@pytest.mark.parametrize("after", [-1, 2**63, 10**30])
async def test_a_version_that_cannot_be_is_refused_with_the_reason(http: httpx.AsyncClient, after: int) -> None:
    answer = await http.get(path_of("nobody"), params={"after": after})
    assert error_of(answer) == (422, "malformed")
    assert "query.after" in answer.json()["error"]["message"]


async def test_sessions_are_listed_in_pages(http: httpx.AsyncClient) -> None:
    tenant = {"X-GRF-Tenant": "pages"}
    for number in range(5):
        answer = await http.post(
            path_of(f"p{number}", "/segments"),
            json={"stream": "s", "modality": "imu", "event_time_s": 0, "frames": [[1, 2]]},
            headers=tenant,
        )
        assert answer.status_code == 200

    seen, after = [], ""
    while True:
        answer = await http.get("/v1/sessions", params={"after": after, "limit": 2}, headers=tenant)
        page = SessionsAnswer.model_validate(answer.json())
        seen.append(page.sessions)
        if page.next is None:
            break
        after = page.next
    assert seen == [["p0", "p1"], ["p2", "p3"], ["p4"]]


async def test_history_is_cut_by_event_time_and_limit(http: httpx.AsyncClient, session: str) -> None:
    for second in range(5):
        last = await posted(http, session, event_time_s=float(second), wait="durable" if second == 4 else "fused")
    assert last["durable"]

    async def versions(**params: float) -> list[int]:
        answer = await http.get(path_of(session, "/history"), params=params)
        return [row.version for row in HistoryAnswer.model_validate(answer.json()).rows]

    assert await versions() == [1, 2, 3, 4, 5]
    assert await versions(**{"from": 1.0, "to": 3.0}) == [2, 3, 4]
    assert await versions(limit=2) == [4, 5]
    assert error_of(await http.get(path_of(session, "/history"), params={"from": "nan"})) == (422, "malformed")


async def test_a_deleted_session_is_gone_and_deleting_again_is_no_error(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session)
    answers = [DeletedAnswer.model_validate((await http.delete(path_of(session))).json()) for _ in range(2)]
    assert [answer.existed for answer in answers] == [True, False]
    again = await posted(http, session)
    assert (again["sequence"], again["version"], again["duplicate"]) == (1, 1, False)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1001"])
async def test_a_bad_query_is_named(http: httpx.AsyncClient, query: str) -> None:
    answer = await http.get(f"/v1/sessions?{query}")
    assert error_of(answer) == (422, "malformed")
    assert "query.limit" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "rest", "told"),
    [
        ("GET", "?wait=1", "unknown query parameter 'wait': there are after, wait_ms, context"),
        ("GET", "/history?from=1&from_s=100", "unknown query parameter 'from_s': there are from, to, limit"),
        ("POST", "/segments?wait=durable", "unknown query parameter 'wait': there are none here"),
        ("DELETE", "?force=true", "unknown query parameter 'force': there are none here"),
    ],
)
async def test_a_parameter_that_does_not_exist_is_refused(
    http: httpx.AsyncClient, session: str, method: str, rest: str, told: str
) -> None:
    body = {"stream": "s", "modality": "imu", "event_time_s": 0, "frames": [[1, 2]]}
    answer = await http.request(method, path_of(session, rest), json=body if method == "POST" else None)
    assert error_of(answer) == (422, "malformed")
    assert answer.json()["error"]["message"] == told


async def test_probes_and_pages_may_be_asked_with_any_parameter(http: httpx.AsyncClient) -> None:
    for path in ("/health", "/ready", "/metrics", "/sd/prometheus", "/", "/docs"):
        assert (await http.get(path, params={"added": "by a proxy"})).status_code == 200


async def test_waiting_too_long_is_refused(http: httpx.AsyncClient, session: str) -> None:
    assert error_of(await http.get(path_of(session), params={"wait_ms": 60_001})) == (422, "malformed")
    assert error_of(await post(http, session, wait_ms=60_001)) == (422, "malformed")
