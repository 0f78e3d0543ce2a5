"""What the engine has achieved, told to those it concerns: acknowledgements, failures, updates."""

from __future__ import annotations

from collections.abc import Iterable

from runtime import messages as m
from runtime.dispatch.outbox import Outbox
from runtime.dispatch.peers import Peer, Peers
from runtime.dispatch.questions import Questions
from runtime.engine.engine import Engine
from runtime.engine.order import Entry
from runtime.engine.outcomes import Failure
from runtime.engine.session import Session, StreamState
from runtime.engine.view import StateView
from runtime.keys import SessionKey
from runtime.messages import UpdateRow
from runtime.named_tuples import tuple_of
from runtime.state_maps import StateMap


class Teller:
    def __init__(self, engine: Engine, peers: Peers, questions: Questions, outbox: Outbox) -> None:
        self._engine = engine
        self._peers = peers
        self._questions = questions
        self._outbox = outbox
        self._view = StateView(engine.signature)

    def tell_progress(self, wall_offset_s: float) -> None:
        """Tell all there is to tell. `wall_offset_s` added to the engine's time gives the wall clock."""
        progress = self._engine.take_progress()
        for key, entry in progress.accepted:
            self._tell_taps(key, entry, wall_offset_s)
        for failure in progress.failures:
            self._tell_failure(failure)
        acks: dict[bytes, list[m.StreamAck]] = {}
        for key, streams in progress.streams.items():
            session = self._engine.sessions.get(key)
            if session is not None:
                self._collect_acks(session, streams, acks)
        for key, streams in progress.held_back.items():
            session = self._engine.sessions.get(key)
            if session is not None:
                told = progress.streams.get(key, {})
                self._collect_held_back(session, [name for name in streams if name not in told], acks)
        for identity, rows in acks.items():
            self._outbox.send(identity, m.Ack(tuple(rows)))
        for key in progress.deleted:
            self._offer(self._peers.subscribers(key), key, self._view.deleted(key.session), correction=False)
        for key, correction in progress.states.items():
            self._tell_state(key, correction)

    def _collect_acks(self, session: Session, streams: dict[str, None], acks: dict[bytes, list[m.StreamAck]]) -> None:
        is_held_back = session.lacks_rows or self._engine.policy.order.mode == "hold"
        version = session.live_version
        for name in streams:
            stream = session.streams[name]
            peer = self._told_owner(stream)
            if peer is not None:
                fused = stream.told_fused = stream.fused.upto
                durable = stream.told_durable = stream.durable
                stream.told_version = version
                taken = stream.received.upto if is_held_back else fused
                rows = acks.get(peer.identity)
                if rows is None:
                    rows = acks[peer.identity] = []
                rows.append(tuple_of(m.StreamAck, (session.key.session, name, fused, durable, version, taken)))

    def _told_owner(self, stream: StreamState) -> Peer | None:
        """Who has the stream, once it was told `opened`, and before that what was refused: else it would take that for
        durable."""
        return self._peers.owner(stream.owner) if stream.stored == "yes" else None

    def _collect_held_back(
        self, session: Session, streams: Iterable[str], acks: dict[bytes, list[m.StreamAck]]
    ) -> None:
        """Nothing is fused, but room in the window: what is held back waits for segments that could not come else."""
        for name in streams:
            stream = session.streams[name]
            peer = self._told_owner(stream)
            if peer is not None:
                acks.setdefault(peer.identity, []).append(_ack(session, name, stream.received.upto))

    def _tell_taps(self, key: SessionKey, entry: Entry, wall_offset_s: float) -> None:
        for peer in self._peers.taps():
            if peer.tenant != key.tenant:
                continue
            if peer.tap_credit <= 0:
                peer.tap_missed += 1
                continue
            peer.tap_credit -= 1
            missed, peer.tap_missed = peer.tap_missed, 0
            modality = self._engine.signature.modalities[entry.key.rank].name
            event_time_s, _, stream, sequence = entry.key
            arrival_s = entry.arrived_s + wall_offset_s
            tapped = m.Tapped(key.session, stream, modality, sequence, event_time_s, arrival_s, missed, entry.frames)
            self._outbox.send(peer.identity, tapped)

    def _tell_failure(self, failure: Failure) -> None:
        session = self._engine.sessions.get(failure.key)
        peer = self._peers.owner(session.streams[failure.stream].owner) if session else None
        if peer is not None:
            self._outbox.refuse_segment(
                peer, failure.key.session, failure.stream, failure.sequence, "step_failed", failure.text
            )

    def _tell_state(self, key: SessionKey, correction: bool) -> None:
        session = self._engine.sessions.get(key)
        if session is None:
            return
        self._questions.state_changed(session)
        subscribers = self._peers.subscribers(key)
        if subscribers:
            self._offer(subscribers, key, self._view.row(self._engine.slab, session, correction), correction)

    def _offer(self, subscribers: list[Peer], key: SessionKey, row: UpdateRow, correction: bool) -> None:
        state: StateMap | None = None
        for peer in subscribers:
            if peer.in_rows:
                update = peer.offer(key.session, row, correction)
            else:
                state = state or self._view.of_row(key.tenant, row)
                update = peer.offer(key.session, state, correction)
            if update is not None:
                self._outbox.update(peer.identity, update)


def _ack(session: Session, name: str, taken: int) -> m.StreamAck:
    stream = session.streams[name]
    return m.StreamAck(session.key.session, name, stream.told_fused, stream.told_durable, stream.told_version, taken)
