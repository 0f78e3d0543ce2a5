"""Another controller on the same store: a second runtime, started there by mistake, as a rule.

Key groups go to whoever started last, and every write of the first is fenced from then on. The first stands back while
the other lives, or the two would take the groups from one another for ever; it takes them once the other is gone.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from math import inf

from runtime.store.base import Store, StoreError

NOTE = "controller"
LOOKS_IN_LEASE = 4
SILENT_LEASES = 3
"""a rival that has not answered for so long is gone"""


def is_at_work(store: Store, lease_s: float, wait: Callable[[float], None] = time.sleep) -> bool:
    """Does a controller live on this store? It is given the time to answer."""
    watch = RivalWatch(store, lease_s)
    watch.look(0.0)
    wait(2 * watch.look_every_s)
    return watch.look(0.0)


class RivalWatch:
    """All controllers of a store share one note, which names who wrote it last. Who finds another's name where its own
    was knows that the other lives, and writes its own again, which tells the other: one that is alone writes once."""

    def __init__(self, store: Store, lease_s: float) -> None:
        self.look_every_s = lease_s / LOOKS_IN_LEASE
        self._store = store
        self._gone_after_s = lease_s * SILENT_LEASES
        self._name = secrets.token_hex(4)
        self._has_said = False
        """our name was in the store: another there was written since"""
        self._heard_s = -inf
        self.store_error = ""
        """why the store did not answer the last look; "" if it did"""

    def look(self, now_s: float) -> bool:
        """Is another there? Call it every `look_every_s`; it blocks as long as the store does."""
        try:
            self._read_and_answer(now_s)
            self.store_error = ""
        except StoreError as error:  # it says nothing of a rival
            self.store_error = str(error)
        return now_s - self._heard_s < self._gone_after_s

    def _read_and_answer(self, now_s: float) -> None:
        name = self._store.notes().get(NOTE)
        if name != self._name:
            if self._has_said and name is not None:  # nobody's is no rival: the store was emptied, or is another one
                self._heard_s = now_s
            self._has_said = False
            self._store.note(NOTE, self._name)
        self._has_said = True
