"""What connections have sent and the worker has not looked at yet.

Tenants take fair turns (start-time fair queueing on segments): the tenant of which least was taken goes next, so one
that has been quiet goes before one that has just had its turn, and does not catch up on what it did not send. Within a
tenant its connections take turns; a connection's messages keep their order. A message of many segments is taken a slice
at a time, so a large one keeps nobody waiting longer than many small ones would.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque

from runtime.dispatch.peers import Peer
from runtime.messages import Message, Segments, StreamSegments

SLICE_SEGMENTS = 16
"""of one message, in one turn of its tenant"""
MESSAGE_OVERHEAD_BYTES = 256
"""of a segment beside its frames, and of any other message"""


class _Connection:
    __slots__ = ("messages", "n_bytes", "peer")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.messages: deque[tuple[Message, int, float]] = deque()
        """with their bytes, and when they were heard"""
        self.n_bytes = 0


class Inbox:
    def __init__(self, connection_bytes: int, all_bytes: int) -> None:
        """`connection_bytes` may wait of one connection: a client that keeps to its window never meets it.
        Beyond `all_bytes` the inbox is full, and should be given no more messages for now."""
        self._connection_bytes = connection_bytes
        self._all_bytes = all_bytes
        self._tenants: dict[str, OrderedDict[bytes, _Connection]] = {}
        """their connections with messages, next turn first; a tenant without any is kept until the others have caught
        up with what was taken of it"""
        self._turns: list[tuple[int, int, str]] = []
        """a heap: the segments taken of each of these tenants, counted on from where it joined, and when its last turn
        was: of two that had as much, the one goes first whose turn is longer ago"""
        self._turn = 0
        self._round = 0
        """what had been taken of the tenant whose turn was last: where a tenant joins"""
        self.heard_s = 0.0
        """when the message was heard that was taken last"""
        self._oldest: dict[str, tuple[float, bytes]] = {}
        """of a tenant, when its longest waiting message was heard, and from whom: known until that one has a turn"""
        self._n_connections = 0
        """with messages"""
        self.n_bytes = 0

    def __bool__(self) -> bool:
        return self._n_connections > 0

    @property
    def is_full(self) -> bool:
        return self.n_bytes > self._all_bytes

    def put(self, peer: Peer, message: Message, now_s: float) -> bool:
        """Keep a message that is heard now for its turn; False if more would wait of the connection than may."""
        connections = self._tenants.get(peer.tenant)
        if connections is None:
            connections = self._tenants[peer.tenant] = OrderedDict()
            heapq.heappush(self._turns, (self._round, 0, peer.tenant))
        connection = connections.get(peer.identity)
        size = _bytes_of(message)
        if connection is None:
            connection = connections[peer.identity] = _Connection(peer)
            self._n_connections += 1
        elif connection.n_bytes and connection.n_bytes + size > self._connection_bytes:
            return False
        connection.peer = peer
        connection.messages.append((message, size, now_s))
        connection.n_bytes += size
        self.n_bytes += size
        return True

    def take(self) -> tuple[Peer, Message]:
        """The next message, or slice of one. Ask only while there is one."""
        self._round, _, tenant = self._turns[0]
        while not self._tenants[tenant]:
            del self._tenants[tenant]
            heapq.heappop(self._turns)
            self._round, _, tenant = self._turns[0]
        connections = self._tenants[tenant]
        identity, connection = next(iter(connections.items()))
        message, size, self.heard_s = connection.messages.popleft()
        self._oldest_may_be_gone(tenant, identity)
        if segments_in(message) > SLICE_SEGMENTS:
            assert isinstance(message, Segments)
            message, rest = _cut(message)
            rest_bytes = _bytes_of(rest)
            connection.messages.appendleft((rest, rest_bytes, self.heard_s))
            size -= rest_bytes
        connection.n_bytes -= size
        self.n_bytes -= size
        connections.move_to_end(identity)
        self._turn += 1
        heapq.heapreplace(self._turns, (self._round + max(segments_in(message), 1), self._turn, tenant))
        if not connection.messages:
            self._forget(tenant, identity)
        return connection.peer, message

    def unread_since_s(self) -> dict[str, float]:
        """When the longest waiting message of each tenant was heard, of those that have any."""
        for tenant, connections in self._tenants.items():
            if connections and tenant not in self._oldest:
                self._oldest[tenant] = min([(one.messages[0][2], identity) for identity, one in connections.items()])
        return {tenant: heard_s for tenant, (heard_s, _) in self._oldest.items()}

    def _oldest_may_be_gone(self, tenant: str, identity: bytes) -> None:
        oldest = self._oldest.get(tenant)
        if oldest is not None and oldest[1] == identity:
            del self._oldest[tenant]

    def discard(self, peer: Peer) -> None:
        """The connection is gone, and whatever of it waits."""
        connections = self._tenants.get(peer.tenant)
        connection = connections.get(peer.identity) if connections else None
        if connection is not None:
            self.n_bytes -= connection.n_bytes
            self._oldest_may_be_gone(peer.tenant, peer.identity)
            self._forget(peer.tenant, peer.identity)

    def _forget(self, tenant: str, identity: bytes) -> None:
        del self._tenants[tenant][identity]
        self._n_connections -= 1
        if not self._n_connections:
            self._begin_anew(tenant)

    def _begin_anew(self, last: str) -> None:
        """Everyone has got all that was asked for. Only the tenant that was last still goes behind all others."""
        self._tenants = {last: OrderedDict()}
        self._turns = [(0, self._turn, last)]
        self._round = 0


def segments_in(message: Message) -> int:
    if not isinstance(message, Segments):
        return 0
    n_segments = 0
    for group in message.groups:
        n_segments += len(group.entries)
    return n_segments


def _bytes_of(message: Message) -> int:
    if not isinstance(message, Segments):
        return MESSAGE_OVERHEAD_BYTES
    n_bytes = 0
    for group in message.groups:
        for entry in group.entries:
            n_bytes += entry.frames.nbytes + MESSAGE_OVERHEAD_BYTES
    return n_bytes


def _cut(message: Segments) -> tuple[Segments, Segments]:
    """The first slice of a message of more segments than that, and the rest."""
    head: list[StreamSegments] = []
    room = SLICE_SEGMENTS
    for position, group in enumerate(message.groups):
        if len(group.entries) > room:
            rest = group._replace(entries=group.entries[room:])
            if room:
                head.append(group._replace(entries=group.entries[:room]))
            return Segments(tuple(head)), Segments((rest, *message.groups[position + 1 :]))
        head.append(group)
        room -= len(group.entries)
    raise ValueError(f"a message of at most {SLICE_SEGMENTS} segments is no message to cut")
