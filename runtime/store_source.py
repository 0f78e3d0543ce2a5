"""Where the store is: what `runtime.store` names, and `runtime.state_dir`."""

from __future__ import annotations

from pathlib import Path

from runtime.settings import Settings
from runtime.store.base import Store, StoreUnavailable
from runtime.store.redis_store import RedisStore
from runtime.store.sqlite import SqliteStore


def open_store(settings: Settings) -> Store:
    """Raises StoreError with what is wrong."""
    if settings.runtime.store != "sqlite":
        return RedisStore(settings.runtime.store, history_length=settings.runtime.history_length)
    return SqliteStore(_sqlite_path(settings), history_length=settings.runtime.history_length)


def open_existing_store(settings: Settings) -> Store:
    """Makes none: what was just made, in the wrong folder, would be backed up as if it were all. Raises StoreError."""
    path = _sqlite_path(settings)
    if settings.runtime.store == "sqlite" and not path.exists():
        raise StoreUnavailable(f"store {path.absolute()}: there is none; runtime.state_dir says where it is")
    return open_store(settings)


def _sqlite_path(settings: Settings) -> Path:
    return Path(settings.runtime.state_dir) / "grf.db"
