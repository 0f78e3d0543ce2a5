"""Tells when the process of a worker has ended for certain: its life line or its actor's reference broke, and its
machine refuses a connection in its place. What is not certain is left to the lease."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from runtime.life_line import refuses, wait_for_end
from runtime.placement import Beat

log = logging.getLogger(__name__)


class DeathWatch:
    """Two threads for each process that is watched."""

    def __init__(self, hold_reference: Callable[[Beat], None], died: Callable[[str], None]) -> None:
        """`hold_reference` blocks for as long as the actor seems to live; `died` is called with the owner's name."""
        self._hold_reference = hold_reference
        self._died = died
        self._watched: set[str] = set()
        self._lock = threading.Lock()

    def watch(self, beat: Beat) -> None:
        with self._lock:
            if beat.owner in self._watched:
                return
            self._watched.add(beat.owner)
        for wait in (self._watch_line, self._watch_reference):
            threading.Thread(target=wait, args=(beat,), name=f"grf-life-{beat.name}", daemon=True).start()

    def _watch_line(self, beat: Beat) -> None:
        if wait_for_end(_host(beat), beat.life_port):
            self._died(beat.owner)
        with self._lock:
            self._watched.discard(beat.owner)

    def _watch_reference(self, beat: Beat) -> None:
        try:
            self._hold_reference(beat)
        except Exception as error:
            log.info("%s: its reference broke: %s", beat.owner, str(error).strip().partition("\n")[0])
            if refuses(_host(beat), beat.life_port):
                self._died(beat.owner)


def _host(beat: Beat) -> str:
    return urlsplit(beat.endpoint).hostname or ""
