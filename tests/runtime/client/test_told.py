"""A program that only publishes, or only follows, is told what it would otherwise wait for in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.client import (
    AsyncPublisher,
    AsyncStateClient,
    Publisher,
    PublisherFull,
    PublisherPolicy,
    Refused,
    StateClient,
)
from tests.runtime.worker_harness import LIMIT_S, RunningWorker

FRAMES = np.ones((2, 3), np.float32)
STREAM = ("s", "mic", "audio")
TINY = PublisherPolicy(max_buffer_bytes=1)
GUESS: Any = {"tenant": "acme", "token": "guess"}
NOBODY = "tcp://127.0.0.1:9"
LEFT = "the publisher is closed while 1 segments are not durable: `flush` first what must not be lost"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[RunningWorker]:
    with RunningWorker(tmp_path, tokens={"secret": "acme"}) as running:
        yield running


def publish_with_a_wrong_token(endpoint: str) -> None:
    with Publisher(endpoint, **GUESS, policy=TINY) as publisher:
        publisher.publish(*STREAM, FRAMES, 1.0)
        publisher.publish(*STREAM, FRAMES, 2.0, timeout_s=LIMIT_S)


async def publish_with_a_wrong_token_in_a_loop(endpoint: str) -> None:
    async with AsyncPublisher(endpoint, **GUESS, policy=TINY) as publisher:
        await publisher.publish(*STREAM, FRAMES, 1.0)
        await publisher.publish(*STREAM, FRAMES, 2.0, timeout_s=LIMIT_S)


def test_a_publisher_that_is_refused_does_not_wait_for_room(worker: RunningWorker) -> None:
    with pytest.raises(Refused, match="token"):
        publish_with_a_wrong_token(worker.endpoint)
    with pytest.raises(Refused, match="token"):
        asyncio.run(publish_with_a_wrong_token_in_a_loop(worker.endpoint))


def follow_with_a_wrong_token(endpoint: str) -> None:
    with StateClient(endpoint, **GUESS) as reader:
        next(iter(reader.subscribe("s", timeout_s=LIMIT_S)))


async def follow_with_a_wrong_token_in_a_loop(endpoint: str) -> None:
    async with AsyncStateClient(endpoint, **GUESS) as reader:
        await anext(reader.subscribe("s", timeout_s=LIMIT_S))


def test_a_subscriber_that_is_refused_is_told(worker: RunningWorker) -> None:
    with pytest.raises(Refused, match="token"):
        follow_with_a_wrong_token(worker.endpoint)
    with pytest.raises(Refused, match="token"):
        asyncio.run(follow_with_a_wrong_token_in_a_loop(worker.endpoint))


def close_early() -> None:
    with Publisher(NOBODY, policy=TINY) as publisher:
        publisher.publish(*STREAM, FRAMES, 1.0)
        with pytest.raises(PublisherFull, match=r"not durable after 0 s: no worker answers"):
            publisher.publish(*STREAM, FRAMES, 2.0, timeout_s=0)
    publisher.close()


async def close_early_in_a_loop() -> None:
    async with AsyncPublisher(NOBODY, policy=TINY) as publisher:
        await publisher.publish(*STREAM, FRAMES, 1.0)
        with pytest.raises(PublisherFull, match=r"not durable after 0 s: no worker answers"):
            await publisher.publish(*STREAM, FRAMES, 2.0, timeout_s=0)
    await publisher.close()


def test_the_log_tells_what_was_not_durable_when_a_publisher_was_closed(caplog: pytest.LogCaptureFixture) -> None:
    close_early()
    asyncio.run(close_early_in_a_loop())
    assert caplog.messages == [LEFT, LEFT]
