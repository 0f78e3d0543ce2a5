"""The connections of a worker: who they are, what they subscribe to, and how many updates they can take.

A subscriber grants credit. While it has none, the newest state of each session waits for it and what was skipped
is counted: a slow subscriber sees the newest state and knows what it missed; nothing grows without bound.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any, NamedTuple

from runtime.keys import SessionKey
from runtime.messages import Update, UpdateRow
from runtime.named_tuples import tuple_of

MAX_CREDIT = 100_000
MAX_WAITING_SESSIONS = 1024
"""per peer: sessions whose newest state waits for credit"""
MAX_SUBSCRIPTIONS = 10_000
"""per peer"""
EVERY_SESSION = ""


Change = dict[str, Any] | UpdateRow
"""a session's new state, as the peer wants it"""


class Waiting(NamedTuple):
    change: Change
    correction: bool
    skipped: int


class Peer:
    __slots__ = (
        "client",
        "credit",
        "identity",
        "in_rows",
        "joined",
        "last_heard_s",
        "missed",
        "owner",
        "subscriptions",
        "tap_credit",
        "tap_missed",
        "tenant",
        "token",
        "waiting",
    )

    def __init__(self, identity: bytes, client: str, tenant: str, now_s: float, joined: int, token: str = "") -> None:
        self.identity = identity
        self.owner = identity.hex()
        """the name under which this connection owns streams"""
        self.joined = joined
        """counts up: which of two connections is the newer"""
        self.client = client
        self.tenant = tenant
        self.token = token
        self.last_heard_s = now_s
        self.subscriptions: set[str] = set()
        self.in_rows = False
        """it takes updates as rows of Updates"""
        self.credit = 0
        self.tap_credit = 0
        self.tap_missed = 0
        """accepted segments that a tap had no credit for, told with the next one"""
        self.waiting: OrderedDict[str, Waiting] = OrderedDict()
        self.missed = 0
        """updates of sessions that were given up altogether; told with the next update of any session"""

    def offer(self, session: str, change: Change, correction: bool) -> Update | UpdateRow | None:
        """The update to send now; None keeps it until there is credit."""
        if self.credit > 0 and session not in self.waiting:
            self.credit -= 1
            return self._update(change, correction, 0)
        earlier = self.waiting.get(session)  # which keeps its place: the longest waiting goes first
        skipped = earlier.skipped + 1 if earlier else 0
        if isinstance(change, UpdateRow):  # its numbers change with the next step
            change = change._replace(live=change.live.copy(), settled=change.settled.copy())
        self.waiting[session] = Waiting(change, correction or (earlier is not None and earlier.correction), skipped)
        if len(self.waiting) > MAX_WAITING_SESSIONS:
            _, given_up = self.waiting.popitem(last=False)
            self.missed += given_up.skipped + 1
        return None

    def grant(self, updates: int) -> list[Update | UpdateRow]:
        """More credit; the updates that waited for it."""
        self.credit = min(self.credit + max(updates, 0), MAX_CREDIT)
        released = []
        while self.credit > 0 and self.waiting:
            _, waiting = self.waiting.popitem(last=False)
            self.credit -= 1
            released.append(self._update(waiting.change, waiting.correction, waiting.skipped))
        return released

    def forget_unasked(self, ended: str) -> None:
        """What waits for a subscription that has ended is nothing that the next one has missed. Of one session that is
        no look at all that wait: thousands may end together, with their connection."""
        if EVERY_SESSION in self.subscriptions:
            return
        for session in list(self.waiting) if ended == EVERY_SESSION else [ended]:
            if session not in self.subscriptions:
                self.waiting.pop(session, None)
        if not self.subscriptions:
            self.missed = 0

    def _update(self, change: Change, correction: bool, skipped: int) -> Update | UpdateRow:
        missed = skipped + self._take_missed()
        if not isinstance(change, UpdateRow):
            return Update(change, correction, missed)
        if missed or correction != change.correction:
            return change._replace(correction=correction, missed=missed)
        return change

    def _take_missed(self) -> int:
        missed, self.missed = self.missed, 0
        return missed


class Peers:
    def __init__(self) -> None:
        self._peers: OrderedDict[bytes, Peer] = OrderedDict()
        """longest silent first"""
        self._by_owner: dict[str, Peer] = {}
        self._by_session: dict[SessionKey, dict[bytes, Peer]] = {}
        self._taps: dict[bytes, Peer] = {}
        self.joined = 0
        """how many connections there have been"""
        self._by_tenant: Counter[str] = Counter()

    @property
    def tenants(self) -> int:
        """How many tenants have connections."""
        return len(self._by_tenant)

    def __len__(self) -> int:
        return len(self._peers)

    def welcome(self, identity: bytes, client: str, tenant: str, now_s: float, token: str = "") -> Peer:
        self.drop(identity)
        peer = self._peers[identity] = Peer(identity, client, tenant, now_s, self.joined, token)
        self.joined += 1
        self._by_owner[peer.owner] = peer
        self._by_tenant[tenant] += 1
        return peer

    def heard(self, identity: bytes, now_s: float) -> Peer | None:
        """The peer behind an identity, which has just spoken; None if it never said hello."""
        peer = self._peers.get(identity)
        if peer is not None:
            peer.last_heard_s = now_s
            self._peers.move_to_end(identity)
        return peer

    def knows(self, peer: Peer) -> bool:
        """Is it still connected, and has not said hello again since?"""
        return self._peers.get(peer.identity) is peer

    def owner(self, owner: str | None) -> Peer | None:
        return self._by_owner.get(owner) if owner else None

    def drop(self, identity: bytes) -> Peer | None:
        """Forget a peer; return it, if there was one."""
        peer = self._peers.pop(identity, None)
        self._taps.pop(identity, None)
        if peer is not None:
            del self._by_owner[peer.owner]
            self._by_tenant[peer.tenant] -= 1
            self._by_tenant += Counter()  # without the tenants that have none left
            for session in list(peer.subscriptions):
                self.unsubscribe(peer, session)
        return peer

    def drop_silent(self, since_s: float) -> list[Peer]:
        """Forget peers not heard of since then; return them."""
        dropped = []
        while self._peers and (peer := next(iter(self._peers.values()))).last_heard_s < since_s:
            self.drop(peer.identity)
            dropped.append(peer)
        return dropped

    def subscribe(self, peer: Peer, session: str, *, in_rows: bool = False) -> None:
        peer.subscriptions.add(session)
        peer.in_rows = peer.in_rows or in_rows
        self._by_session.setdefault(SessionKey(peer.tenant, session), {})[peer.identity] = peer

    def unsubscribe(self, peer: Peer, session: str) -> None:
        peer.subscriptions.discard(session)
        peer.forget_unasked(session)
        key = SessionKey(peer.tenant, session)
        subscribers = self._by_session.get(key, {})
        subscribers.pop(peer.identity, None)
        if not subscribers:
            self._by_session.pop(key, None)

    def tap(self, peer: Peer, credit: int) -> None:
        """Let a peer record what its tenant's sessions accept; more credit if it does already."""
        self._taps[peer.identity] = peer
        peer.tap_credit = min(peer.tap_credit + max(credit, 0), MAX_CREDIT)

    def all(self) -> list[Peer]:
        return list(self._peers.values())

    def taps(self) -> list[Peer]:
        return list(self._taps.values())

    def subscribers(self, key: SessionKey) -> list[Peer]:
        """Each peer once that subscribes to this session, or to every session of its tenant."""
        if not self._by_session:
            return []
        one = self._by_session.get(key)
        every = self._by_session.get(tuple_of(SessionKey, (key.tenant, EVERY_SESSION)))
        if one is None or every is None:
            return list((one or every or {}).values())
        return list({**one, **every}.values())
