"""An engine on the bench: a clock turned by hand, a store that is a dict, publishers that are method calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.engine.checkpoint import committed, restore, take_records
from runtime.engine.engine import Engine
from runtime.engine.outcomes import Verdict
from runtime.engine.policies import BatchPolicy, EnginePolicy, OrderPolicy, QuotaPolicy
from runtime.engine.session import Session
from runtime.keys import SessionKey
from runtime.messages import Float32Array, SegmentEntry
from runtime.records import SessionRecord, decode_record, encode_record
from tests.runtime.engine.world import FRAMES, MODALITIES
from tests.runtime.toy_model import ToyModel

KEY = SessionKey("north", "1")
WALL_S = 1e6


class Bench:
    def __init__(
        self,
        *,
        capacity: int = 64,
        evict_after_s: float = 60.0,
        batch: BatchPolicy | None = None,
        quota: QuotaPolicy | None = None,
        model: ToyModel | None = None,
        incarnation: str = "0",
        store: dict[SessionKey, bytes] | None = None,
        now_s: float = 100.0,
        history_length: int = 256,
        **order: Any,
    ) -> None:
        self.model = model or ToyModel()
        self.policy = EnginePolicy(
            OrderPolicy(**{"lateness_s": 1.0, "idle_timeout_s": 2.0} | order),
            batch or BatchPolicy(),
            quota or QuotaPolicy(),
            capacity,
            evict_after_s,
            history_length,
        )
        self.engine = Engine(self.model, self.policy)
        self.incarnation = incarnation
        self.store = {} if store is None else store
        self.now_s = now_s
        self._sent: dict[tuple[SessionKey, str], int] = {}

    def session(self, key: SessionKey = KEY) -> Session:
        session = self.engine.sessions.get(key)
        if session is None:
            created = self.engine.create(key, self.now_s)
            assert isinstance(created, Session), created
            session = created
            if key in self.store:
                restore(self.engine, session, decode_record(key, self.store[key]), self.incarnation, self.now_s)
        return session

    def open(self, stream: str, modality: str = "audio", base: int = 1, key: SessionKey = KEY, owner: str = "p") -> str:
        return self.engine.open_stream(self.session(key), stream, modality, base, owner, 1, self.now_s)

    def send(
        self,
        stream: str,
        event_time_s: float,
        sequence: int | None = None,
        frames: Float32Array | None = None,
        key: SessionKey = KEY,
    ) -> Verdict:
        """The next segment of the stream, unless a sequence number is given. Opens the stream at first."""
        session = self.session(key)
        if stream not in session.streams:
            self.open(stream, key=key)
        sequence = sequence or self._sent.get((key, stream), 0) + 1
        self._sent[key, stream] = max(sequence, self._sent.get((key, stream), 0))
        if frames is None:
            frames = FRAMES[session.streams[stream].rank][sequence % 32]
        return self.engine.take(session, stream, [SegmentEntry(sequence, event_time_s, frames)], self.now_s, WALL_S)[0]

    def drain(self) -> int:
        fused = 0
        with np.errstate(all="ignore"):
            while self.engine.has_work:
                fused += (now := self.engine.step(self.now_s))
                if not now:
                    break
        return fused

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.engine.tick(self.now_s)

    def rest(self) -> None:
        """All that has landed settles and is told."""
        self.wait(self.policy.order.idle_timeout_s + self.policy.order.restart_grace_s + 0.001)
        self.drain()
        self.engine.take_progress()

    def take(self) -> list[SessionRecord]:
        return take_records(self.engine, self.incarnation, 1000)

    def commit(self, records: list[SessionRecord] | None = None) -> None:
        records = self.take() if records is None else records
        self.store |= {record.key: encode_record(record) for record in records}
        committed(self.engine, records)

    def after_a_crash(self, **changed: Any) -> Bench:
        """A new worker over the same store."""
        order = {name: getattr(self.policy.order, name) for name in OrderPolicy.__dataclass_fields__}
        settings: dict[str, Any] = order | {
            "capacity": self.policy.capacity,
            "evict_after_s": self.policy.evict_after_s,
            "batch": self.policy.batch,
            "quota": self.policy.quota,
            "incarnation": self.incarnation + "'",
            "store": self.store,
            "now_s": self.now_s,
        }
        return Bench(**settings | changed)

    def frames(self, modality: str = "audio", value: float | None = None) -> Float32Array:
        frames = FRAMES[MODALITIES.index(modality)][0].copy()
        if value is not None:
            frames[0, 0] = value
        return frames
