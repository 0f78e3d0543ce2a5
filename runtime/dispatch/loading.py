"""Sessions that are not in memory: their messages wait, in order of arrival, behind the load of their record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from runtime.dispatch.ownership import OwnedGroups
from runtime.dispatch.store_jobs import StoreJob, StoreQueue
from runtime.engine import checkpoint
from runtime.engine.engine import Engine
from runtime.engine.quota import Refusal
from runtime.engine.session import Session
from runtime.keys import SessionKey, key_group
from runtime.nack_codes import Code
from runtime.records import RecordError, SessionRecord
from runtime.store.base import Store, StoreError

MAX_WAITING_BYTES = 64 << 20
"""of messages that wait for the load of their session"""
RELOAD_AFTER_MS = 500
NOT_OWNER_MS = 50
"""until who does not hear of the new owner before asks again"""


class Refuse(Protocol):
    def __call__(self, code: Code, text: str, retry_after_ms: int = 0) -> None: ...


@dataclass(frozen=True, slots=True)
class Visit:
    """What a message wants of a session."""

    run: Callable[[Session | None], None]
    """called with the session; with None if it does not exist and is not to be created"""
    refuse: Refuse
    """called instead when the session cannot be had now"""
    creates: bool = False
    n_bytes: int = 256
    """held while it waits"""


class SessionLoader:
    def __init__(self, engine: Engine, store: StoreQueue, owned: OwnedGroups, incarnation: str) -> None:
        self._engine = engine
        self._store = store
        self._owned = owned
        self._incarnation = incarnation
        self._waiting: dict[SessionKey, list[Visit]] = {}
        self._waiting_bytes = 0
        self._to_load: list[SessionKey] = []

    def resident(self, key: SessionKey) -> Session | None:
        """The session, if it is in memory, and so of a group of ours: a visit would run at once."""
        if self._owned.frozen and not self._owned.owns(key):
            return None
        return self._engine.sessions.get(key)

    def visit(self, key: SessionKey, visit: Visit) -> None:
        """Run the visit now if the session is in memory, else once its record is loaded."""
        if not self._owned.owns(key):
            visit.refuse("not_owner", f"key group {key_group(key)} is not served by this worker", NOT_OWNER_MS)
        elif key in self._engine.sessions:
            visit.run(self._engine.sessions[key])
        elif self._waiting_bytes + visit.n_bytes > MAX_WAITING_BYTES:
            visit.refuse("slow_down", "too much waits for sessions to be loaded", 100)
        else:
            self._wait(key, visit)

    def _wait(self, key: SessionKey, visit: Visit) -> None:
        self._waiting_bytes += visit.n_bytes
        if key not in self._waiting:
            self._waiting[key] = []
            self._to_load.append(key)
        self._waiting[key].append(visit)

    def is_loading(self, key: SessionKey) -> bool:
        return key in self._waiting

    @property
    def has_work(self) -> bool:
        return bool(self._to_load)

    def load(self) -> None:
        """Ask the store for all records that are waited for, in one job."""
        if self._to_load:
            keys, self._to_load = self._to_load, []
            self._ask(keys)

    def _ask(self, keys: list[SessionKey]) -> None:
        tenures = {key: self._owned.tenure_of(key) for key in keys}
        self._store.put(StoreJob(partial(_load, keys), partial(self._found, tenures), partial(self._failed, keys)))

    def _found(self, tenures: dict[SessionKey, str], found: dict[SessionKey, SessionRecord], now_s: float) -> None:
        for key, tenure in tenures.items():
            if self._owned.owns(key) and self._owned.tenure_of(key) != tenure:
                self._to_load.append(key)  # another worker may have had it since, and have saved what is newer
            else:
                self._loaded(key, found.get(key), now_s)

    def _failed(self, keys: list[SessionKey], error: StoreError | RecordError, now_s: float) -> None:
        if isinstance(error, RecordError) and len(keys) > 1:  # only the damaged one may suffer
            for key in keys:
                self._ask([key])
            return
        for key in keys:
            self._refuse_all(key, "unavailable", str(error), RELOAD_AFTER_MS)

    def _loaded(self, key: SessionKey, record: SessionRecord | None, now_s: float) -> None:
        if not self._owned.owns(key):
            self._refuse_all(key, "not_owner", f"key group {key_group(key)} has moved", NOT_OWNER_MS)
            return
        if record is None and not any(visit.creates for visit in self._waiting[key]):
            self._run_all(key)
            return
        session = self._engine.create(key, now_s)
        if isinstance(session, Refusal):
            self._refuse_all(key, "slow_down", session.text, session.retry_after_ms)
            return
        if record is None:
            session.born = self._owned.next_mark(key)
        else:
            try:
                tenure = f"{self._incarnation}@{self._owned.tenure_of(key)}"
                checkpoint.restore(self._engine, session, record, tenure, now_s)
            except RecordError as error:
                self._engine.forget(key)
                self._refuse_all(key, "unavailable", str(error), RELOAD_AFTER_MS)
                return
        self._engine.gather(session, now_s)
        self._run_all(key)

    def _run_all(self, key: SessionKey) -> None:
        for visit in self._take(key):
            session = self._engine.sessions.get(key)  # one before it may have deleted the session
            if session is None and (visit.creates or self.is_loading(key)):
                self.visit(key, visit)
            else:
                visit.run(session)

    def _refuse_all(self, key: SessionKey, code: Code, text: str, retry_after_ms: int) -> None:
        for visit in self._take(key):
            visit.refuse(code, text, retry_after_ms)

    def _take(self, key: SessionKey) -> list[Visit]:
        visits = self._waiting.pop(key)
        self._waiting_bytes -= sum([visit.n_bytes for visit in visits])
        return visits


def _load(keys: list[SessionKey], store: Store) -> dict[SessionKey, SessionRecord]:
    return store.load(keys)
