"""Streams and their segments: open, take, end."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from runtime import messages as m
from runtime.dispatch.group_load import GroupLoad
from runtime.dispatch.loading import SessionLoader, Visit
from runtime.dispatch.outbox import Outbox
from runtime.dispatch.ownership import OwnedGroups
from runtime.dispatch.peers import Peer, Peers
from runtime.engine.engine import Engine
from runtime.engine.outcomes import ACCEPTED, DUPLICATE
from runtime.engine.session import Session, StreamState
from runtime.keys import InvalidId, SessionKey, check_id, key_group
from runtime.nack_codes import Code, RetryCode
from runtime.named_tuples import tuple_of
from runtime.wire import MAX_SEQUENCE

MAX_STREAMS = 1024
"""of one session"""
WAITING_OVERHEAD_BYTES = 256
"""what a segment costs beside its frames while it waits for its session"""
MAX_NUMBERING = 1 << 62
"""that a client may name: those that follow fit into a record"""
MAX_OPENING = 10_000
"""streams that wait for the store before they are opened"""


class _Opening(NamedTuple):
    peer: Peer
    message: m.Open
    key: SessionKey
    numbering: int

    @property
    def name(self) -> tuple[bytes, SessionKey, str]:
        return self.peer.identity, self.key, self.message.stream


class Publishing:
    def __init__(
        self,
        engine: Engine,
        loader: SessionLoader,
        owned: OwnedGroups,
        peers: Peers,
        outbox: Outbox,
        group_load: GroupLoad,
    ) -> None:
        self._engine = engine
        self._loader = loader
        self._owned = owned
        self._peers = peers
        self._outbox = outbox
        self._group_load = group_load
        self._opening: dict[tuple[bytes, SessionKey, str], _Opening] = {}
        """opened, and not told before the store knows: only then will they be waited for after a crash"""

    # ---- open ----

    def open(self, peer: Peer, message: m.Open, now_s: float) -> None:
        refuse = partial(self._outbox.refuse_segment, peer, message.session, message.stream, message.base)
        try:
            check_id("session", message.session)
            check_id("stream", message.stream)
        except InvalidId as error:
            refuse("bad_id", str(error))
            return
        if not 0 < message.base <= MAX_SEQUENCE:
            refuse("malformed", f"open: base {message.base} is outside 1 .. 2**62")
            return
        if not 0 <= message.known_numbering <= MAX_NUMBERING:
            refuse("malformed", f"open: known_numbering {message.known_numbering} is outside 0 .. 2**62")
            return
        if len(self._opening) >= MAX_OPENING:
            refuse("slow_down", f"{MAX_OPENING} streams wait to be stored", 200)
            return
        if message.modality not in {modality.name for modality in self._engine.signature.modalities}:
            known = ", ".join(modality.name for modality in self._engine.signature.modalities)
            refuse("unknown_modality", f"unknown modality {message.modality[:80]!r}; the model has {known}")
            return
        run = partial(self._open, peer, message, now_s)
        self._loader.visit(SessionKey(peer.tenant, message.session), Visit(run, refuse, creates=not message.known_born))

    def _open(self, peer: Peer, message: m.Open, now_s: float, session: Session | None) -> None:
        refuse = partial(self._outbox.refuse_segment, peer, message.session, message.stream, message.base)
        if session is None or message.known_born not in (0, session.born):  # its base is a number of the one before
            refuse("not_found", "the session was deleted since the stream was opened")
            return
        known = session.streams.get(message.stream)
        if known is not None and self._is_superseded(peer, known):
            refuse("stream_taken", "a newer connection of this client has opened the stream")
            return
        if known is not None and _is_numbered_by_another(message, known):
            refuse("stream_taken", "another publisher has numbered its segments since")
            return
        was_reset = message.known_durable > (known.durable if known else 0)
        if known is None and len(session.streams) >= MAX_STREAMS:
            refuse("too_large", f"the session has {MAX_STREAMS} streams")
            return
        numbering = self._numbering(peer, message, session)
        try:
            previous = self._engine.open_stream(
                session, message.stream, message.modality, message.base, peer.owner, numbering, now_s
            )
        except ValueError as error:  # the stream is known with another modality
            refuse("unknown_modality", str(error))
            return
        self._tell_loser(previous, peer, message)
        if session.reset_reason or was_reset:
            refuse("session_reset", session.reset_reason or "the session was deleted, or its store was replaced")
        self._keep_opening(_Opening(peer, message, session.key, numbering))

    def _numbering(self, peer: Peer, message: m.Open, session: Session) -> int:
        """Its own, if it has one, for it may not have heard of another: that is not below the stream's."""
        if message.known_numbering > 0:
            return message.known_numbering
        mark = self._owned.next_mark(session.key)
        stream = session.streams.get(message.stream)
        if stream is None:
            return mark
        owner = self._peers.owner(stream.owner)
        if stream.numbering and owner is not None and owner.client == peer.client:
            return stream.numbering
        return max(mark, stream.numbering + 1)  # which may be of another store, with higher epochs

    def _is_superseded(self, peer: Peer, stream: StreamState) -> bool:
        """Has the client opened the stream on a newer connection? What it sent on the old one may come after that."""
        owner = self._peers.owner(stream.owner)
        return owner is not None and owner.client == peer.client and owner.joined > peer.joined

    def tell_opened(self, now_s: float) -> None:
        """Answer those whose stream the store knows by now; wait for all of them, however long that takes."""
        opening, self._opening = self._opening, {}
        for one in opening.values():
            session = self._engine.sessions.get(one.key)
            stream = session.streams.get(one.message.stream) if session else None
            if session is None or stream is None:
                text = "the session has left this worker"
                self._outbox.refuse_segment(one.peer, one.message.session, one.message.stream, 0, "not_open", text)
                continue
            self._engine.wait_for_opening(session, one.message.stream, now_s)
            if stream.stored == "yes":
                self._tell_opened(one, session, stream)
                if stream.owner != one.peer.owner:  # said before, when it could have been late news
                    refuse = partial(self._outbox.refuse_segment, one.peer, one.message.session, one.message.stream)
                    refuse(0, "stream_taken", "another client has opened this stream meanwhile")
            else:
                self._keep_opening(one)

    def _keep_opening(self, one: _Opening) -> None:
        """Of a stream that a connection opens again and again, while the store does not answer, the last one counts."""
        self._opening[one.name] = one

    def _tell_opened(self, one: _Opening, session: Session, stream: StreamState) -> None:
        """Its own numbering, for by now another publisher may have the stream: with that one's it would count as it."""
        peer, message = one.peer, one.message
        for sequence, code in sorted(stream.refused.items()):
            text = "it was refused before"
            self._outbox.refuse_segment(peer, message.session, message.stream, sequence, code, text)
        last = max(stream.received.highest, message.base - 1)
        stream.told_durable = stream.durable
        marks = session.live_version, session.born, one.numbering
        self._outbox.send(peer.identity, m.Opened(message.session, message.stream, stream.durable, last, *marks))

    def _tell_loser(self, previous: str, peer: Peer, message: m.Open) -> None:
        loser = self._peers.owner(previous)
        if loser is not None and loser.client != peer.client:
            text = f"client {peer.client!r} has opened this stream"
            self._outbox.refuse_segment(loser, message.session, message.stream, 0, "stream_taken", text)

    # ---- leave ----

    def forget(self, session: Session, code: RetryCode, text: str) -> None:
        """The session leaves this worker, with all that was not called durable: its publishers send that again."""
        for name, stream in session.streams.items():
            peer = self._peers.owner(stream.owner)
            if peer is not None and stream.received.highest > stream.told_durable:
                first = stream.told_durable + 1
                self._outbox.refuse_segment(peer, session.key.session, name, first, code, text, retry_after_ms=100)
        self._engine.forget(session.key)

    def forget_deleted(self, key: SessionKey) -> None:
        """The session is deleted: who has a stream of it open has to open it again, whoever begins it anew."""
        session = self._engine.sessions.get(key)
        if session is not None:
            self.forget(session, "not_open", "the session was deleted")

    # ---- end ----

    def end(self, peer: Peer, message: m.End, now_s: float) -> None:
        refuse = partial(self._outbox.refuse_segment, peer, message.session, message.stream, 0)
        run = partial(self._end, peer, message, now_s)
        self._loader.visit(SessionKey(peer.tenant, message.session), Visit(run, refuse))

    def _end(self, peer: Peer, message: m.End, now_s: float, session: Session | None) -> None:
        stream = session.streams.get(message.stream) if session else None
        if session is None or stream is None or stream.owner != peer.owner:
            return
        if stream.received.upto >= message.upto:
            self._engine.end_stream(session, message.stream, now_s)

    # ---- segments ----

    def put_off(self, peer: Peer, message: m.Segments) -> None:
        """Too much of this connection waits already: the publisher is to send these again later."""
        text = "more was sent than the window allows"
        for group in message.groups:
            first = group.entries[0].sequence
            self._outbox.refuse_segment(peer, group.session, group.stream, first, "slow_down", text, 100)

    def take(self, peer: Peer, message: m.Segments, now_s: float, wall_s: float, heard_s: float) -> None:
        for group in message.groups:
            key = tuple_of(SessionKey, (peer.tenant, group.session))
            session = self._loader.resident(key)
            self._group_load.count(session.group if session else key_group(key), len(group.entries))
            if session is not None:
                self._take_group(peer, group, now_s, wall_s, heard_s, session)
                continue
            refuse = partial(self._outbox.refuse_segment, peer, group.session, group.stream, group.entries[0].sequence)
            run = partial(self._take_group, peer, group, now_s, wall_s, heard_s)
            n_bytes = sum(entry.frames.nbytes + WAITING_OVERHEAD_BYTES for entry in group.entries)
            self._loader.visit(key, Visit(run, refuse, n_bytes=n_bytes))

    def _take_group(
        self,
        peer: Peer,
        group: m.StreamSegments,
        now_s: float,
        wall_s: float,
        heard_s: float,
        session: Session | None,
    ) -> None:
        session_id, name, oldest, entries = group
        stream = session.streams.get(name) if session else None
        if session is None or stream is None or stream.owner is None:
            self._refuse_group(peer, group, "not_open", "open the stream first")
            return
        if stream.owner != peer.owner:
            self._refuse_group(peer, group, "stream_taken", "another client has opened this stream")
            return
        self._engine.skip_below(session, name, oldest, now_s)
        verdicts = self._engine.take(session, name, entries, now_s, wall_s, heard_s)
        for place, verdict in enumerate(verdicts):
            if verdict is not ACCEPTED and verdict is not DUPLICATE:
                self._outbox.refuse_segment(peer, session_id, name, entries[place].sequence, *verdict)

    def _refuse_group(self, peer: Peer, group: m.StreamSegments, code: Code, text: str) -> None:
        self._outbox.refuse_segment(peer, group.session, group.stream, group.entries[0].sequence, code, text)


def _is_numbered_by_another(message: m.Open, stream: StreamState) -> bool:
    """Has another publisher numbered segments of the stream since this one did? A higher mark than the stream's was
    given by a store that another, or an older one, has replaced: then its numbers are its own if they are new here."""
    if not message.known_numbering or not stream.numbering:
        return False
    if message.known_numbering > stream.numbering:
        return message.base <= stream.received.highest
    return message.known_numbering < stream.numbering
