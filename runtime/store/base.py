"""The contract of a store. One suite (`tests/contract/`) runs over every implementation.

A store holds one record per session, a bounded history per session, and for each key group the epoch of the
worker that owns it. Calls block; the worker makes them from its store thread.

StoreError
 ├── StoreFenced       the caller's epoch is old: another worker owns the group now. Step down
 ├── StoreUnavailable  does not answer now: disk full, read-only, connection lost. Try again
 │    └── StoreLocked  another process holds its lock. If that one has stopped, it has to be ended
 └── StoreUnusable     no store of ours, or damaged, or of another schema version. A person must look
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.keys import SessionKey
from runtime.records import HistoryRow, SessionRecord


class StoreError(Exception):
    """A store did not do what was asked; nothing was changed."""


class StoreFenced(StoreError):
    """The epoch of a key group in the request is not the current one."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or written now; it may recover by itself."""


class StoreLocked(StoreUnavailable):
    """Another process is in the middle of a write, and has not finished for as long as we wait."""


class StoreUnusable(StoreError):
    """What is there is not a store that this version can use; it does not recover by itself."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who serves a key group, since which epoch. Epoch 0 is nobody."""

    owner: str
    epoch: int


class Store(Protocol):
    def load(self, keys: Sequence[SessionKey]) -> dict[SessionKey, SessionRecord]:
        """The records of these sessions; a session without one is left out. Raises RecordError for a damaged one."""

    def save(self, epochs: Mapping[int, int], records: Sequence[SessionRecord]) -> None:
        """Write all records and their history rows, or none, and return once they are on stable storage.

        `epochs` holds the caller's epoch of every key group that the records belong to: if one is not the current
        one nothing is written and StoreFenced is raised.
        """

    def delete(self, epochs: Mapping[int, int], key: SessionKey) -> bool:
        """Forget a session and its history, durably; True if there was one. Fenced like `save`."""

    def scan(self, tenant: str, after: str, limit: int) -> list[str]:
        """Ids of the tenant's sessions greater than `after`, in the order of their UTF-8 bytes, `limit` at most."""

    def history(self, key: SessionKey, from_s: float, to_s: float, limit: int) -> list[HistoryRow]:
        """The newest `limit` settled versions with event time in [from_s, to_s], oldest first."""

    def claim(self, owner: str, expected: Mapping[int, int]) -> dict[int, int]:
        """Make `owner` the owner of these groups, each at epoch + 1, and return the new epochs.

        All or nothing: raises StoreFenced if the epoch of any group is not the expected one (compare and set). An
        owner without a lease in force gets one, with a count that no lease had before.
        """

    def ownership(self) -> dict[int, Ownership]:
        """Who owns which group; a group that was never claimed is left out."""

    def leases(self) -> dict[str, int]:
        """The leases in force: owner -> count of its renewals, from a random start."""

    def renew(self, owner: str, count: int) -> None:
        """Add 1 to the count of an owner's lease; raises StoreFenced unless it stood at `count`: it may be over."""

    def revoke(self, owner: str, count: int) -> None:
        """End an owner's lease, unless it has moved on from `count`: then StoreFenced. No lease is as good as ended."""

    def note(self, name: str, value: str) -> None:
        """Keep a few words for the controllers to come, such as how many workers were asked for."""

    def notes(self) -> dict[str, str]: ...

    def records(self) -> Iterator[SessionRecord]:
        """All records with their history, ordered by tenant and session, for export.

        SQLite gives a consistent snapshot. Redis gives each session whole, as it was at some moment of the export.
        """

    def restore(self, records: Sequence[SessionRecord]) -> None:
        """Write records of an export with their history, all or none, in place of what is stored of these sessions.

        Unfenced: only for a runtime that is down.
        """

    def close(self) -> None:
        """Release what is held. Further calls raise StoreUnavailable."""
