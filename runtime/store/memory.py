"""A store in the memory of one process, for the simulator and for tests. It keeps the contract to the letter.

What is stored lives in a `MemoryDisk`, which survives its stores as a disk survives the processes that use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock

from runtime.keys import SessionKey
from runtime.records import HistoryRow, SessionRecord
from runtime.store.base import Ownership, StoreUnavailable
from runtime.store.fencing import check_epochs, check_expected, check_lease, new_count
from runtime.store.sealing import open_history, open_record, seal_record, sealed_history


@dataclass(slots=True)
class MemoryDisk:
    """Everything is kept as bytes, so that no store hands out an object that another one changes."""

    records: dict[SessionKey, bytes] = field(default_factory=dict)
    history: dict[SessionKey, dict[int, tuple[float, bytes]]] = field(default_factory=dict)
    """by version: event time and the rest"""
    groups: dict[int, Ownership] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    away: str = ""
    """why it does not answer, for a test to say; then every call raises StoreUnavailable and changes nothing"""
    lock: Lock = field(default_factory=Lock)


class MemoryStore:
    """`runtime.store.base.Store` on a `MemoryDisk`; every store of one disk sees the same."""

    def __init__(self, disk: MemoryDisk | None = None, *, history_length: int = 256) -> None:
        self.disk = MemoryDisk() if disk is None else disk
        self.history_length = history_length
        self._closed = False

    def load(self, keys: Sequence[SessionKey]) -> dict[SessionKey, SessionRecord]:
        with self._answering() as disk:
            return {key: open_record(key, disk.records[key]) for key in keys if key in disk.records}

    def save(self, epochs: Mapping[int, int], records: Sequence[SessionRecord]) -> None:
        with self._answering() as disk:
            check_epochs(_current(disk), epochs, (record.key for record in records))
            self._write(disk, records, keep=True)

    def delete(self, epochs: Mapping[int, int], key: SessionKey) -> bool:
        with self._answering() as disk:
            check_epochs(_current(disk), epochs, [key])
            disk.history.pop(key, None)
            return disk.records.pop(key, None) is not None

    def scan(self, tenant: str, after: str, limit: int) -> list[str]:
        with self._answering() as disk:
            ids = sorted((key.session for key in disk.records if key.tenant == tenant), key=str.encode)
            return [session for session in ids if session.encode() > after.encode()][: max(0, limit)]

    def history(self, key: SessionKey, from_s: float, to_s: float, limit: int) -> list[HistoryRow]:
        with self._answering() as disk:
            rows = _history(disk, key)
        wanted = [row for row in rows if from_s <= row.event_time_s <= to_s]
        return wanted[len(wanted) - min(len(wanted), max(0, limit)) :]

    def claim(self, owner: str, expected: Mapping[int, int]) -> dict[int, int]:
        with self._answering() as disk:
            check_expected(_current(disk), expected)
            claimed = {group: epoch + 1 for group, epoch in expected.items()}
            disk.groups.update({group: Ownership(owner, epoch) for group, epoch in claimed.items()})
            disk.leases.setdefault(owner, new_count())
        return claimed

    def ownership(self) -> dict[int, Ownership]:
        with self._answering() as disk:
            return dict(disk.groups)

    def leases(self) -> dict[str, int]:
        with self._answering() as disk:
            return dict(disk.leases)

    def renew(self, owner: str, count: int) -> None:
        with self._answering() as disk:
            check_lease(disk.leases, owner, count)
            disk.leases[owner] = count + 1

    def revoke(self, owner: str, count: int) -> None:
        with self._answering() as disk:
            if owner in disk.leases:
                check_lease(disk.leases, owner, count)
                del disk.leases[owner]

    def note(self, name: str, value: str) -> None:
        with self._answering() as disk:
            disk.notes[name] = value

    def notes(self) -> dict[str, str]:
        with self._answering() as disk:
            return dict(disk.notes)

    def records(self) -> Iterator[SessionRecord]:
        with self._answering() as disk:
            history = {key: dict(rows) for key, rows in disk.history.items()}
            snapshot = MemoryDisk(dict(disk.records), history)
        ordered = sorted(snapshot.records, key=lambda key: (key.tenant.encode(), key.session.encode()))
        return (replace(open_record(key, snapshot.records[key]), history=_history(snapshot, key)) for key in ordered)

    def restore(self, records: Sequence[SessionRecord]) -> None:
        with self._answering() as disk:
            self._write(disk, records, keep=False)

    def close(self) -> None:
        self._closed = True

    @contextmanager
    def _answering(self) -> Iterator[MemoryDisk]:
        if self._closed:
            raise StoreUnavailable("memory store: it was closed")
        with self.disk.lock:
            if self.disk.away:
                raise StoreUnavailable(f"memory store: {self.disk.away}")
            yield self.disk

    def _write(self, disk: MemoryDisk, records: Sequence[SessionRecord], *, keep: bool) -> None:
        sealed, history = {}, {}
        for record in records:
            # As in sqlite.py: rows of an earlier life of the session make way for those of this one.
            begins = min((row.version for row in record.history), default=record.version + 1) if keep else 0
            rows = {version: row for version, row in disk.history.get(record.key, {}).items() if version < begins}
            rows |= {row.version: (row.event_time_s, sealed) for row, sealed in sealed_history(record)}
            oldest = record.version - self.history_length + 1
            history[record.key] = {version: row for version, row in rows.items() if version >= oldest}
            sealed[record.key] = seal_record(record)
        disk.records.update(sealed)
        disk.history.update(history)


def _current(disk: MemoryDisk) -> dict[int, int]:
    return {group: ownership.epoch for group, ownership in disk.groups.items()}


def _history(disk: MemoryDisk, key: SessionKey) -> tuple[HistoryRow, ...]:
    rows = sorted(disk.history.get(key, {}).items())
    return tuple(open_history(key, version, event_time_s, data) for version, (event_time_s, data) in rows)
