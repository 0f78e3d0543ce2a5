from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.connectors.media_materials import RtpStream
from tests.connectors.servers import Mosquitto, Nats
from tests.servers import free_port


@pytest.fixture(autouse=True)
def clients_log() -> Iterator[None]:
    """The command makes the client's log quieter for its whole process, and tests of others look into it."""
    logger = logging.getLogger("runtime.client")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="session")
def mosquitto(server_program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(server_program("mosquitto"), tmp_path_factory.mktemp("mosquitto")) as server:
        yield server


@pytest.fixture(scope="session")
def nats(server_program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    with Nats(server_program("nats-server"), tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def rtp(tmp_path: Path) -> Iterator[RtpStream]:
    stream = RtpStream(tmp_path, free_port(), free_port())
    yield stream
    stream.close()
