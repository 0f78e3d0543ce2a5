"""Questions and subscriptions of a client: asked again after a lost connection. No socket, thread or clock.

Every question may be asked twice without harm: they read, or delete what is to be gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from math import inf

from runtime import messages as m
from runtime.client.errors import ClientError, Refused
from runtime.client.link import Identity, Link
from runtime.keys import check_id
from runtime.nack_codes import RETRY_CODES
from runtime.state_maps import StateMaps
from runtime.wire import decode, encode

Question = m.Query | m.ListSessions | m.QueryHistory | m.Delete
Answer = m.State | m.Sessions | m.History | m.Deleted
CREDIT = 64
"""updates that may be on their way to a subscription"""
TAP_CREDIT = 8192
"""accepted segments that may be on their way to a recorder"""


class Pending:
    """A question that was asked."""

    __slots__ = ("answer", "error", "question", "retry_at_s")

    def __init__(self, question: Question) -> None:
        self.question = question
        self.answer: Answer | None = None
        self.error: ClientError | None = None
        self.retry_at_s = inf

    @property
    def is_done(self) -> bool:
        return self.answer is not None or self.error is not None

    def result(self) -> Answer:
        """The answer, once it is done. Raises what came in its place."""
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


class Subscription:
    """Updates of one session, or of all: at most CREDIT of them wait here, the rest is skipped by the worker."""

    __slots__ = ("session", "updates")

    def __init__(self, session: str) -> None:
        self.session = session
        self.updates: deque[m.Update] = deque()


class StateCore:
    """One connection's questions. A client of several workers has one for each (`state_fleet`)."""

    def __init__(self, identity: Identity, *, is_routed: bool = False, requests: Iterator[int] | None = None) -> None:
        """`is_routed`: others bring what another worker owns to another connection; they share the `requests`."""
        self._is_routed = is_routed
        self.link = Link(identity)
        self._requests = requests or count(1)
        self._pending: dict[int, Pending] = {}
        self._subscriptions: list[Subscription] = []
        self._to_send: deque[m.ClientMessage] = deque()
        self._granted = 0
        """updates that the worker may still send"""
        self._maps: StateMaps | None = None
        """of the model that the worker serves"""
        self._tapped: deque[m.Tapped] | None = None
        """accepted segments not taken yet, once `tap` was called"""

    # ---- the user's side ----

    def ask(self, ask: Callable[[int], Question]) -> Pending:
        """Ask; `ask` builds the question from its request number. The driver answers `Pending` in time.

        Raises ValueError for what no worker could read: its answer would not say which request it is about.
        """
        question = ask(next(self._requests))
        decode(encode(question))
        pending = Pending(question)
        self.adopt(pending)
        return pending

    def adopt(self, pending: Pending) -> None:
        """Ask here what was asked at another connection, or nowhere yet."""
        pending.retry_at_s = inf
        self._pending[pending.question.request] = pending
        if self.link.welcome is not None:
            self._to_send.append(pending.question)
        elif self.link.refusal is not None:
            self._fail_all()

    @property
    def pending(self) -> list[Pending]:
        return list(self._pending.values())

    def give_up(self, pending: Pending) -> None:
        self._pending.pop(pending.question.request, None)

    def subscribe(self, session: str) -> Subscription:
        """Raises InvalidId for a session that cannot be."""
        if session:
            check_id("session", session)
        subscription = Subscription(session)
        self.follow(subscription)
        return subscription

    def follow(self, subscription: Subscription) -> None:
        """Let this connection's updates go to a subscription too."""
        session = subscription.session
        self._subscriptions.append(subscription)
        if self.link.welcome is not None:
            self._to_send.append(self._subscribe(session))

    def follows(self, subscription: Subscription) -> bool:
        return subscription in self._subscriptions

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)
        if not any(other.session == subscription.session for other in self._subscriptions):
            self._to_send.append(m.Unsubscribe(subscription.session))

    def next_update(self, subscription: Subscription) -> m.Update | None:
        """The next update, if one has come; taking it lets the worker send another."""
        if not subscription.updates:
            return None
        update = subscription.updates.popleft()
        self.grant_more()
        return update

    def _subscribe(self, session: str) -> m.Subscribe:
        return m.Subscribe(session, self._grant(), in_rows=self._maps is not None)

    def _grant(self) -> int:
        """How many updates the worker may send in addition: CREDIT for each subscription, less those not read yet."""
        unread = sum(len(subscription.updates) for subscription in self._subscriptions)
        grant = max(0, CREDIT * len(self._subscriptions) - unread - self._granted)
        self._granted += grant
        return grant

    def grant_more(self) -> None:
        grant = self._grant()
        if grant and self.link.welcome is not None:
            self._to_send.append(m.Credit(grant))

    def tap(self) -> None:
        """Receive every segment of the tenant as it is accepted."""
        self._tapped = deque()
        if self.link.welcome is not None:
            self._to_send.append(m.Tap(TAP_CREDIT))

    def take_tapped(self) -> list[m.Tapped]:
        """What has come since this was last called; taking it lets the worker send as much again."""
        taken = list(self._tapped or ())
        if taken and self._tapped is not None:
            self._tapped.clear()
            self._to_send.append(m.Tap(len(taken)))
        return taken

    @property
    def is_tapping(self) -> bool:
        return self._tapped is not None

    @property
    def has_tapped(self) -> bool:
        return bool(self._tapped)

    # ---- the driver's side (runtime.client.link.Core) ----

    def connected(self, now_s: float) -> None:
        self.link.connected(now_s)
        self._to_send.clear()

    def receive(self, message: m.Message, now_s: float) -> None:
        self.link.receive(message, now_s)
        match message:
            case m.Welcome():
                self._granted = 0
                self._maps = _maps(message)
                self._to_send.extend(self._subscribe(one.session) for one in self._subscriptions)
                self._to_send.extend(pending.question for pending in self._pending.values())
                if self._tapped is not None:
                    self._to_send.append(m.Tap(TAP_CREDIT - len(self._tapped)))
            case m.State() | m.Sessions() | m.History() | m.Deleted():
                pending = self._pending.pop(message.request, None)
                if pending is not None:
                    pending.answer = message
            case m.Tapped() if self._tapped is not None:
                self._tapped.append(message)
            case m.Update():
                self._updated(message)
            case m.Updates() if self._maps is not None and self.link.welcome is not None:
                for row in message.rows:
                    state = self._maps.of_row(self.link.welcome.tenant, row)
                    self._updated(m.Update(state, row.correction, row.missed))
            case m.Nack(request=request) if request:
                self._refused(message, now_s)
            case m.Nack() if self.link.refusal is not None:
                self._fail_all()
            case _:
                pass

    def _updated(self, update: m.Update) -> None:
        self._granted -= 1
        takers = [s for s in self._subscriptions if s.session in ("", update.state.get("session"))]
        for subscription in takers:
            subscription.updates.append(update)
            if len(subscription.updates) > CREDIT:  # credit is shared: another subscription was read faster
                oldest, newest = subscription.updates.popleft(), subscription.updates.pop()
                subscription.updates.append(replace(newest, missed=newest.missed + oldest.missed + 1))
        if not takers:  # unsubscribed meanwhile
            self.grant_more()

    def _refused(self, nack: m.Nack, now_s: float) -> None:
        pending = self._pending.get(nack.request)
        if pending is None:
            return
        if nack.code in RETRY_CODES:
            pending.retry_at_s = now_s + max(nack.retry_after_ms, 10) / 1000
            if nack.code == "not_owner" and not self._is_routed:
                self.link.lose()
        else:
            del self._pending[nack.request]
            pending.error = Refused(nack.code, nack.text)

    def _fail_all(self) -> None:
        refusal = self.link.refusal
        assert refusal is not None
        for pending in self._pending.values():
            pending.error = Refused(refusal.code, refusal.text)
        self._pending.clear()

    def outgoing(self, now_s: float) -> m.Message | None:
        message = self.link.outgoing()
        if message is not None or self.link.welcome is None:
            return message
        return self._to_send.popleft() if self._to_send else None

    def tick(self, now_s: float) -> None:
        self.link.tick(now_s)
        for pending in self._pending.values():
            if pending.retry_at_s <= now_s:
                pending.retry_at_s = inf
                self._to_send.append(pending.question)

    @property
    def wake_at_s(self) -> float:
        return min(self.link.wake_at_s, min((pending.retry_at_s for pending in self._pending.values()), default=inf))


def _maps(welcome: m.Welcome) -> StateMaps | None:
    try:
        return StateMaps(welcome.signature)
    except ValueError:  # a worker that describes its model otherwise: it makes the states itself
        return None
