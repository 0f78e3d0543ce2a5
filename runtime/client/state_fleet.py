"""A reader of several workers: each question goes over the lane of its session, what is about all goes to all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from runtime import messages as m
from runtime.client.errors import RequestTimeout
from runtime.client.fleet import Fleet
from runtime.client.link import Identity
from runtime.client.state_core import Pending, Question, StateCore, Subscription
from runtime.keys import check_id
from runtime.wire import decode, encode


class StateFleet(Fleet[StateCore]):
    def __init__(self, identity: Identity) -> None:
        self._requests = count(1)
        self._subscriptions: list[Subscription] = []
        self._taps = False
        super().__init__(lambda: StateCore(identity, is_routed=True, requests=self._requests))

    def ask(self, ask: Callable[[int], Question]) -> Pending:
        """As `StateCore.ask`."""
        question = ask(next(self._requests))
        decode(encode(question))
        pending = Pending(question)
        self._lane_of(question).adopt(pending)
        return pending

    def give_up(self, pending: Pending) -> None:
        for lane in self.lanes.values():
            lane.give_up(pending)

    def subscribe(self, session: str) -> Subscription:
        """Raises InvalidId for a session that cannot be."""
        if session:
            check_id("session", session)
        subscription = Subscription(session)
        self._subscriptions.append(subscription)
        self.reroute()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)
        for lane in self.lanes.values():
            if lane.follows(subscription):
                lane.unsubscribe(subscription)

    def next_update(self, subscription: Subscription) -> m.Update | None:
        """The next update, if one has come; taking it lets the workers send another."""
        if not subscription.updates:
            return None
        update = subscription.updates.popleft()
        for lane in self.lanes.values():
            if lane.follows(subscription):
                lane.grant_more()
        return update

    def tap(self) -> None:
        """Receive every segment of the tenant as it is accepted, wherever that is."""
        self._taps = True
        self.reroute()

    def take_tapped(self) -> list[m.Tapped]:
        return [tapped for lane in self.lanes.values() for tapped in lane.take_tapped()]

    def signature(self) -> dict[str, Any]:
        """The model's, as a worker told it. Raises RequestTimeout before it has."""
        if self.welcome is None:
            raise RequestTimeout("no worker has answered yet")
        return self.welcome.signature

    def tenant(self) -> str:
        """Whose sessions these are, as a worker told it. Raises RequestTimeout before it has."""
        if self.welcome is None:
            raise RequestTimeout("no worker has answered yet")
        return self.welcome.tenant

    @property
    def has_tapped(self) -> bool:
        return any(lane.has_tapped for lane in self.lanes.values())

    def is_used(self, lane: StateCore) -> bool:
        return bool(lane.pending) or lane.is_tapping or any(lane.follows(one) for one in self._subscriptions)

    def reroute(self) -> None:
        for lane in list(self.lanes.values()):
            for pending in lane.pending:
                right = self._lane_of(pending.question)
                if right is not lane:
                    lane.give_up(pending)
                    right.adopt(pending)
        for subscription in self._subscriptions:
            wanted = [self.lane_of(subscription.session)] if subscription.session else self.serving_lanes()
            for lane in list(self.lanes.values()):
                if lane.follows(subscription) and lane not in wanted:
                    lane.unsubscribe(subscription)
                elif lane in wanted and not lane.follows(subscription):
                    lane.follow(subscription)
        if self._taps:
            for lane in self.serving_lanes():
                if not lane.is_tapping:
                    lane.tap()

    def _lane_of(self, question: Question) -> StateCore:
        return self.home if isinstance(question, m.ListSessions) else self.lane_of(question.session)
