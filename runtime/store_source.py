"""Where the store is: what `runtime.store` names, and `runtime.state_dir`."""

from __future__ import annotations

from pathlib import Path

from runtime.settings import Settings
from runtime.store.base import Store
from runtime.store.redis_store import RedisStore
from runtime.store.sqlite import SqliteStore


def open_store(settings: Settings) -> Store:
    """Raises StoreError with what is wrong."""
    if settings.runtime.store != "sqlite":
        return RedisStore(settings.runtime.store, history_length=settings.runtime.history_length)
    path = Path(settings.runtime.state_dir) / "grf.db"
    return SqliteStore(path, history_length=settings.runtime.history_length)
