"""Who was connected when a session was deleted: what such a connection has open there may be of the session before.

A session of the same name that has begun since and has left memory does not say whose its streams are. A number of the
former one would be taken behind a gap, and wait for numbers that nobody will send.
"""

from __future__ import annotations

from collections import OrderedDict

from runtime.dispatch.peers import Peer, Peers
from runtime.keys import SessionKey

MAX_REMEMBERED = 10_000


class Deletions:
    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._joined_by: OrderedDict[SessionKey, int] = OrderedDict()
        """how many connections there had been when the session was last deleted; longest ago first"""
        self._forgotten_joined_by = 0
        """the same of the last deletion that is not remembered: it may have been of any session"""

    def add(self, key: SessionKey) -> None:
        self._joined_by[key] = self._peers.joined
        self._joined_by.move_to_end(key)
        if len(self._joined_by) > MAX_REMEMBERED:
            _, self._forgotten_joined_by = self._joined_by.popitem(last=False)

    def concern(self, peer: Peer, key: SessionKey) -> bool:
        """May what this connection has open in the session be of one that was deleted?"""
        return peer.joined < self._joined_by.get(key, self._forgotten_joined_by)
