"""How long a worker may answer: a lease on its own clock, renewed by the controller's answers, or at the store.

The clock is one that goes on while the machine is suspended and the process stopped (`lease_clock`); time is an
argument everywhere else.
"""

from __future__ import annotations

import time
from math import inf

from runtime.store.base import Store, StoreFenced


def lease_clock() -> float:
    """Seconds that only go forward, also while this process or its machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """Lasts from its renewal's *sending*: whoever grants it counts from when it was heard, which is later."""

    def __init__(self, until_s: float = inf) -> None:
        self._until_s = until_s

    def extend(self, until_s: float) -> None:
        self._until_s = until_s if self._until_s == inf else max(self._until_s, until_s)

    def is_over(self, now_s: float) -> bool:
        return now_s >= self._until_s


def renew_at_store(store: Store, owner: str) -> bool:
    """Count a sign of life where the controller will look before it names another owner; False if that is too late.

    Raises StoreError while the store does not answer.
    """
    count = store.leases().get(owner)
    if count is None:
        return False
    try:
        store.renew(owner, count)
    except StoreFenced:
        return False
    return True
