"""Where the store is: what `runtime.store` names, and `runtime.state_dir`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from runtime.records import SessionRecord
from runtime.settings import Settings
from runtime.store.base import Store, StoreError
from runtime.store.redis_store import RedisStore
from runtime.store.sqlite import SqliteStore, read_records


def open_store(settings: Settings) -> Store:
    """Raises StoreError with what is wrong."""
    if settings.runtime.store != "sqlite":
        return RedisStore(settings.runtime.store, history_length=settings.runtime.history_length)
    return SqliteStore(_sqlite_path(settings), history_length=settings.runtime.history_length)


def read_store(settings: Settings) -> Iterator[SessionRecord]:
    """All records, of a store to which nothing is written. Raises StoreError, also where there is none: what was just
    made, in the wrong place, would be backed up as if it were all."""
    history_length = settings.runtime.history_length
    if settings.runtime.store == "sqlite":
        yield from read_records(_sqlite_path(settings), history_length)
        return
    with closing(RedisStore(settings.runtime.store, history_length=history_length, only_reads=True)) as store:
        yield from store.records()


def put_together(settings: Settings) -> None:
    """SQLite leaves one file where the last who has it open closes it in order. A backup that is put in the place of
    that file would else meet the -wal file of another one."""
    if settings.runtime.store == "sqlite" and _sqlite_path(settings).exists():
        with suppress(StoreError):
            open_store(settings).close()


def _sqlite_path(settings: Settings) -> Path:
    return Path(settings.runtime.state_dir) / "grf.db"
