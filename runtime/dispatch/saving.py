"""Write-behind: the settled state of dirty sessions goes to the store, one write at a time."""

from __future__ import annotations

from functools import partial

from runtime.dispatch.ownership import OwnedGroups
from runtime.dispatch.store_jobs import StoreJob, StoreQueue
from runtime.engine import checkpoint
from runtime.engine.engine import Engine
from runtime.engine.session import Session
from runtime.keys import SessionKey
from runtime.records import HistoryRow, RecordError, SessionRecord
from runtime.store.base import Store, StoreError
from runtime.store.sealing import seal_ahead

REST = 4.0
"""after a write that leaves nothing behind, no other for so many times as long as it took: so the store's thread keeps
the loop from the processor for a fifth of the time"""
AT_ONCE = 64
"""sessions in one write: a large one is felt by all who send meanwhile, and makes the next one larger"""
SHARE_AT_ONCE = 8
"""one in so many of those that wait, if that is more: a store whose commits are slow keeps up with larger writes"""
ROWS_OF_TURN = 16
"""of history, in the records that one turn makes: 0.2 to 0.4 ms"""
PUT_OFF_S = 0.01
"""for so long turns with segments to fuse leave the records of a write that is due to turns that have none"""


def rows_of_turn(segments: int, put_off_s: float) -> int:
    """About so many rows of history go into records in a turn that admits or fuses so many segments.

    Whose segment comes during a turn waits for its end, and records are the longest part of one. So they are made while
    nothing else is to do; a worker that always has something to do makes as many as it settles.
    """
    if segments and put_off_s < PUT_OFF_S:
        return 0
    return max(ROWS_OF_TURN, 2 * segments)


class Saver:
    def __init__(
        self, engine: Engine, store: StoreQueue, owned: OwnedGroups, incarnation: str, interval_s: float, limit: int
    ) -> None:
        """Write at least `interval_s` apart, up to `limit` sessions at a time; while groups are frozen, and when the
        worker ends, at once and all together: somebody waits for it."""
        self._engine = engine
        self._store = store
        self._owned = owned
        self._incarnation = incarnation
        self._interval_s = interval_s
        self._limit = limit
        self.is_ending = False
        """nothing more comes: what is left is written without rests"""
        self._in_flight: dict[SessionKey, tuple[Session, SessionRecord]] = {}
        """of the write that the store has been asked for"""
        self._collected: dict[SessionKey, tuple[Session, SessionRecord]] = {}
        """of the next write, made by this turn and those before it"""
        self._still_to_collect = 0
        self._left_behind = 0
        """sessions that waited as well when the last write was begun"""
        self._next_s = 0.0
        self._put_off_since_s: float | None = None
        self._retry_s = 0.0
        """when the store may be tried again, after it has failed"""
        self.saved_at_s = 0.0
        """when the store last held all that was settled, or last committed"""

    @property
    def hurries(self) -> bool:
        """Somebody waits for the end of it: no rests, and all that is left in one write."""
        return self.is_ending or bool(self._owned.frozen)

    @property
    def is_clean(self) -> bool:
        """The store holds all that is settled."""
        return not self._engine.dirty and not self._collected and not self._in_flight

    def unsaved_history(self, session: Session) -> list[HistoryRow]:
        """Settled versions that the store does not hold as far as it has answered, oldest first."""
        rows: list[HistoryRow] = []
        for made in (self._in_flight.get(session.key), self._collected.get(session.key)):
            if made is not None and made[0] is session:
                rows += made[1].history
        return rows + checkpoint.unsaved_history(self._engine, session)

    @property
    def due_s(self) -> float | None:
        """When the next write is due; None while there is nothing to write, or a write is under way."""
        if self._in_flight or self.is_clean:
            return None
        return self._retry_s if self.hurries else self._next_s

    def put_off_s(self, now_s: float) -> float:
        """For how long a write has been due, as far as turns have seen, each of which asks."""
        due_s = self.due_s
        if due_s is None or now_s < due_s:
            self._put_off_since_s = None
            return 0.0
        if self._put_off_since_s is None:
            self._put_off_since_s = now_s
        return now_s - self._put_off_since_s

    def save(self, now_s: float, rows: int) -> None:
        """If a write is due, make records for it: so many that they hold about `rows` rows, but one at least, or none
        with 0 rows. Once every session of the write has its record, write them all."""
        if self.is_clean:
            self.saved_at_s = now_s
        due_s = self.due_s
        if not rows or due_s is None or now_s < due_s:
            return
        if not self._collected:
            self._begin()
        # Each once, or its history would be torn: one that has something to save again waits for the next write.
        limits = self._still_to_collect, rows, self._collected
        taken = checkpoint.take_records(self._engine, self._incarnation, *limits)
        for record in taken:
            record.incarnation = f"{self._incarnation}@{self._owned.tenure_of(record.key)}"
            seal_ahead(record)
            self._collected[record.key] = self._engine.sessions[record.key], record
        self._still_to_collect -= len(taken)
        if not self._still_to_collect or not taken:
            self._write(now_s)

    def _begin(self) -> None:
        """Say how many of the sessions that wait the next write takes."""
        waiting = len(self._engine.dirty)
        at_once = waiting if self.hurries else max(AT_ONCE, waiting // SHARE_AT_ONCE)
        self._still_to_collect = min(waiting, at_once, self._limit)
        self._left_behind = waiting - self._still_to_collect

    def _write(self, now_s: float) -> None:
        collected, self._collected = self._collected, {}
        # One that has left since then was deleted, or is another worker's: its record must not come after that.
        self._in_flight = {key: made for key, made in collected.items() if self._engine.sessions.get(key) is made[0]}
        if not self._in_flight:
            return
        records = [record for _, record in self._in_flight.values()]
        epochs = self._owned.epochs_of(list(self._in_flight))
        self._next_s = now_s + self._interval_s
        saved, failed = partial(self._saved, records, now_s), partial(self._failed, records)
        self._store.put(StoreJob(partial(_save, epochs, records), saved, failed, saves=True))

    def _saved(self, records: list[SessionRecord], started_s: float, _: None, now_s: float) -> None:
        self._in_flight = {}
        self.saved_at_s = now_s
        rest = REST * len(records) / (len(records) + self._left_behind)
        self._next_s = max(self._next_s, now_s + rest * (now_s - started_s))
        checkpoint.committed(self._engine, records)

    def _failed(self, records: list[SessionRecord], _: StoreError | RecordError, now_s: float) -> None:
        self._in_flight = {}
        self._next_s = self._retry_s = now_s + self._store.retry_s
        checkpoint.not_committed(self._engine, records)


def _save(epochs: dict[int, int], records: list[SessionRecord], store: Store) -> None:
    store.save(epochs, records)
