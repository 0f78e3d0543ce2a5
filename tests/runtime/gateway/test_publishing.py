"""POST of segments, against a real worker."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import math
import time
from typing import Any

import httpx
import pytest

from runtime.gateway.app import create_app
from runtime.gateway.backend import WorkerBackend
from runtime.gateway.json_answer import to_json
from runtime.gateway.models import PublishedAnswer
from runtime.gateway.policy import GatewayPolicy
from runtime.gateway.route_table import FixedRoutes
from tests.runtime.gateway.asgi import in_process
from tests.runtime.gateway.posting import IMU, error_of, path_of, post, posted, refused
from tests.runtime.toy_model import POISON
from tests.runtime.worker_harness import RunningWorker

pytestmark = pytest.mark.anyio


async def test_a_posted_segment_is_fused_and_its_version_can_be_read(http: httpx.AsyncClient, session: str) -> None:
    answer = PublishedAnswer.model_validate(await posted(http, session))
    assert answer == PublishedAnswer(
        session=session, stream="wrist", sequence=1, version=1, fused=True, durable=False, duplicate=False, notice=None
    )
    state = (await http.get(path_of(session), params={"after": answer.version})).json()
    assert state["version"] == 1


async def test_waiting_for_durable_outlives_a_crash(
    worker: RunningWorker, http: httpx.AsyncClient, session: str
) -> None:
    answer = await posted(http, session, wait="durable")
    assert answer["durable"]
    worker.crash()
    worker.start()
    assert (await http.get(path_of(session))).json()["settled"]["version"] == 1


async def test_not_waiting_answers_at_once(http: httpx.AsyncClient, session: str) -> None:
    answer = await post(http, session, wait="none")
    assert answer.status_code == 202
    assert PublishedAnswer.model_validate(answer.json()).fused is False
    state = (await http.get(path_of(session), params={"after": 1, "wait_ms": 5000})).json()
    assert state["version"] == 1


async def test_posting_a_number_again_is_free(http: httpx.AsyncClient, session: str) -> None:
    first = await posted(http, session, sequence=1)
    again = await posted(http, session, sequence=1)
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert (await posted(http, session, sequence=2, event_time_s=1.1, wait="durable"))["version"] == 2
    durable = await posted(http, session, sequence=1, wait="durable")
    assert (durable["duplicate"], durable["durable"]) == (True, True)
    assert (await http.get(path_of(session))).json()["version"] == 2


async def test_posting_a_number_twice_at_once_fuses_it_once(http: httpx.AsyncClient, session: str) -> None:
    answers = await asyncio.gather(*(posted(http, session, sequence=1) for _ in range(5)))
    assert [answer["version"] for answer in answers] == [1] * 5
    assert (await http.get(path_of(session))).json()["version"] == 1


async def test_numbers_may_be_posted_at_once(http: httpx.AsyncClient, session: str) -> None:
    posts = (posted(http, session, sequence=number, event_time_s=number * 0.01) for number in range(1, 40))
    await asyncio.gather(*posts)
    assert (await http.get(path_of(session))).json()["version"] == 39


async def test_a_gap_is_refused_and_says_what_comes_next(http: httpx.AsyncClient, session: str) -> None:
    answer = await post(http, session, sequence=3)
    assert error_of(answer) == (409, "sequence_gap")
    assert "the next one is 1" in answer.json()["error"]["message"]
    await posted(http, session, sequence=3, oldest=3)
    assert await refused(http, session, sequence=1, oldest=2) == (422, "malformed")


async def test_a_gateway_that_starts_again_knows_what_was_posted(
    worker: RunningWorker, http: httpx.AsyncClient, session: str
) -> None:
    await posted(http, session, sequence=1)
    async with in_process(create_app(WorkerBackend(FixedRoutes(worker.endpoint)))) as other:
        assert (await posted(other, session, sequence=1))["duplicate"]
        assert (await posted(other, session, sequence=2, event_time_s=1.1))["version"] == 2
        assert (await posted(other, session, event_time_s=1.2))["sequence"] == 3
    assert (await posted(http, session, sequence=4, event_time_s=1.3))["version"] == 4


async def test_a_worker_that_starts_again_gets_what_was_not_durable(
    worker: RunningWorker, backend: WorkerBackend, http: httpx.AsyncClient, session: str
) -> None:
    def held_bytes() -> int:
        return sum(clients.held_bytes for clients in backend._callers.values())

    for number in range(1, 6):
        await posted(http, session, sequence=number, event_time_s=number * 0.01)
    worker.crash()
    before = held_bytes()
    late = asyncio.create_task(posted(http, session, sequence=6, event_time_s=0.06, wait="durable"))
    with contextlib.suppress(TimeoutError):  # a gateway that has noticed holds nothing before there is a worker
        async with asyncio.timeout(0.5):
            while held_bytes() == before:
                await asyncio.sleep(0)
    worker.start()
    assert (await late)["durable"]
    state = (await http.get(path_of(session))).json()
    assert (state["settled"]["version"], state["pending"]) == (6, 0)


async def test_without_a_worker_an_unsent_segment_is_taken_back(http: httpx.AsyncClient, session: str) -> None:
    async with in_process(
        create_app(WorkerBackend(FixedRoutes("tcp://127.0.0.1:9"), GatewayPolicy(answer_timeout_s=0.2)))
    ) as lost:
        started_s = time.monotonic()
        answer = await post(lost, session)
        assert error_of(answer) == (503, "timeout")
        assert answer.headers["retry-after"] == "1"
        assert time.monotonic() - started_s < 2
        assert error_of(await lost.get(path_of(session))) == (503, "timeout")


async def test_what_is_not_fused_in_time_says_how_to_go_on(
    worker: RunningWorker, http: httpx.AsyncClient, session: str
) -> None:
    await posted(http, session, sequence=1)
    worker.crash()
    try:
        answer = await post(http, session, sequence=2, event_time_s=1.1, wait_ms=100)
    finally:
        worker.start()
    assert error_of(answer) == (503, "timeout")
    assert "post it again" in answer.json()["error"]["message"]
    assert (await posted(http, session, sequence=2, event_time_s=1.1))["version"] == 2


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"modality": "smell"}, (422, "unknown_modality")),
        ({"frames": [[1.0]]}, (422, "bad_segment")),
        ({"frames": [[1.0, 2.0]] * 9}, (422, "bad_segment")),
        ({"frames": []}, (422, "bad_segment")),
        ({"frames": [[]]}, (422, "malformed")),
        ({"frames": [[1.0, 2.0], [3.0]]}, (422, "bad_segment")),
        ({"frames": [[1e39, 0.0]]}, (422, "bad_segment")),
        ({"frames": [[POISON, 0.0]]}, (422, "step_failed")),
        ({"frames": [[-POISON, 0.0]]}, (422, "step_failed")),
        ({"frames": [["x", 0.0]]}, (422, "malformed")),
        ({"frames": 7}, (422, "malformed")),
        ({"event_time_s": time.time() + 1e6}, (422, "far_future")),
        ({"event_time_s": 1e15}, (422, "malformed")),
        ({"event_time_s": None}, (422, "malformed")),
        ({"stream": ""}, (422, "bad_id")),
        ({"stream": "x" * 201}, (422, "bad_id")),
        ({"stream": "a\nb"}, (422, "bad_id")),
        ({"modality": "x" * 1_100_000}, (422, "bad_id")),
        ({"sequence": 0}, (422, "malformed")),
        ({"sequence": 2**63}, (422, "malformed")),
        ({"wait": "forever"}, (422, "malformed")),
        ({"surprise": 1}, (422, "malformed")),
    ],
)
async def test_a_segment_that_cannot_be_is_refused_with_the_reason(
    http: httpx.AsyncClient, session: str, fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert await refused(http, session, **fields) == expected
    assert (await posted(http, session, stream="another"))["fused"]


@pytest.mark.parametrize("field", ["stream", "modality"])
async def test_text_that_is_no_unicode_costs_its_sender_an_answer_and_nobody_what_is_held(
    http: httpx.AsyncClient, session: str, field: str
) -> None:
    held = await posted(http, session, sequence=1)
    body = {"stream": "s", "modality": "imu", "event_time_s": 0, "frames": [[1, 2]], field: "\ud800"}
    path, json_type = path_of(session, "/segments"), {"Content-Type": "application/json"}
    assert error_of(await http.post(path, content=json.dumps(body), headers=json_type)) == (422, "bad_id")
    again = await posted(http, session, sequence=1)
    assert (again["version"], again["duplicate"]) == (held["version"], True)


@pytest.mark.parametrize(
    "fields",
    [
        {"frames": [[1, "2"]]},
        {"frames": [[1, True]]},
        {"event_time_s": "1.0"},
        {"sequence": True},
        {"sequence": "1"},
        {"oldest": True},
        {"wait_ms": "1000"},
    ],
)
async def test_text_and_true_are_no_numbers(http: httpx.AsyncClient, session: str, fields: dict[str, Any]) -> None:
    assert await refused(http, session, **fields) == (422, "malformed")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_are_not_finite_are_refused(http: httpx.AsyncClient, session: str, number: str) -> None:
    def body(event_time: str, value: str) -> str:
        return f'{{"stream": "s", "modality": "imu", "event_time_s": {event_time}, "frames": [[{value}, 0]]}}'

    path, json_type = path_of(session, "/segments"), {"Content-Type": "application/json"}
    assert error_of(await http.post(path, content=body("0", number), headers=json_type)) == (422, "bad_segment")
    assert error_of(await http.post(path, content=body(number, "0"), headers=json_type)) == (422, "malformed")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"stream": "\\ud800"}'])
async def test_a_body_that_is_no_segment_is_refused(http: httpx.AsyncClient, session: str, content: bytes) -> None:
    answer = await http.post(
        path_of(session, "/segments"), content=content, headers={"Content-Type": "application/json"}
    )
    assert error_of(answer) == (422, "malformed")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/msgpack"])
async def test_a_body_that_is_not_sent_as_json_is_not_parsed(
    http: httpx.AsyncClient, session: str, content_type: str
) -> None:
    body = b'{"stream": "s", "modality": "imu", "event_time_s": 0, "frames": [[1, 2]]}'
    answer = await http.post(path_of(session, "/segments"), content=body, headers={"Content-Type": content_type})
    assert error_of(answer) == (422, "malformed")
    assert answer.json()["error"]["message"] == "Content-Type must be application/json"


@pytest.mark.parametrize(
    "content",
    [b'{"stream": "\xff"}', b"[" * 100_000, gzip.compress(b"{}")],
    ids=["not UTF-8", "nested too deep", "compressed"],
)
async def test_a_body_that_cannot_be_decoded_is_malformed(
    http: httpx.AsyncClient, session: str, content: bytes
) -> None:
    answer = await http.post(
        path_of(session, "/segments"), content=content, headers={"Content-Type": "application/json"}
    )
    assert error_of(answer) == (422, "malformed")
    assert "cannot be read as JSON" in answer.json()["error"]["message"]


async def test_a_late_segment_is_refused_and_so_is_its_repetition(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session, event_time_s=100.0, wait="durable", sequence=1)
    for _ in range(2):
        assert await refused(http, session, event_time_s=1.0, sequence=2) == (409, "late")
    await posted(http, session, event_time_s=101.0, sequence=3, wait="durable")
    assert await refused(http, session, event_time_s=1.0, sequence=2) == (409, "late")


async def test_a_stream_keeps_its_modality(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session)
    assert await refused(http, session, modality="audio", frames=[[1, 2, 3]]) == (422, "unknown_modality")
    await posted(http, session, event_time_s=1.1)


async def test_a_deleted_session_may_begin_again_with_another_modality(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session, sequence=1)
    await http.delete(path_of(session))
    assert (await posted(http, session, modality="audio", frames=[[1, 2, 3]], sequence=1))["version"] == 1


async def test_who_goes_on_in_a_deleted_session_is_told(http: httpx.AsyncClient, session: str) -> None:
    await posted(http, session, sequence=1, wait="durable")
    await http.delete(path_of(session))
    assert await refused(http, session, sequence=2) == (409, "sequence_gap")


async def test_a_body_over_the_limit_is_refused(worker: RunningWorker, session: str) -> None:
    small = create_app(WorkerBackend(FixedRoutes(worker.endpoint), GatewayPolicy(max_body_bytes=1000)))

    async def in_chunks() -> Any:
        for _ in range(20):
            yield b"[" * 100

    async with in_process(small) as http:
        path = path_of(session, "/segments")
        assert error_of(await http.post(path, content=b"[" * 1001)) == (413, "too_large")
        assert error_of(await http.post(path, content=in_chunks())) == (413, "too_large")
        assert (await posted(http, session))["fused"]


async def test_a_full_buffer_slows_its_posters_down(worker: RunningWorker, session: str) -> None:
    tight = create_app(WorkerBackend(FixedRoutes(worker.endpoint), GatewayPolicy(max_held_bytes=1000)))
    async with in_process(tight) as http:
        await posted(http, session, event_time_s=0.0)
        posts = (post(http, session, event_time_s=0.01 * n, wait="none", wait_ms=0) for n in range(1, 20))
        answers = await asyncio.gather(*posts)
        assert {answer.status_code for answer in answers} == {202, 429}
        slowed = next(answer for answer in answers if answer.status_code == 429)
        assert error_of(slowed) == (429, "slow_down")
        assert slowed.headers["retry-after"] == "1"
        await posted(http, session, event_time_s=10.0, wait="durable")


async def test_segments_of_two_widths_do_not_hurt_each_other(http: httpx.AsyncClient, session: str) -> None:
    wrong = [post(http, session, sequence=number, frames=[[1.0] * 5]) for number in (1, 3, 5)]
    right = [post(http, session, sequence=number, frames=IMU, event_time_s=1 + number / 100) for number in (2, 4, 6)]
    answers = await asyncio.gather(*(call for pair in zip(wrong, right, strict=True) for call in pair))
    assert [answer.status_code for answer in answers] == [422, 200] * 3


def test_numbers_that_are_not_finite_never_reach_json() -> None:
    assert to_json({"a": [math.nan, 1.5, (math.inf,)], "b": None}) == '{"a":[null,1.5,[null]],"b":null}'
