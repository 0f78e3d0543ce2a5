"""The worker's decisions in one object: frames in (`receive`), one turn of work (`work`), messages and store jobs out.

Whoever drives it runs the store jobs in order, one after another, and brings back what came of them
(`store.finish`): the worker with a store thread, the simulator with a virtual one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from math import inf

from runtime import messages as m
from runtime.dispatch.group_load import GroupLoad
from runtime.dispatch.handover import Handover
from runtime.dispatch.inbox import Inbox, segments_in
from runtime.dispatch.loading import SessionLoader
from runtime.dispatch.outbox import Outbox
from runtime.dispatch.ownership import OwnedGroups
from runtime.dispatch.pace import Pace
from runtime.dispatch.peers import EVERY_SESSION, MAX_SUBSCRIPTIONS, Peer, Peers
from runtime.dispatch.policy import DispatchPolicy
from runtime.dispatch.publishing import Publishing
from runtime.dispatch.questions import Questions
from runtime.dispatch.saving import Saver, rows_of_turn
from runtime.dispatch.store_jobs import StoreQueue
from runtime.dispatch.telling import Teller
from runtime.engine.engine import Engine
from runtime.engine.view import signature_map
from runtime.keys import InvalidId, check_id, key_group
from runtime.leases import Lease
from runtime.security import Tokens, Unauthorised
from runtime.wire import MAX_MESSAGE_BYTES, DecodeError, Frame, decode

MAX_PEERS = 10_000
PEER_TIMEOUT_S = 30.0
BATCHES_OF_TURN = 4
"""at most, of a tenant that has the worker to itself: one of few sessions may take as long as one of many"""
INBOX_BYTES = 64 << 20
"""of messages that nobody has looked at yet; beyond it the transport slows their senders"""


class Dispatcher:
    def __init__(self, engine: Engine, worker: str, incarnation: str, tokens: Tokens, policy: DispatchPolicy) -> None:
        self.engine = engine
        self.worker = worker
        self.incarnation = incarnation
        self.owned = OwnedGroups(incarnation)
        self.peers = Peers()
        self.outbox = Outbox()
        self.store = StoreQueue(policy.store_retry_s)
        self.saver = Saver(
            engine, self.store, self.owned, incarnation, policy.checkpoint_interval_s, policy.checkpoint_sessions
        )
        self.pace = Pace(policy.turn_s, policy.shared_turn_s, engine.policy.batch.max_segments)
        self._inbox = Inbox(2 * policy.window_bytes, INBOX_BYTES)
        self._policy = policy
        self._wall_offset_s = 0.0
        self._segments_of_turn = 0
        self._waited_s = 0.0
        self.busy_s = 0.0
        """how long all turns took together"""
        self.group_load = GroupLoad()
        self._tokens = tokens
        self._loader = SessionLoader(engine, self.store, self.owned, incarnation)
        self._publishing = Publishing(engine, self._loader, self.owned, self.peers, self.outbox, self.group_load)
        forget_deleted, unsaved_history = self._publishing.forget_deleted, self.saver.unsaved_history
        self._questions = Questions(
            engine, self._loader, self.owned, self.store, self.outbox, forget_deleted, unsaved_history
        )
        self._handover = Handover(engine, self.owned, self._publishing.forget)
        self.lease = Lease()
        self._routes: m.Routes | None = None
        self._teller = Teller(engine, self.peers, self._questions, self.outbox)

    # ---- messages ----

    def receive(self, identity: bytes, frames: Sequence[Frame], now_s: float, wall_s: float) -> None:
        """One message from a connection, whatever it holds. It is looked at when its tenant's turn comes."""
        peer = self.peers.heard(identity, now_s)
        self._wall_offset_s = wall_s - now_s
        try:
            message = decode(frames)
        except DecodeError as error:
            self.outbox.refuse(identity, error.code, str(error))
            return
        match message:
            case m.Hello():
                self._forget_unread(peer)  # it begins anew, maybe as another tenant, and sends again what is not told
                self._hello(identity, message, now_s)
            case _ if peer is None:
                self._refuse_stranger(identity)
            case m.Segments() if not self._inbox.put(peer, message, now_s):
                self._publishing.put_off(peer, message)
            case m.Segments():
                pass
            case _:
                self._inbox.put(peer, message, now_s)

    @property
    def takes_messages(self) -> bool:
        """False while so much waits to be looked at that no more should be received."""
        return not self._inbox.is_full

    def _look_at_messages(self, now_s: float) -> int:
        """Messages in fair turns, until so many segments were admitted as the pace allows; return how many."""
        admitted = 0
        while self._inbox and admitted < self.pace.segments:
            peer, message = self._inbox.take()
            admitted += max(segments_in(message), 1)
            if now_s - self._inbox.heard_s > self._waited_s:
                self._waited_s = now_s - self._inbox.heard_s
            if self.peers.knows(peer):
                self._handle(peer, message, now_s)
            else:  # it has said goodbye
                self._refuse_stranger(peer.identity)
        self.engine.leave_unread(self._inbox.unread_since_s())
        return admitted

    def _handle(self, peer: Peer, message: m.Message, now_s: float) -> None:
        match message:
            case m.Segments():
                self._publishing.take(peer, message, now_s, now_s + self._wall_offset_s, self._inbox.heard_s)
            case m.Goodbye():
                self.peers.drop(peer.identity)
            case m.Open():
                self._publishing.open(peer, message, now_s)
            case m.End():
                self._publishing.end(peer, message, now_s)
            case m.Query() | m.ListSessions() | m.QueryHistory() | m.Delete():
                self._questions.ask(peer, message, now_s)
            case m.Ping():
                self.outbox.send(peer.identity, m.Pong(message.nonce, self.incarnation))
            case m.Subscribe():
                self._subscribe(peer, message)
            case m.Unsubscribe():
                self.peers.unsubscribe(peer, message.session)
            case m.Tap():
                self.peers.tap(peer, message.credit)
            case m.Credit():
                self._grant(peer, message.updates)
            case _:
                self.outbox.refuse(peer.identity, "malformed", f"{message.tag} is a message of the worker's side")

    def _fuse(self, now_s: float) -> int:
        """As many segments as the pace allows; return how many. Those of a session with several waiting follow each
        other, and what came of them is told and sent once, unless another tenant waits for the end of the turn."""
        fused = 0
        for _ in range(BATCHES_OF_TURN if self.peers.tenants == 1 else 1):
            fused += self.engine.step(now_s, self.pace.segments - fused)
            if fused >= self.pace.segments or not self.engine.has_work or self.engine.is_stuck:
                break
        return fused

    def gone(self, identity: bytes) -> None:
        """The transport cannot reach this connection any more, or it does not read what it is sent."""
        self._forget_unread(self.peers.drop(identity))

    def trust(self, tokens: Tokens) -> None:
        """These count from now on: whoever is connected without one of them, or with that of another tenant by now, has
        to say hello again, and is told so when it speaks."""
        self._tokens = tokens
        for peer in self.peers.all():
            if not tokens.speaks_for(peer.token, peer.tenant):
                self.gone(peer.identity)

    def _refuse_stranger(self, identity: bytes) -> None:
        self.outbox.refuse(identity, "hello_first", "this worker does not know the connection: say hello")

    def _forget_unread(self, peer: Peer | None) -> None:
        if peer is not None:
            self._inbox.discard(peer)

    def _hello(self, identity: bytes, hello: m.Hello, now_s: float) -> None:
        try:
            check_id("client", hello.client)
            tenant = self._tokens.tenant_of(hello.token, hello.tenant)
        except Unauthorised as error:
            self.outbox.refuse(identity, "unauthorised", str(error))
            return
        except InvalidId as error:
            self.outbox.refuse(identity, "bad_id", str(error))
            return
        if len(self.peers) >= MAX_PEERS:
            self.outbox.refuse(identity, "slow_down", f"{MAX_PEERS} connections are open", retry_after_ms=1000)
            return
        self.peers.welcome(identity, hello.client, tenant, now_s, hello.token)
        signature = signature_map(self.engine.signature)
        window = self._policy.window_segments, self._policy.window_bytes
        welcome = m.Welcome(self.worker, self.incarnation, tenant, signature, *window, MAX_MESSAGE_BYTES)
        self.outbox.send(identity, welcome)
        if self._routes is not None:
            self.outbox.send(identity, self._routes)

    def _subscribe(self, peer: Peer, message: m.Subscribe) -> None:
        refuse = partial(self.outbox.refuse_segment, peer, message.session, "", 0)
        try:
            if message.session != EVERY_SESSION:
                check_id("session", message.session)
        except InvalidId as error:
            refuse("bad_id", str(error))
            return
        if len(peer.subscriptions) >= MAX_SUBSCRIPTIONS and message.session not in peer.subscriptions:
            refuse("too_large", f"the connection has {MAX_SUBSCRIPTIONS} subscriptions")
            return
        self.peers.subscribe(peer, message.session, in_rows=message.in_rows)
        self._grant(peer, message.credit)

    def _grant(self, peer: Peer, updates: int) -> None:
        for update in peer.grant(updates):
            self.outbox.update(peer.identity, update)

    # ---- ownership ----

    def own(self, epochs: Mapping[int, int]) -> None:
        """Serve these key groups and no others. Sessions of a group that is lost are another worker's: forget them."""
        lost = self.owned.replace(epochs)
        if lost or not epochs:  # a write that was refused may be told after what it was for is lost
            self.store.disowned(of_all=not epochs)
        if lost:
            for session in [session for key, session in self.engine.sessions.items() if key_group(key) in lost]:
                self._publishing.forget(session, "not_owner", f"key group {key_group(session.key)} has moved")
            self._questions.disown()
            self._tell_routes()  # also those who have nothing open here: what they left to others is to be sent again

    def keep_to_lease(self, now_s: float) -> None:
        """Serve nothing once the lease is over, by the clock that never stands still (`runtime.leases`)."""
        if self.lease.is_over(now_s) and self.owned.epochs:
            self.own({})

    def route(self, routes: m.Routes) -> None:
        """Tell all clients who serves what, if that is news."""
        if routes != self._routes:
            self._routes = routes
            self._tell_routes()

    def _tell_routes(self) -> None:
        if self._routes is not None:
            for peer in self.peers.all():
                self.outbox.send(peer.identity, self._routes)

    def release(self, groups: Collection[int]) -> None:
        """Give these key groups up as soon as what is settled of them is saved (`owned.released` tells)."""
        if self._handover.begin(groups):
            self._questions.disown()

    # ---- time ----

    def turn_took(self, seconds: float, ended_s: float) -> None:
        """How long the last turn took, from the first message received to the last one sent, without waiting; and when
        it was over, by which all that it has fused is told."""
        self.busy_s += seconds
        self.engine.fused_by(ended_s)
        self.pace.turn_took(seconds, self._segments_of_turn, shared=self.peers.tenants > 1)

    def take_waited_s(self) -> float:
        """The longest that a message has waited for its first look, of those looked at since this was last called."""
        waited_s, self._waited_s = self._waited_s, 0.0
        return waited_s

    def work(self, now_s: float) -> None:
        """One turn: a few micro-batches, what time brings, what the store is to do, and tell everyone."""
        admitted = self._look_at_messages(now_s)
        self._loader.load()
        fused = self._fuse(now_s)
        self._segments_of_turn = max(admitted, fused)
        self.engine.tick(now_s, fused)
        self._questions.tick(now_s)
        for peer in self.peers.drop_silent(now_s - PEER_TIMEOUT_S):
            self._forget_unread(peer)
        self.saver.save(now_s, self._rows_to_save(now_s))
        self._handover.go_on()
        self._publishing.tell_opened(now_s)
        self._teller.tell_progress(self._wall_offset_s)
        self.engine.tap(bool(self.peers.taps()))

    def _rows_to_save(self, now_s: float) -> int:
        if self.saver.hurries:
            return self.pace.segments
        return rows_of_turn(self._segments_of_turn, self.saver.put_off_s(now_s))

    @property
    def has_work(self) -> bool:
        """A turn would achieve something now, without waiting for a message or for time."""
        return bool(self._inbox) or (self.engine.has_work and not self.engine.is_stuck) or self._loader.has_work

    @property
    def wake_at_s(self) -> float:
        """When a turn has something to do next, if no message comes before."""
        due_s = self.saver.due_s
        return min(inf if due_s is None else due_s, self.engine.silent_at_s, self._questions.deadline_s)
