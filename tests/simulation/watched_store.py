"""The honest store, watched: every write must continue what it replaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from runtime.engine.order import FusionKey
from runtime.engine.session import NO_LINEAGE, extend_lineage
from runtime.keys import SessionKey
from runtime.records import SessionRecord
from runtime.store.memory import MemoryDisk, MemoryStore
from runtime.store.sealing import open_history
from tests.simulation.scenario import WHOLE_HISTORY


class WatchedStore(MemoryStore):
    """Checks that no write forks a session, and can be away, or lose its answers although it has written."""

    def __init__(self, disk: MemoryDisk, key_of: Callable[[SessionKey, float], FusionKey | None]) -> None:
        super().__init__(disk, history_length=WHOLE_HISTORY)
        self._key_of = key_of
        """session and event time to segment, where only one has this time"""
        self.loses_answers = False
        self.saves = 0
        self._opened: dict[SessionKey, tuple[bytes, SessionRecord]] = {}

    def save(self, epochs: Mapping[int, int], records: Sequence[SessionRecord]) -> None:
        before = {record.key: self.record(record.key) for record in records} if not self.disk.away else {}
        super().save(epochs, records)
        self.saves += 1
        for record in records:
            self._check_continues(before[record.key], record)

    def record(self, key: SessionKey) -> SessionRecord | None:
        """What a crash would leave of a session."""
        sealed = self.disk.records.get(key)
        if sealed is None:
            return None
        known = self._opened.get(key)
        if known is None or known[0] is not sealed:
            away, self.disk.away = self.disk.away, ""
            known = self._opened[key] = (sealed, super().load([key])[key])
            self.disk.away = away
        return known[1]

    def settled_event_times(self, key: SessionKey) -> list[float]:
        return [row.event_time_s for row in open_history(key, self.disk.history.get(key, []), self.history_length)]

    def _check_continues(self, old: SessionRecord | None, new: SessionRecord) -> None:
        version, lineage = (old.version, old.lineage) if old else (0, NO_LINEAGE)
        assert new.version >= version, f"{new.key}: version {new.version} replaces {version}"
        marks = {stream.stream: stream for stream in new.streams}
        for stream in old.streams if old else ():
            assert stream.stream in marks, f"{new.key}: a stream is forgotten"
            assert marks[stream.stream].settled_upto >= stream.settled_upto, f"{new.key}: marks went back"
        times = self.settled_event_times(new.key)
        assert len(times) == new.version, f"{new.key}: {len(times)} rows of history for version {new.version}"
        for event_time_s in times[version:]:
            key = self._key_of(new.key, event_time_s)
            if key is None:
                return  # several segments have this time: the lineage is checked at the end
            lineage = extend_lineage(lineage, key)
        assert lineage == new.lineage, f"{new.key}: version {new.version} does not continue version {version}"
