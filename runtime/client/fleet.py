"""One client, several workers: a connection (a *lane*) for each, and the table that says which session goes where.

The home lane is the connection that the user's address leads to. Others are opened when the table names workers that
this client has something to do with, and one more to hear news while home alone is used. No socket, thread or clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from typing import Any, Generic, Protocol, TypeVar

from runtime import messages as m
from runtime.client.errors import Refused, RequestTimeout
from runtime.client.link import Core
from runtime.keys import SessionKey, key_group

log = logging.getLogger(__name__)

FIRST_PATIENCE_S = 0.2
"""a connection of home that breaks is kept for so long at least: a worker that is not there yet, and gateways, would be
asked without pause"""
MOST_PATIENCE_S = 1.0
"""it doubles with every connection in a row that was not welcomed; less than a session waits for silent streams, for
those that have lost the same worker should find the next one close enough together"""
STALE_AFTER_S = 1.0
"""of being told `not_owner` although the table was followed: the table is asked for again"""
ABSENCE_S = 5.0
"""without a worker, after which the log tells: a worker that is replaced is back sooner"""
HOME = ""
"""the name of the home lane; the others are named by their endpoints"""


LaneT = TypeVar("LaneT", bound=Core)
Connections = Mapping[str, tuple[LaneT, Any]]
"""of a driver: by name the lane and its socket"""


class Fleet(Generic[LaneT]):
    def __init__(self, make_lane: Callable[[], LaneT]) -> None:
        self.home = make_lane()
        self._make_lane = make_lane
        self._home_endpoint = ""
        self._not_located = ""
        """why nobody could name a worker when one was last asked for; empty if somebody did"""
        self._lanes: dict[str, LaneT] = {}
        self._version = -1
        self._older: m.Routes | None = None
        """the last table, if its version is below that of the one that is followed: late, or of a store put in place of
        another, whose epochs begin anew"""
        self._endpoint_of: dict[int, str] = {}
        self._endpoints: list[str] = []
        """of all workers, those that stand by included"""
        self._tenant = ""
        self._strange_since_s = inf
        """when `not_owner` was first met since a table last came"""
        self._untried: list[str] = []
        self._home_since_s = -inf
        self._give_home_up_at_s = inf
        self._patience_s = FIRST_PATIENCE_S
        self._absent_since_s = inf
        self._is_absence_told = False

    # ---- who goes where ----

    def lane_of(self, session: str) -> LaneT:
        """The lane of a session's worker, opened if need be."""
        try:
            endpoint = self._endpoint_of.get(key_group(SessionKey(self._tenant, session)))
        except UnicodeEncodeError:  # no id of a session: home says so, as of any other fault
            return self.home
        if endpoint is None or endpoint == self._home_endpoint:
            return self.home
        return self._open(endpoint)

    def serving_lanes(self) -> list[LaneT]:
        """A lane for every worker that serves, opened if need be; home alone while no table is known."""
        serving = dict.fromkeys(self._endpoint_of.values())
        lanes = [self.home if endpoint == self._home_endpoint else self._open(endpoint) for endpoint in serving]
        return lanes or [self.home]

    def reroute(self) -> None:
        """The table, or home, has changed: bring everything to where it belongs. For the kinds of clients."""

    def is_used(self, lane: LaneT) -> bool:
        """Has this lane anything to do? For the kinds of clients."""
        raise NotImplementedError

    def _open(self, endpoint: str) -> LaneT:
        if endpoint not in self._lanes:
            self._lanes[endpoint] = self._make_lane()
        return self._lanes[endpoint]

    # ---- the driver's side ----

    @property
    def lanes(self) -> dict[str, LaneT]:
        """All connections that should be, by name: HOME, or the endpoint."""
        return {HOME: self.home, **self._lanes}

    @property
    def welcome(self) -> m.Welcome | None:
        return self.home.link.welcome

    @property
    def refusal(self) -> m.Nack | None:
        return self.home.link.refusal

    @property
    def is_connected(self) -> bool:
        """A worker has welcomed this client and answers."""
        return self.home.link.is_welcome

    @property
    def is_done(self) -> bool:
        """Nothing would be lost if the client was closed now. For the kinds of clients."""
        return True

    @property
    def is_answered(self) -> bool:
        """A worker has said whether it welcomes this client."""
        return self.welcome is not None or self.refusal is not None

    def timed_out(self, text: str) -> RequestTimeout:
        """The error for what has not come in time. It tells why, if no worker is there to answer."""
        return RequestTimeout(text if self.is_connected else f"{text}: {self._absence}")

    @property
    def _absence(self) -> str:
        return self._not_located or f"no worker answers at {self._home_endpoint or 'the address given'}"

    def raise_refusal(self) -> None:
        """Raises Refused if no worker welcomes this client: a bad token, for example."""
        if self.refusal is not None:
            raise Refused(self.refusal.code, self.refusal.text)

    def unwanted(self, connections: Connections[LaneT]) -> list[str]:
        """Names of connections to close: lost, or of a lane that is not wanted any more."""
        lanes = self.lanes
        return [name for name, (lane, _) in connections.items() if lanes.get(name) is not lane or lane.link.is_lost]

    def missing(self, connections: Connections[LaneT]) -> list[tuple[str, LaneT]]:
        """Lanes to open a connection for, with their names."""
        return [(name, lane) for name, lane in self.lanes.items() if name not in connections]

    def connected(self, name: str, lane: LaneT, endpoint: str, now_s: float) -> None:
        """A new connection of this lane is open."""
        lane.connected(now_s)
        if name == HOME:
            self._home_since_s = now_s
            self._give_home_up_at_s = inf
            self.located(endpoint)

    def broken(self, now_s: float) -> None:
        """The connection of home broke or was refused. ZeroMQ goes on trying the same worker, but it may have died."""
        self._give_home_up_at_s = min(self._give_home_up_at_s, max(now_s, self._home_since_s + self._patience_s))

    def next_home(self) -> str | None:
        """Where to connect home to, if the table knows a worker that was not tried since it was lost; else ask."""
        while self._untried:
            endpoint = self._untried.pop()
            if endpoint != self._home_endpoint:
                return endpoint
        return None

    def not_located(self, why: str) -> None:
        """Whoever was asked where to connect home to could not tell."""
        self._not_located = why

    def located(self, endpoint: str) -> None:
        """Home leads to this worker from now on."""
        self._home_endpoint, self._not_located = endpoint, ""
        self._settle()

    def receive(self, lane: LaneT, message: m.Message, now_s: float) -> None:
        lane.receive(message, now_s)
        match message:
            case m.Welcome():
                self._tenant = message.tenant
                if lane is self.home:
                    self._patience_s, self._give_home_up_at_s = FIRST_PATIENCE_S, inf
                    self._untried = [endpoint for endpoint in self._endpoints if endpoint != self._home_endpoint]
            case m.Routes():
                self._follow(message)
            case m.Nack("not_owner"):
                self._strange_since_s = min(self._strange_since_s, now_s)

    def tick(self, now_s: float) -> None:
        for lane in self.lanes.values():
            lane.tick(now_s)
        if self._older is not None and [lane for lane in self._lanes.values() if lane.link.is_lost]:
            self._strange_since_s = min(self._strange_since_s, now_s)
        if now_s - self._strange_since_s > STALE_AFTER_S:
            self._strange_since_s = inf
            if self._older is not None:
                self._version = self._older.version
                self._follow(self._older)
            else:
                self.home.link.lose()
        if now_s >= self._give_home_up_at_s:
            self._give_home_up_at_s = inf
            self._patience_s = min(2 * self._patience_s, MOST_PATIENCE_S)
            self.home.link.lose()
        self._tell_of_absence(now_s)

    def _tell_of_absence(self, now_s: float) -> None:
        """Once when it has lasted, once when it is over: a program that only publishes, or follows, would not know."""
        if self.is_connected or self.refusal is not None:
            if self._is_absence_told:
                log.warning("the runtime answers again, after %.0f s", now_s - self._absent_since_s)
            self._absent_since_s, self._is_absence_told = inf, False
            return
        self._absent_since_s = min(self._absent_since_s, now_s)
        if now_s - self._absent_since_s >= ABSENCE_S and not self._is_absence_told:
            self._is_absence_told = True
            absent_s = now_s - self._absent_since_s
            log.warning("no runtime answers for %.0f s; it is tried on: %s", absent_s, self._absence)

    @property
    def wake_at_s(self) -> float:
        return min(self._give_home_up_at_s, *[lane.wake_at_s for lane in self.lanes.values()])

    def _follow(self, routes: m.Routes) -> None:
        if routes.version < self._version:
            self._older = routes
            return
        self._older = None
        self._strange_since_s = inf  # who did not know yet that a group is its own knows it by now, or says so again
        self._version = routes.version
        self._endpoints = [str(worker.get("endpoint")) for worker in routes.workers]
        for worker in routes.workers:
            for group in worker.get("groups", ()):
                self._endpoint_of[group] = str(worker.get("endpoint"))
        self._untried = [endpoint for endpoint in self._endpoints if endpoint != self._home_endpoint]
        if self._endpoints and self._home_endpoint not in self._endpoints:
            self.home.link.lose()  # it has left
        self._settle()

    def _settle(self) -> None:
        self.reroute()
        kept = {endpoint for endpoint, lane in self._lanes.items() if self.is_used(lane)} - {self._home_endpoint}
        elsewhere = [endpoint for endpoint in self._endpoints if endpoint != self._home_endpoint]
        if elsewhere and not kept:
            idle = [endpoint for endpoint in elsewhere if endpoint not in self._endpoint_of.values()]
            kept = {next(endpoint for endpoint in (*self._lanes.keys() & {*elsewhere}, *idle, *elsewhere))}
            self._open(*kept)
        self._lanes = {endpoint: lane for endpoint, lane in self._lanes.items() if endpoint in kept}


class StreamLane(Core, Protocol):
    @property
    def sessions(self) -> set[str]: ...

    def release(self, sessions: Collection[str]) -> Sequence[Any]:
        """Let go of the streams of these sessions; each knows its `session`."""

    def adopt(self, stream: Any, /) -> None:
        """Go on with a stream that another lane has let go of."""


StreamLaneT = TypeVar("StreamLaneT", bound=StreamLane)


class StreamFleet(Fleet[StreamLaneT]):
    """Of lanes that keep streams: each goes over the lane of its session, and moves when the session does."""

    def is_used(self, lane: StreamLaneT) -> bool:
        return bool(lane.sessions)

    def reroute(self) -> None:
        for lane in list(self.lanes.values()):
            strangers = {session for session in lane.sessions if self.lane_of(session) is not lane}
            for stream in lane.release(strangers) if strangers else ():
                self.lane_of(stream.session).adopt(stream)
