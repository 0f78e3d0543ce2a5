"""The stores that the contract suite runs over. A new implementation is one more line in STORES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest

from runtime.store.base import Store
from runtime.store.memory import MemoryDisk, MemoryStore
from runtime.store.redis_store import RedisStore
from runtime.store.sqlite import SqliteStore
from tests.servers import shared_redis


class OpenStore(Protocol):
    def __call__(self, history_length: int = 256) -> Store:
        """One more store object, as another worker would make it, on the same stored data."""


def _memory(tmp_path: Path) -> OpenStore:
    disk = MemoryDisk()
    return lambda history_length=256: MemoryStore(disk, history_length=history_length)


def _sqlite(tmp_path: Path) -> OpenStore:
    return lambda history_length=256: SqliteStore(tmp_path / "state.db", history_length=history_length)


def _redis(tmp_path: Path) -> OpenStore:
    address = f"{shared_redis(cluster=False).address}?prefix={uuid4().hex}"
    return lambda history_length=256: RedisStore(address, history_length=history_length)


def _redis_cluster(tmp_path: Path) -> OpenStore:
    plain = shared_redis(cluster=True).address
    address = f"{plain.replace('redis:', 'redis+cluster:')}?prefix={uuid4().hex}"
    return lambda history_length=256: RedisStore(address, history_length=history_length)


STORES: dict[str, Callable[[Path], OpenStore]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "redis": _redis,
    "redis-cluster": _redis_cluster,
}
SNAPSHOTS = ("memory", "sqlite")
"""whose `records` are of one moment; the others give each session whole"""


@pytest.fixture(params=STORES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    make, opened = STORES[request.param](tmp_path), []

    def open_one(history_length: int = 256) -> Store:
        opened.append(make(history_length))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()
