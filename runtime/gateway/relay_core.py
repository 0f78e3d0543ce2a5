"""Publishes what HTTP clients post, for one caller: windows, resending, back-pressure. No socket, task or clock.

A `runtime.client.link.Core` like the publisher's own; what differs is in `relay_stream`.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Collection
from math import inf

from runtime import messages as m
from runtime.client.link import Identity, Link
from runtime.client.published import stream_segments
from runtime.gateway.posted import Held, Posted
from runtime.gateway.relay_stream import RelayStream
from runtime.nack_codes import NOTICE_CODES, RETRY_CODES, SEGMENT_CODES

MESSAGE_SEGMENTS = 256
MAX_STREAMS = 10_000
"""per caller: streams of which anything is known here"""
TAKE_BACK_WITHIN_S = 0.05
"""two gateways that post to one stream take it from each other; chance lets one of them finish"""

StreamName = tuple[str, str]


class RelayCore:
    def __init__(
        self,
        identity: Identity,
        max_held_bytes: int,
        on_refused: Callable[[str, int], None],
        *,
        held: Held | None = None,
    ) -> None:
        """`on_refused` is told the code, and how many segments it concerns.

        With `held`, which all connections share, others route the streams: what another worker owns waits here until
        it is moved.
        """
        self.held = held or Held()
        self._is_routed = held is not None
        self.link = Link(identity)
        self._max_held_bytes = max_held_bytes
        self._on_refused = on_refused
        self._streams: OrderedDict[StreamName, RelayStream] = OrderedDict()
        """longest unused first"""
        self._due: OrderedDict[StreamName, None] = OrderedDict()
        """streams that may have something to send, in turns"""
        self._gaps: OrderedDict[StreamName, None] = OrderedDict()
        """streams that wait for a gap to be told: not for the window, which may be full of what waits behind the gap"""
        self._paused: dict[StreamName, float] = {}
        """streams told to slow down, and until when"""
        self._left: dict[StreamName, float] = {}
        """streams that another publisher has and that lack nothing of ours, and until when they are left to it"""

    # ---- the posters' side ----

    def has_room(self, n_bytes: int) -> bool:
        """One segment always fits, however large."""
        return self.held.n_bytes == 0 or self.held.n_bytes + n_bytes <= self._max_held_bytes

    def post(self, session: str, stream: str, modality: str, posted: Posted, oldest: int) -> Posted:
        """Hold and send a segment; return it, or the one that was posted under its number before.

        The caller has made sure of room.
        """
        name = (session, stream)
        relay = self._streams.get(name)
        if relay is not None and relay.modality != modality:
            if not relay.is_empty:
                posted.refuse("unknown_modality", f"stream {stream!r} is being posted as {relay.modality!r}")
                return posted
            relay = None  # what is known of it may be past: the worker knows better
        if relay is None:
            if not self._make_room_for_stream():
                posted.refuse("slow_down", f"{MAX_STREAMS} streams are in use")
                return posted
            relay = self._streams[name] = RelayStream(session, stream, modality, self.held)
        relay.used_s = posted.posted_s
        self._streams.move_to_end(name)
        self._due[name] = None
        taken = relay.post(posted, oldest)
        if relay.tell_gap():
            self._gaps[name] = None
        if name in self._left and not relay.is_all_told:
            del self._left[name]
        return taken

    def withdraw(self, session: str, stream: str, posted: Posted) -> bool:
        """Take back a segment that was never sent; False if the worker may have it."""
        relay = self._streams.get((session, stream))
        if relay is None or not relay.withdraw(posted):
            return False
        posted.refuse("timeout", "not sent in time, and taken back: post it again")
        return True

    def fused_upto(self, session: str, stream: str) -> int:
        relay = self._streams.get((session, stream))
        return relay.fused_upto if relay else 0

    def forget_session(self, session: str) -> None:
        """The session is being deleted: nothing of it may be sent again."""
        for name in [name for name in self._streams if name[0] == session]:
            self._streams.pop(name).give_up("session_reset", "the session was deleted")

    def tidy(self, unused_since_s: float, posted_before_s: float) -> int:
        """Forget streams nobody uses; give up what has been held for too long, and return how much that was."""
        given_up = 0
        for name, relay in list(self._streams.items()):
            given_up += len(relay.give_up("timeout", "given up: no worker made it durable", posted_before_s))
            if relay.is_empty and relay.used_s < unused_since_s:
                del self._streams[name]
        return given_up

    @property
    def is_idle(self) -> bool:
        """Nothing is held: whoever posted has been told all there is to tell."""
        return self.held.n_bytes == 0

    def _make_room_for_stream(self) -> bool:
        if len(self._streams) < MAX_STREAMS:
            return True
        unused = next((name for name, relay in self._streams.items() if relay.is_empty), None)
        if unused is not None:
            del self._streams[unused]
        return unused is not None

    # ---- streams that move to another connection ----

    @property
    def sessions(self) -> set[str]:
        return {session for session, _ in self._streams}

    def release(self, sessions: Collection[str]) -> list[RelayStream]:
        """Let go of the streams of these sessions."""
        names = [name for name in self._streams if name[0] in sessions]
        for name in names:
            self._paused.pop(name, None)
            self._left.pop(name, None)
        return [self._streams.pop(name) for name in names]

    def adopt(self, relay: RelayStream) -> None:
        """Go on with a stream that another connection has let go of."""
        self._begin_anew(relay)
        self._streams[relay.session, relay.stream] = relay
        self._due[relay.session, relay.stream] = None

    # ---- the driver's side (runtime.client.link.Core) ----

    def connected(self, now_s: float) -> None:
        self.link.connected(now_s)
        self._paused.clear()
        self._left.clear()
        for name, relay in self._streams.items():
            self._begin_anew(relay)
            self._due[name] = None

    def _begin_anew(self, relay: RelayStream) -> None:
        self._tell_lost(relay.disconnected())

    def _tell_lost(self, lost: list[Posted]) -> None:
        if lost:
            self._on_refused("stream_taken", len(lost))

    def tick(self, now_s: float) -> None:
        self.link.tick(now_s)
        for waiting in (self._paused, self._left):
            for name in [name for name, until_s in waiting.items() if until_s <= now_s]:
                del waiting[name]
                self._due[name] = None

    @property
    def wake_at_s(self) -> float:
        waiting = (*self._paused.values(), *self._left.values())
        return min(self.link.wake_at_s, min(waiting, default=inf))

    def outgoing(self, now_s: float) -> m.Message | None:
        message = self.link.outgoing()
        if message is not None or self.link.welcome is None:
            return message
        while self._gaps:
            name, _ = self._gaps.popitem(last=False)
            relay = self._streams.get(name)
            if relay is not None and relay.state == "open" and relay.has_unsent:
                return self._segments(relay, 1)
        while self._due and (room := self._window(self.link.welcome)) > 0:
            name, _ = self._due.popitem(last=False)
            relay = self._streams.get(name)
            if relay is None or name in self._paused or name in self._left or not relay.has_unsent:
                continue
            if relay.state == "closed":
                return relay.open()
            if relay.state == "open":
                self._due[name] = None
                return self._segments(relay, room)
        return None

    def _window(self, welcome: m.Welcome) -> int:
        """How many segments may be sent now."""
        if sum(posted.n_bytes for posted in self.held.in_flight) >= welcome.window_bytes:
            return 0
        return min(welcome.window_segments - len(self.held.in_flight), MESSAGE_SEGMENTS)

    def _segments(self, relay: RelayStream, room: int) -> m.Segments:
        batch = relay.take(room)
        entries = [m.SegmentEntry(posted.sequence, posted.event_time_s, posted.frames) for posted in batch]
        return m.Segments(tuple(stream_segments(relay.session, relay.stream, relay.oldest, entries)))

    def receive(self, message: m.Message, now_s: float) -> None:
        self.link.receive(message, now_s)
        match message:
            case m.Ack(streams):
                for ack in streams:
                    relay = self._streams.get((ack.session, ack.stream))
                    if relay is not None:
                        relay.acknowledge(ack.fused, ack.durable, ack.version, ack.taken)
                        if relay.tell_gap():
                            self._gaps[ack.session, ack.stream] = None
            case m.Opened(session, stream):
                relay = self._streams.get((session, stream))
                if relay is not None:
                    marks = message.version, message.born, message.numbering
                    self._tell_lost(relay.opened(message.durable, message.last_sequence, *marks))
                    self._due[session, stream] = None
            case m.Nack(session=session, stream=stream) if stream:
                relay = self._streams.get((session, stream))
                if relay is not None:
                    self._refused(relay, message, now_s)
            case m.Routes():  # a worker may have lost what was not durable: it tells none but the owner of a stream
                for relay in self._streams.values():
                    self._tell_lost(relay.maybe_lost())
                self._due.update(dict.fromkeys(self._left))
                self._left.clear()
            case m.Moved() if not self._is_routed:
                self.link.lose()
            case _:
                pass

    def _refused(self, relay: RelayStream, nack: m.Nack, now_s: float) -> None:
        name = (nack.session, nack.stream)
        self._due[name] = None
        if nack.code == "not_open":
            self._begin_anew(relay)
        elif nack.code == "stream_taken":
            if relay.is_taken(nack):
                self._tell_lost(relay.taken_over(nack))
                if relay.is_all_told:
                    self._left[name] = now_s + relay.leave_for_s()
                else:
                    self._paused[name] = now_s + random.uniform(0.1, 1.0) * TAKE_BACK_WITHIN_S
        elif nack.code == "not_found":
            relay.deleted()
        elif nack.code in NOTICE_CODES:
            relay.remark(nack)
        elif nack.code in RETRY_CODES:
            self._try_later(relay, nack, now_s)
        elif nack.code in SEGMENT_CODES:
            self._on_refused(nack.code, relay.refuse(nack))
        else:
            self._on_refused(nack.code, len(relay.give_up(nack.code, nack.text)))
            del self._streams[name]

    def _try_later(self, relay: RelayStream, nack: m.Nack, now_s: float) -> None:
        if nack.code == "not_owner":
            self._begin_anew(relay)
        elif relay.state == "opening":
            relay.close()
        relay.send_again_from(nack.sequence)
        self._paused[nack.session, nack.stream] = now_s + max(nack.retry_after_ms, 1) / 1000
        if nack.code == "not_owner" and not self._is_routed:
            self.link.lose()
