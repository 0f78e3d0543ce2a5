"""The leases of all owners, as the controller sees them: who gave a sign of life when, and whose lease is over.

The other end is `leases.py`, on each worker's own clock, where the same lease ends earlier.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from runtime.placement import is_over
from runtime.seldom_log import SeldomLog
from runtime.store.base import Store, StoreError, StoreFenced

log = logging.getLogger(__name__)


class GrantedLeases:
    def __init__(self, store: Store, lease_s: float, now_s: float) -> None:
        """Raises StoreError."""
        self._store = store
        self._lease_s = lease_s
        self._seldom = SeldomLog(log)
        self._counts: dict[str, int] = {}
        """of renewals at the store, as they were seen last"""
        self._signs: dict[str, float] = {}
        """when each owner gave its last sign of life, here or there, at the latest"""
        self._dead: set[str] = set()
        """owners known to be dead, as long as they own something"""
        self.began_s = now_s
        """when the store was read; whoever is unknown since then counts as heard of at this moment"""
        self.read({}, now_s)

    def read(self, heard: Mapping[str, float], now_s: float) -> None:
        """Begin anew: whoever has a lease by the store may have renewed it this moment. `heard`: who was heard when.

        Raises StoreError.
        """
        self._counts = self._store.leases()
        self.began_s = now_s
        self._signs = {**heard, **dict.fromkeys(self._counts, now_s)}

    def heard(self, owner: str, now_s: float) -> None:
        """A sign of life."""
        self._signs[owner] = max(self._signs.get(owner, now_s), now_s)

    def died(self, owner: str) -> None:
        """Its process has ended for certain: nobody need wait for its lease."""
        self._dead.add(owner)

    def is_dead(self, owner: str) -> bool:
        return owner in self._dead

    def forget_dead(self, owners: Collection[str]) -> None:
        """Remember of the dead only these: the others own nothing any more."""
        self._dead.intersection_update(owners)

    def is_over(self, owner: str, now_s: float) -> bool:
        """May its groups be given to others, once `end` has said so too?"""
        return owner in self._dead or is_over(self._signs.get(owner, self.began_s), now_s, self._lease_s)

    def look(self, owners: Collection[str], now_s: float) -> None:
        """Owners that are not heard of here may renew at the store."""
        if all(now_s - self._signs.get(owner, self.began_s) < self._lease_s / 2 for owner in owners):
            return
        try:
            self.see_renewals(now_s)
        except StoreError as error:
            self._seldom.warn(now_s, "cannot see the leases", error)

    def see_renewals(self, now_s: float) -> None:
        """A count that has moved is a sign of life that may have come this moment. Raises StoreError."""
        counts = self._store.leases()
        for owner, count in counts.items():
            if self._counts.get(owner) != count:
                self.heard(owner, now_s)
        self._counts = counts

    def granted(self, owner: str, now_s: float) -> None:
        """This owner has claimed something: it has a lease, which has to be known before it can be ended."""
        if owner in self._counts:
            return
        try:
            self.see_renewals(now_s)
        except StoreError as error:  # `end` looks again
            self._seldom.warn(now_s, "cannot see the leases", error)

    def end(self, owner: str, now_s: float) -> bool:
        """End a lease that is over, at the store too. Raises StoreError.

        False if the owner has renewed it there meanwhile: it lives, though we do not hear it.
        """
        try:
            if owner in self._dead or owner not in self._counts:  # whatever it renewed before
                self.see_renewals(now_s)
            if not self.is_over(owner, now_s):  # what was not known of it moments ago
                return False
            if owner in self._counts:
                self._store.revoke(owner, self._counts[owner])
                del self._counts[owner]
            return True
        except StoreFenced:
            self._signs[owner] = now_s
            return False
