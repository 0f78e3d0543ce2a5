"""Who may write: an owner proves itself with the current epoch of every key group it writes to."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping

from runtime.keys import SessionKey, key_group
from runtime.store.base import StoreFenced


def check_epochs(current: Mapping[int, int], epochs: Mapping[int, int], keys: Iterable[SessionKey]) -> None:
    """Raise StoreFenced unless `epochs` covers the key groups of `keys` and every epoch in it is the current one.

    Nobody owns a group at epoch 0, so nobody may write to it.
    """
    for group in {*epochs, *map(key_group, keys)}:
        epoch = epochs.get(group, 0)
        if epoch == 0:
            raise StoreFenced(f"key group {group}: the caller does not own it")
        if current.get(group, 0) != epoch:
            raise StoreFenced(f"key group {group}: epoch {epoch} is over, it is at epoch {current.get(group, 0)} now")


def check_expected(current: Mapping[int, int], expected: Mapping[int, int]) -> None:
    """Raise StoreFenced unless every group is at its expected epoch."""
    for group, epoch in expected.items():
        if current.get(group, 0) != epoch:
            raise StoreFenced(f"key group {group}: expected at epoch {epoch}, it is at {current.get(group, 0)}")


def check_lease(counts: Mapping[str, int], owner: str, count: int) -> None:
    """Raise StoreFenced unless the owner's lease stands at `count`."""
    if counts.get(owner) != count:
        raise StoreFenced(f"{owner}: its lease is not the one that stood at {count}")


def new_count() -> int:
    """Where the renewals of a new lease start: nobody who knows an earlier lease of the owner can renew or end it."""
    return secrets.randbits(52)
