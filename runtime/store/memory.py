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
from runtime.store.sealing import (
    HistoryPiece,
    begins_at,
    open_history,
    open_record,
    seal_history,
    seal_record,
    wanted_rows,
)


@dataclass(slots=True)
class MemoryDisk:
    """Everything is kept as bytes, so that no store hands out an object that another one changes."""

    records: dict[SessionKey, bytes] = field(default_factory=dict)
    history: dict[SessionKey, list[HistoryPiece]] = field(default_factory=dict)
    """oldest first"""
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
            rows = open_history(key, disk.history.get(key, ()), self.history_length)
        return wanted_rows(rows, from_s, to_s, limit)

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
            sealed, history = dict(disk.records), dict(disk.history)
        ordered = sorted(sealed, key=lambda key: (key.tenant.encode(), key.session.encode()))
        for key in ordered:
            rows = open_history(key, history.get(key, ()), self.history_length)
            yield replace(open_record(key, sealed[key]), history=tuple(rows))

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
        sealed = {record.key: seal_record(record) for record in records}
        history = {
            record.key: self._pieces(disk.history.get(record.key, []) if keep else [], record) for record in records
        }
        disk.records.update(sealed)
        disk.history.update(history)

    def _pieces(self, stored: list[HistoryPiece], record: SessionRecord) -> list[HistoryPiece]:
        pieces = [piece for piece in stored if piece.version < begins_at(record)]
        if (new := seal_history(record, self.history_length)) is not None:
            pieces.append(new)
        oldest = record.version - self.history_length + 1
        holds_oldest = max((place for place, piece in enumerate(pieces) if piece.version <= oldest), default=0)
        return pieces[holds_oldest:]


def _current(disk: MemoryDisk) -> dict[int, int]:
    return {group: ownership.epoch for group, ownership in disk.groups.items()}
