"""Requests that want an answer: state (now, or once it is new enough), sessions, history, delete."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from math import inf
from typing import TypeVar

from runtime import messages as m
from runtime.dispatch.loading import NOT_OWNER_MS, SessionLoader, Visit
from runtime.dispatch.outbox import Outbox
from runtime.dispatch.ownership import OwnedGroups
from runtime.dispatch.peers import Peer
from runtime.dispatch.store_jobs import StoreJob, StoreQueue
from runtime.engine.engine import Engine
from runtime.engine.session import Session
from runtime.engine.view import StateView
from runtime.keys import InvalidId, SessionKey, check_id, key_group
from runtime.records import HistoryRow, RecordError, SessionRecord
from runtime.state_maps import StateMap
from runtime.store.base import Store, StoreError

MAX_WAIT_MS = 60_000
MAX_PAGE = 1000
MAX_HISTORY = 10_000
MAX_WAITING = 10_000
"""queries that wait for a newer state, over all peers"""
MAX_AT_STORE = 100
"""questions of one tenant that wait for the store: what all others have to save waits behind them"""
RETRY_MS = 500
SLOW_DOWN_MS, MOST_SLOW_DOWN_MS = 50, 5000
"""Of those that are slowed the first hundred come again after so long, the second after twice as long: together they
would be refused together again, and refusing thousands is work as well."""

Question = m.Query | m.ListSessions | m.QueryHistory | m.Delete
Answer = TypeVar("Answer")


class Questions:
    def __init__(
        self,
        engine: Engine,
        loader: SessionLoader,
        owned: OwnedGroups,
        store: StoreQueue,
        outbox: Outbox,
        forget_deleted: Callable[[SessionKey], None],
        unsaved_history: Callable[[Session], list[HistoryRow]],
    ) -> None:
        """`forget_deleted` lets go of a session and tells those who publish to it why."""
        self._engine = engine
        self._loader = loader
        self._owned = owned
        self._store = store
        self._outbox = outbox
        self._forget_deleted = forget_deleted
        self._unsaved_history = unsaved_history
        self._view = StateView(engine.signature)
        self._waiting: dict[SessionKey, dict[int, tuple[Peer, m.Query]]] = {}
        """queries for a version that is not there yet, by ticket"""
        self._n_waiting = 0
        self._deadlines: list[tuple[float, int, SessionKey]] = []
        self._tickets = count()
        self._at_store: Counter[str] = Counter()
        """questions that wait for the store, by tenant"""
        self._slowed: Counter[str] = Counter()
        """questions that were told to come again since a tenant had none there"""

    def ask(self, peer: Peer, question: Question, now_s: float) -> None:
        if isinstance(question, m.ListSessions):
            if not self._is_slowed(peer, question):
                self._list(peer, question)
            return
        try:
            check_id("session", question.session)
        except InvalidId as error:
            self._outbox.refuse_request(peer, question.request, "bad_id", str(error))
            return
        key = SessionKey(peer.tenant, question.session)
        if not self._owned.owns(key):
            self._refuse_stranger(peer, key, question)
            return
        needs_store = not isinstance(question, m.Query) or key not in self._engine.sessions
        if needs_store and self._is_slowed(peer, question):
            return
        match question:
            case m.Query():
                self._query(peer, key, question, now_s)
            case m.QueryHistory():
                self._history(peer, key, question)
            case m.Delete():
                self._delete(peer, key, question)

    # ---- state ----

    def _query(self, peer: Peer, key: SessionKey, query: m.Query, now_s: float) -> None:
        session = self._engine.sessions.get(key)
        if session is not None:
            view = self._view.session(self._engine.slab, session, query.include_context)
            self._answer_or_wait(peer, key, query, view, now_s)
            return
        self._ask(peer, query, partial(_load, key), partial(self._loaded, peer, key, query))

    def _loaded(
        self, peer: Peer, key: SessionKey, query: m.Query, found: dict[SessionKey, SessionRecord], now_s: float
    ) -> None:
        if not self._owned.owns(key):  # it has moved meanwhile
            self._refuse_stranger(peer, key, query)
            return
        session = self._engine.sessions.get(key)  # it may have come meanwhile
        if session is not None:
            state: StateMap | None = self._view.session(self._engine.slab, session, query.include_context)
        elif key in found:
            try:
                state = self._view.record(found[key], query.include_context)
            except RecordError as error:
                self._outbox.refuse_request(peer, query.request, "unavailable", str(error), RETRY_MS)
                return
        else:
            state = None
        self._answer_or_wait(peer, key, query, state, now_s)

    def _answer_or_wait(self, peer: Peer, key: SessionKey, query: m.Query, view: StateMap | None, now_s: float) -> None:
        if view is not None and view["version"] >= query.after_version:
            self._outbox.send(peer.identity, m.State(query.request, view))
        elif query.wait_ms > 0 and self._has_room():
            ticket = next(self._tickets)
            self._waiting.setdefault(key, {})[ticket] = (peer, query)
            self._n_waiting += 1
            deadline_s = now_s + min(query.wait_ms, MAX_WAIT_MS) / 1000
            heapq.heappush(self._deadlines, (deadline_s, ticket, key))
        else:
            self._answer_late(peer, query, view)

    def _has_room(self) -> bool:
        """May one more query wait? Drops the deadlines of those that were answered in time, once they are many."""
        if len(self._deadlines) >= 2 * MAX_WAITING:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._waiting.get(entry[2], {})]
            heapq.heapify(self._deadlines)
        return self._n_waiting < MAX_WAITING

    def _answer_late(self, peer: Peer, query: m.Query, view: StateMap | None) -> None:
        if view is None:
            self._outbox.refuse_request(peer, query.request, "not_found", f"no session {query.session!r}")
        else:
            timed_out = view["version"] < query.after_version
            self._outbox.send(peer.identity, m.State(query.request, view, timed_out))

    def state_changed(self, session: Session) -> None:
        """Answer the queries that waited for this."""
        waiting = self._waiting.get(session.key)
        if not waiting:
            return
        view = self._view.session(self._engine.slab, session)
        for ticket, (peer, query) in list(waiting.items()):
            if view["version"] >= query.after_version:
                del waiting[ticket]
                self._n_waiting -= 1
                answer = self._view.session(self._engine.slab, session, True) if query.include_context else view
                self._outbox.send(peer.identity, m.State(query.request, answer))
        if not waiting:
            del self._waiting[session.key]

    @property
    def deadline_s(self) -> float:
        """When the next query runs out of time."""
        return self._deadlines[0][0] if self._deadlines else inf

    def tick(self, now_s: float) -> None:
        """Answer the queries whose time is over with what there is."""
        while self._deadlines and self._deadlines[0][0] <= now_s:
            _, ticket, key = heapq.heappop(self._deadlines)
            waiting = self._waiting.get(key, {})
            if ticket not in waiting:
                continue
            peer, query = waiting[ticket]
            later_ms = 0 if key in self._engine.sessions else self._slow_down_ms(peer.tenant)
            if later_ms:  # it has waited already: so it waits here, not to be asked anew
                heapq.heappush(self._deadlines, (now_s + later_ms / 1000, ticket, key))
                continue
            del waiting[ticket]
            self._n_waiting -= 1
            if not waiting:
                del self._waiting[key]
            self._query(peer, key, replace(query, wait_ms=0), now_s)

    def disown(self) -> None:
        """Queries that wait for sessions of other workers are to be asked there."""
        for key in [key for key in self._waiting if not self._owned.owns(key)]:
            waiting = self._waiting.pop(key)
            self._n_waiting -= len(waiting)
            for peer, query in waiting.values():
                self._refuse_stranger(peer, key, query)

    def _refuse_stranger(self, peer: Peer, key: SessionKey, question: Question) -> None:
        text = f"key group {key_group(key)} is not served by this worker"
        self._outbox.refuse_request(peer, question.request, "not_owner", text, NOT_OWNER_MS)

    # ---- sessions, history, delete ----

    def _list(self, peer: Peer, question: m.ListSessions) -> None:
        limit = max(1, min(question.limit, MAX_PAGE))
        run = partial(_scan, peer.tenant, question.after, limit + 1)
        self._ask(peer, question, run, partial(self._scanned, peer, question, limit))

    def _scanned(self, peer: Peer, question: m.ListSessions, limit: int, stored: list[str], now_s: float) -> None:
        # All sessions in memory are looked at while everybody waits: those that a full page cannot show are not sorted.
        # Texts have the order of their UTF-8, as in the store.
        last = stored[-1] if len(stored) > limit else ""
        resident = {
            key.session
            for key in self._engine.sessions
            if question.after < key.session and (not last or key.session <= last) and key.tenant == peer.tenant
        }
        page = heapq.nsmallest(limit + 1, resident.union(stored))
        self._outbox.send(peer.identity, m.Sessions(question.request, page[:limit], len(page) > limit))

    def _history(self, peer: Peer, key: SessionKey, question: m.QueryHistory) -> None:
        limit = max(1, min(question.limit, MAX_HISTORY))
        run = partial(_history, key, question.from_s, question.to_s, limit)
        self._ask(peer, question, run, partial(self._read, peer, key, question, limit))

    def _read(
        self,
        peer: Peer,
        key: SessionKey,
        question: m.QueryHistory,
        limit: int,
        stored: list[HistoryRow],
        now_s: float,
    ) -> None:
        session = self._engine.sessions.get(key)
        newer = self._unsaved_history(session) if session else []
        last = stored[-1].version if stored else 0
        asked = [row for row in newer if row.version > last and question.from_s <= row.event_time_s <= question.to_s]
        rows = [row for row in [*stored, *asked] if self._view.fits(row)]
        views = [self._view.history(row) for row in rows[-limit:]]
        self._outbox.send(peer.identity, m.History(question.request, views))

    def _delete(self, peer: Peer, key: SessionKey, question: m.Delete) -> None:
        if self._loader.is_loading(key):  # delete what is being loaded, not what it will have become
            refuse = partial(self._outbox.refuse_request, peer, question.request)
            self._loader.visit(key, Visit(partial(self._delete_loaded, peer, key, question), refuse))
            return
        session = self._engine.sessions.get(key)
        self._forget_deleted(key)
        epochs = self._owned.epochs_of([key])
        self._ask(peer, question, partial(_delete, epochs, key), partial(self._deleted, peer, key, question, session))

    def _delete_loaded(self, peer: Peer, key: SessionKey, question: m.Delete, session: Session | None) -> None:
        if not self._is_slowed(peer, question):  # many may have waited for one load
            self._delete(peer, key, question)

    def _deleted(
        self, peer: Peer, key: SessionKey, question: m.Delete, was: Session | None, is_stored: bool, now_s: float
    ) -> None:
        existed = is_stored or was is not None
        if existed:
            self._engine.tell_deleted(key)
        self._outbox.send(peer.identity, m.Deleted(question.request, existed))

    # ---- the store ----

    def _ask(
        self, peer: Peer, question: Question, run: Callable[[Store], Answer], done: Callable[[Answer, float], None]
    ) -> None:
        self._at_store[peer.tenant] += 1
        answered = partial(self._answered, peer.tenant, done)
        self._store.put(StoreJob(run, answered, partial(self._failed, peer, question)))

    def _is_slowed(self, peer: Peer, question: Question) -> bool:
        """Is it to be asked again later, for too much of its tenant waits for the store already?"""
        later_ms = self._slow_down_ms(peer.tenant)
        if later_ms:
            text = f"{MAX_AT_STORE} requests of the tenant wait for the store"
            self._outbox.refuse_request(peer, question.request, "slow_down", text, later_ms)
        return later_ms > 0

    def _slow_down_ms(self, tenant: str) -> int:
        """When to try again; 0 if the store may be asked now."""
        if self._at_store[tenant] < MAX_AT_STORE:
            return 0
        later_ms = min(SLOW_DOWN_MS * (1 + self._slowed[tenant] // MAX_AT_STORE), MOST_SLOW_DOWN_MS)
        self._slowed[tenant] += 1
        return later_ms

    def _answered(self, tenant: str, done: Callable[[Answer, float], None], answer: Answer, now_s: float) -> None:
        self._came_back(tenant)
        done(answer, now_s)

    def _came_back(self, tenant: str) -> None:
        self._at_store[tenant] -= 1
        if not self._at_store[tenant]:
            del self._at_store[tenant]
            self._slowed.pop(tenant, None)

    def _failed(self, peer: Peer, question: Question, error: StoreError | RecordError, now_s: float) -> None:
        self._came_back(peer.tenant)
        self._outbox.refuse_request(peer, question.request, "unavailable", str(error), RETRY_MS)


def _load(key: SessionKey, store: Store) -> dict[SessionKey, SessionRecord]:
    return store.load([key])


def _scan(tenant: str, after: str, limit: int, store: Store) -> list[str]:
    return store.scan(tenant, after, limit)


def _history(key: SessionKey, from_s: float, to_s: float, limit: int, store: Store) -> list[HistoryRow]:
    return store.history(key, from_s, to_s, limit)


def _delete(epochs: dict[int, int], key: SessionKey, store: Store) -> bool:
    return store.delete(epochs, key)
