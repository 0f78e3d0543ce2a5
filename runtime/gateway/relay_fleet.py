"""One caller's relay over several workers: each stream goes over the lane of its session, and moves when that does."""

from __future__ import annotations

from collections.abc import Callable

from runtime.client.fleet import StreamFleet
from runtime.client.link import Identity
from runtime.gateway.posted import Held, Posted
from runtime.gateway.relay_core import RelayCore


class RelayFleet(StreamFleet[RelayCore]):
    def __init__(self, identity: Identity, max_held_bytes: int, on_refused: Callable[[str, int], None]) -> None:
        self.held = Held()
        super().__init__(lambda: RelayCore(identity, max_held_bytes, on_refused, held=self.held))

    def has_room(self, n_bytes: int) -> bool:
        return self.home.has_room(n_bytes)

    def post(self, session: str, stream: str, modality: str, posted: Posted, oldest: int) -> Posted:
        """As `RelayCore.post`."""
        return self.lane_of(session).post(session, stream, modality, posted, oldest)

    def withdraw(self, session: str, stream: str, posted: Posted) -> bool:
        return self.lane_of(session).withdraw(session, stream, posted)

    def fused_upto(self, session: str, stream: str) -> int:
        return self.lane_of(session).fused_upto(session, stream)

    def forget_session(self, session: str) -> None:
        self.lane_of(session).forget_session(session)

    def tidy(self, unused_since_s: float, posted_before_s: float) -> int:
        return sum(lane.tidy(unused_since_s, posted_before_s) for lane in self.lanes.values())

    @property
    def is_idle(self) -> bool:
        return self.home.is_idle
