"""Streams and their segments: open, take, end."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from runtime import messages as m
from runtime.dispatch.loading import SessionLoader, Visit
from runtime.dispatch.outbox import Outbox
from runtime.dispatch.peers import Peer, Peers
from runtime.engine.engine import ACCEPTED, DUPLICATE, Engine
from runtime.engine.session import Session
from runtime.keys import InvalidId, SessionKey, check_id


class Publishing:
    def __init__(self, engine: Engine, loader: SessionLoader, peers: Peers, outbox: Outbox) -> None:
        self._engine = engine
        self._loader = loader
        self._peers = peers
        self._outbox = outbox

    # ---- open ----

    def open(self, peer: Peer, message: m.Open, now_s: float) -> None:
        refuse = partial(self._outbox.refuse_segment, peer, message.session, message.stream, message.base)
        try:
            check_id("session", message.session)
            check_id("stream", message.stream)
        except InvalidId as error:
            refuse("bad_id", str(error))
            return
        if message.base < 1:
            refuse("malformed", f"open: base {message.base} is less than 1")
            return
        if message.modality not in {modality.name for modality in self._engine.signature.modalities}:
            known = ", ".join(modality.name for modality in self._engine.signature.modalities)
            refuse("unknown_modality", f"unknown modality {message.modality!r}; the model has {known}")
            return
        run = partial(self._open, peer, message, now_s)
        self._loader.visit(SessionKey(peer.tenant, message.session), Visit(run, refuse, creates=True))

    def _open(self, peer: Peer, message: m.Open, now_s: float, session: Session | None) -> None:
        assert session is not None, "an open creates its session"
        refuse = partial(self._outbox.refuse_segment, peer, message.session, message.stream, message.base)
        try:
            previous = self._engine.open_stream(
                session, message.stream, message.modality, message.base, peer.owner, now_s
            )
        except ValueError as error:  # the stream is known with another modality
            refuse("unknown_modality", str(error))
            return
        self._tell_loser(previous, peer, message)
        stream = session.streams[message.stream]
        reset = session.reset_reason
        if message.known_durable > stream.durable:
            reset = reset or "the session was deleted, or its store was replaced"
        if reset:
            refuse("session_reset", reset)
        last = max(stream.received.highest, message.base - 1)
        opened = m.Opened(message.session, message.stream, stream.durable, last, session.live_version)
        self._outbox.send(peer.identity, opened)

    def _tell_loser(self, previous: str, peer: Peer, message: m.Open) -> None:
        loser = self._peers.owner(previous)
        if loser is not None and loser.client != peer.client:
            text = f"client {peer.client!r} has opened this stream"
            self._outbox.refuse_segment(loser, message.session, message.stream, message.base, "stream_taken", text)

    # ---- end ----

    def end(self, peer: Peer, message: m.End, now_s: float) -> None:
        def run(session: Session | None) -> None:
            if session is not None and message.stream in session.streams:
                self._engine.end_stream(session, message.stream, now_s)

        refuse = partial(self._outbox.refuse_segment, peer, message.session, message.stream, 0)
        self._loader.visit(SessionKey(peer.tenant, message.session), Visit(run, refuse))

    # ---- segments ----

    def take(self, peer: Peer, message: m.Segments, now_s: float, wall_s: float) -> None:
        for group in message.groups:
            refuse = partial(self._outbox.refuse_segment, peer, group.session, group.stream, group.entries[0].sequence)
            run = partial(self._take_group, peer, group, now_s, wall_s)
            n_bytes = sum(entry.frames.nbytes for entry in group.entries)
            self._loader.visit(SessionKey(peer.tenant, group.session), Visit(run, refuse, n_bytes=n_bytes))

    def _take_group(
        self, peer: Peer, group: m.StreamSegments, now_s: float, wall_s: float, session: Session | None
    ) -> None:
        refuse = partial(self._outbox.refuse_segment, peer, group.session, group.stream)
        stream = session.streams.get(group.stream) if session else None
        if session is None or stream is None:
            refuse(group.entries[0].sequence, "not_open", "open the stream first")
            return
        stream.owner = stream.owner or peer.owner
        if stream.owner != peer.owner:
            refuse(group.entries[0].sequence, "stream_taken", "another client has opened this stream")
            return
        self._engine.skip_below(session, group.stream, group.oldest, now_s)
        for entry in group.entries:
            if len(group.entries) > 1:  # a slice would keep the whole message in memory
                entry = replace(entry, frames=entry.frames.copy())
            verdict = self._engine.add(session, group.stream, entry, now_s, wall_s)
            if verdict not in (ACCEPTED, DUPLICATE):
                refuse(entry.sequence, verdict.code, verdict.text, verdict.retry_after_ms)
            if verdict.code == "slow_down":  # the publisher sends again from this one on
                return
