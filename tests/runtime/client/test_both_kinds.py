"""The clients for threads and those for asyncio can do the same, in the same words."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.client import (
    AsyncPublisher,
    AsyncStateClient,
    ClientClosed,
    Publisher,
    PublisherEvent,
    Refused,
    RequestTimeout,
    StateClient,
)
from runtime.engine.policies import EnginePolicy, OrderPolicy
from tests.runtime.worker_harness import LIMIT_S, RunningWorker

ENGINE = EnginePolicy(OrderPolicy(idle_timeout_s=0.02))
FRAMES = np.ones((2, 3), np.float32)
TOO_WIDE = np.ones((2, 7), np.float32)
STREAM = ("s", "mic", "audio")
AFTER_FORGETTING = 9
"""the number of a segment that would be a gap, were the stream not forgotten before it"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[RunningWorker]:
    with RunningWorker(tmp_path, engine=ENGINE, tokens={"secret": "acme"}) as running:
        yield running


@dataclass
class Seen:
    """What a program has seen of its session."""

    versions: list[int] = field(default_factory=list)
    """of the updates, until none came for a while"""
    tapped: list[int] = field(default_factory=list)
    """sequence numbers of what was accepted"""
    state: dict[str, Any] = field(default_factory=dict)
    sessions: tuple[list[str], bool] = ([], True)
    history: list[dict[str, Any]] = field(default_factory=list)
    model: str = ""
    tenant: str = ""
    deleted: tuple[bool, bool] = (False, True)
    left: list[dict[str, Any]] = field(default_factory=list)
    """of its history, once it was deleted"""


def with_threads(endpoint: str) -> Seen:
    seen = Seen()
    acme: Any = {"tenant": "acme", "token": "secret"}
    with Publisher(endpoint, **acme) as publisher, StateClient(endpoint, **acme) as reader:
        publisher.check(LIMIT_S)
        reader.check(LIMIT_S)
        taps, updates = reader.tap(timeout_s=LIMIT_S), reader.subscribe("s", timeout_s=0.5)
        assert reader.sessions() == ([], False), "and the worker has heard of the tap before it answers"
        receipts = [publisher.publish(*STREAM, FRAMES, float(number), sequence=number) for number in (1, 2)]
        publisher.wait_until(lambda: all(receipt.is_durable for receipt in receipts), LIMIT_S)
        publisher.forget("s", "mic")
        receipt = publisher.publish(*STREAM, FRAMES, 9.0, sequence=AFTER_FORGETTING, timeout_s=LIMIT_S)
        publisher.wait(receipt, timeout_s=LIMIT_S)
        publisher.end("s", "mic")
        publisher.flush(LIMIT_S)
        assert publisher.is_connected
        assert publisher.unfinished == 0
        while len(seen.tapped) < 3 and (batch := next(taps)):
            seen.tapped += [tapped.sequence for tapped in batch]
        seen.versions = [update.state["version"] for update in updates]
        seen.state = reader.state("s", after_version=3, wait_s=1.0)
        seen.sessions = reader.sessions()
        seen.history = reader.history("s", from_s=2.0)
        seen.model, seen.tenant = reader.signature()["name"], reader.tenant()
        seen.deleted = reader.delete("s"), reader.delete("s")
        seen.left = reader.history("s")
    return seen


async def with_asyncio(endpoint: str) -> Seen:
    seen = Seen()
    acme: Any = {"tenant": "acme", "token": "secret"}
    async with AsyncPublisher(endpoint, **acme) as publisher, AsyncStateClient(endpoint, **acme) as reader:
        await publisher.check(LIMIT_S)
        await reader.check(LIMIT_S)
        taps, updates = reader.tap(timeout_s=LIMIT_S), reader.subscribe("s", timeout_s=0.5)
        assert await reader.sessions() == ([], False), "and the worker has heard of the tap before it answers"
        receipts = [await publisher.publish(*STREAM, FRAMES, float(number), sequence=number) for number in (1, 2)]
        await publisher.wait_until(lambda: all(receipt.is_durable for receipt in receipts), LIMIT_S)
        publisher.forget("s", "mic")
        receipt = await publisher.publish(*STREAM, FRAMES, 9.0, sequence=AFTER_FORGETTING, timeout_s=LIMIT_S)
        await publisher.wait(receipt, timeout_s=LIMIT_S)
        publisher.end("s", "mic")
        await publisher.flush(LIMIT_S)
        assert publisher.is_connected
        assert publisher.unfinished == 0
        while len(seen.tapped) < 3 and (batch := await anext(taps)):
            seen.tapped += [tapped.sequence for tapped in batch]
        seen.versions = [update.state["version"] async for update in updates]
        seen.state = await reader.state("s", after_version=3, wait_s=1.0)
        seen.sessions = await reader.sessions()
        seen.history = await reader.history("s", from_s=2.0)
        seen.model, seen.tenant = reader.signature()["name"], reader.tenant()
        seen.deleted = await reader.delete("s"), await reader.delete("s")
        seen.left = await reader.history("s")
    return seen


def in_a_loop(endpoint: str) -> Seen:
    return asyncio.run(asyncio.wait_for(with_asyncio(endpoint), 4 * LIMIT_S))


@pytest.mark.parametrize("program", [with_threads, in_a_loop])
def test_a_program_can_do_the_same_with_either(worker: RunningWorker, program: Callable[[str], Seen]) -> None:
    seen = program(worker.endpoint)
    assert seen.tapped == [1, 2, AFTER_FORGETTING]
    assert seen.versions[-1:] == [3], "all since the subscription, and an end once there are no more"
    assert (seen.state["version"], seen.state["timed_out"]) == (3, False)
    assert seen.sessions == (["s"], False)
    assert [row["version"] for row in seen.history] == [2, 3]
    assert (seen.model, seen.tenant) == ("toy", "acme")
    assert seen.deleted == (True, False)
    assert seen.left == []


async def checked_in_a_loop(kind: type[AsyncPublisher] | type[AsyncStateClient], endpoint: str, token: str) -> None:
    async with kind(endpoint, tenant="acme", token=token) as client:
        await client.check(0.3)


@pytest.mark.parametrize("kind", [Publisher, StateClient, AsyncPublisher, AsyncStateClient])
def test_each_says_whether_a_worker_welcomes_it(worker: RunningWorker, kind: Any) -> None:
    def check(endpoint: str, token: str) -> None:
        if kind in (AsyncPublisher, AsyncStateClient):
            asyncio.run(checked_in_a_loop(kind, endpoint, token))
            return
        with kind(endpoint, tenant="acme", token=token) as client:
            client.check(0.3)

    with pytest.raises(Refused, match="token"):
        check(worker.endpoint, "guess")
    with pytest.raises(RequestTimeout, match=r"no answer within 0\.3 s: no worker answers at tcp://127\.0\.0\.1:9"):
        check("tcp://127.0.0.1:9", "secret")
    with pytest.raises(RequestTimeout, match=r"http://127\.0\.0\.1:9 names no worker: .*refused"):
        check("http://127.0.0.1:9", "secret")


@pytest.mark.parametrize(("threaded", "looped"), [(Publisher, AsyncPublisher), (StateClient, AsyncStateClient)])
def test_what_one_can_do_the_other_can(threaded: type[Any], looped: type[Any]) -> None:
    names = {name for name in dir(threaded) if not name.startswith("_")}
    assert {name for name in dir(looped) if not name.startswith("_")} == names | {"open"}
    for name in ["__init__", *sorted(names)]:
        one, other = getattr(threaded, name), getattr(looped, name)
        if not isinstance(one, property):
            assert inspect.signature(one).parameters == inspect.signature(other).parameters, name


def test_a_deleted_session_is_not_there_again_because_its_publisher_reconnects(worker: RunningWorker) -> None:
    acme: Any = {"tenant": "acme", "token": "secret"}
    with Publisher(worker.endpoint, **acme) as publisher, StateClient(worker.endpoint, **acme) as reader:
        publisher.wait(publisher.publish(*STREAM, FRAMES, 1.0), timeout_s=LIMIT_S)
        assert reader.delete("s")
        worker.crash()
        worker.start()
        # Its streams are asked for before any segment is sent.
        publisher.wait(publisher.publish("other", "mic", "audio", FRAMES, 1.0), timeout_s=LIMIT_S)
        assert reader.sessions() == (["other"], False)
        receipt = publisher.wait(publisher.publish(*STREAM, FRAMES, 2.0), timeout_s=LIMIT_S)
        assert (receipt.version, reader.sessions()) == (1, (["other", "s"], False))


def use_when_closed(endpoint: str) -> tuple[bool, int]:
    with Publisher(endpoint, tenant="acme", token="secret") as publisher:
        publisher.check(LIMIT_S)
    with pytest.raises(ClientClosed, match="was closed"):
        publisher.check(LIMIT_S)
    with pytest.raises(ClientClosed, match="was closed"):
        publisher.publish(*STREAM, FRAMES, 1.0)
    publisher.close()
    return publisher.is_connected, publisher.stats.published


async def use_when_closed_in_a_loop(endpoint: str) -> tuple[bool, int]:
    publisher = AsyncPublisher(endpoint, tenant="acme", token="secret")
    with pytest.raises(ClientClosed, match="is not open"):
        await publisher.publish(*STREAM, FRAMES, 1.0)
    publisher.open()
    async with publisher:
        await publisher.check(LIMIT_S)
    with pytest.raises(ClientClosed, match="was closed"):
        await publisher.check(LIMIT_S)
    with pytest.raises(ClientClosed, match="was closed"):
        await publisher.publish(*STREAM, FRAMES, 1.0)
    await publisher.close()
    with pytest.raises(ClientClosed, match="was closed"):
        publisher.open()
    return publisher.is_connected, publisher.stats.published


def test_a_closed_client_is_not_connected_and_takes_nothing(worker: RunningWorker) -> None:
    assert use_when_closed(worker.endpoint) == (False, 0)
    assert asyncio.run(use_when_closed_in_a_loop(worker.endpoint)) == (False, 0)


def publish_with_numpy(endpoint: str) -> int:
    with Publisher(endpoint, tenant="acme", token="secret") as publisher:
        publisher.publish(*STREAM, FRAMES, np.float32(1.5), sequence=np.int64(1))
        publisher.publish(*STREAM, FRAMES, np.int64(2), sequence=np.uint8(2))
        publisher.flush(LIMIT_S)
        with pytest.raises(TypeError, match="event time None is no number of seconds"):
            publisher.publish(*STREAM, FRAMES, None)  # type: ignore[arg-type]  # as who checks no types may
        return publisher.stats.durable


async def publish_with_numpy_in_a_loop(endpoint: str) -> int:
    async with AsyncPublisher(endpoint, tenant="acme", token="secret") as publisher:
        await publisher.publish(*STREAM, FRAMES, np.float32(1.5), sequence=np.int64(1))
        await publisher.publish(*STREAM, FRAMES, np.int64(2), sequence=np.uint8(2))
        await publisher.flush(LIMIT_S)
        with pytest.raises(TypeError, match="event time None is no number of seconds"):
            await publisher.publish(*STREAM, FRAMES, None)  # type: ignore[arg-type]  # as who checks no types may
        return publisher.stats.durable


def test_times_and_numbers_may_be_those_of_numpy(worker: RunningWorker) -> None:
    assert publish_with_numpy(worker.endpoint) == 2
    worker.crash()
    worker.path.unlink()
    worker.start()
    assert asyncio.run(publish_with_numpy_in_a_loop(worker.endpoint)) == 2


@pytest.mark.parametrize("no_number", [np.timedelta64(5, "ns"), np.datetime64(5, "ns"), np.str_("7"), np.complex64(1)])
def test_what_numpy_would_make_a_number_of_is_no_time(worker: RunningWorker, no_number: Any) -> None:
    with Publisher(worker.endpoint, tenant="acme", token="secret") as publisher:
        with pytest.raises(TypeError, match="is no number of seconds"):
            publisher.publish(*STREAM, FRAMES, no_number)
        assert publisher.stats.published == 0


def broken_listener(event: PublisherEvent) -> None:
    raise ZeroDivisionError("a defect of the program")


def publish_to_a_broken_listener(endpoint: str) -> int:
    acme: Any = {"tenant": "acme", "token": "secret"}
    with Publisher(endpoint, **acme, on_event=broken_listener) as publisher:
        publisher.publish(*STREAM, TOO_WIDE, 1.0)
        publisher.publish(*STREAM, FRAMES, 2.0)
        publisher.flush(LIMIT_S)
        return publisher.stats.durable


async def publish_to_a_broken_listener_in_a_loop(endpoint: str) -> int:
    acme: Any = {"tenant": "acme", "token": "secret"}
    async with AsyncPublisher(endpoint, **acme, on_event=broken_listener) as publisher:
        await publisher.publish(*STREAM, TOO_WIDE, 3.0)
        await publisher.publish(*STREAM, FRAMES, 4.0)
        await publisher.flush(LIMIT_S)
        return publisher.stats.durable


def test_a_listener_that_raises_does_not_end_its_publisher(
    worker: RunningWorker, caplog: pytest.LogCaptureFixture
) -> None:
    assert publish_to_a_broken_listener(worker.endpoint) == 1
    assert asyncio.run(publish_to_a_broken_listener_in_a_loop(worker.endpoint)) == 1
    told = [record for record in caplog.records if "on_event failed" in record.getMessage()]
    assert len(told) == 2
    assert all(record.exc_info is not None and record.exc_info[0] is ZeroDivisionError for record in told)


def test_a_listener_that_waits_for_its_own_publisher_is_told(worker: RunningWorker) -> None:
    told: list[BaseException] = []

    def waiting(event: PublisherEvent) -> None:
        try:
            publisher.wait(publisher.publish("s", "other", "audio", FRAMES, 1.0))
        except RuntimeError as error:
            told.append(error)

    with Publisher(worker.endpoint, tenant="acme", token="secret", on_event=waiting) as publisher:
        publisher.publish(*STREAM, TOO_WIDE, 1.0)
        publisher.wait_until(lambda: bool(told), LIMIT_S)
        publisher.flush(LIMIT_S)
        assert publisher.stats.durable == 1, "what it published all the same"


def test_a_refusal_that_nobody_listens_to_is_logged_once_a_stream(
    worker: RunningWorker, caplog: pytest.LogCaptureFixture
) -> None:
    with Publisher(worker.endpoint, tenant="acme", token="secret") as publisher:
        for number in range(4):
            publisher.publish("s", "mic", "audio", TOO_WIDE, float(number))
            publisher.publish("s", "other", "audio", TOO_WIDE, float(number))
        publisher.flush(LIMIT_S)
        assert publisher.stats.refused == 8
    texts = sorted(record.getMessage() for record in caplog.records)
    assert len(texts) == 2
    assert all("bad_segment" in text and stream in text for text, stream in zip(texts, ("mic", "other"), strict=True))
