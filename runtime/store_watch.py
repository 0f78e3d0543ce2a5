"""What a worker's log says of its store: that it fails and why, that it is back. Each once."""

from __future__ import annotations

import logging

from runtime.dispatch.store_jobs import StoreHealth

log = logging.getLogger(__name__)


class StoreWatch:
    def __init__(self) -> None:
        self._fails = False
        self._is_fenced = False

    def look(self, health: StoreHealth) -> None:
        """Call it often: what came and went between two looks is not told."""
        fails = bool(health.last_error)
        if fails and not self._fails:
            log.error("the store cannot be written: %s. Nothing becomes durable until it can", health.last_error)
        elif self._fails and not fails:
            log.info("no write to the store fails any more")
        if health.fenced and not self._is_fenced:
            log.warning("the store refused a write: by what it holds the key groups are not ours")
        self._fails, self._is_fenced = fails, health.fenced
