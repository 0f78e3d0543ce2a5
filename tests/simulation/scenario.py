"""What happens in a run: who publishes what and when, the limits, and the accidents. All from one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from random import Random
from typing import Literal, TypeVar

import numpy as np

from runtime.client.publisher_account import PublisherPolicy
from runtime.dispatch.policy import DispatchPolicy
from runtime.engine.policies import BatchPolicy, EnginePolicy, OrderPolicy, QuotaPolicy
from runtime.keys import SessionKey
from runtime.messages import Float32Array
from tests.runtime.toy_model import POISON, SIGNATURE

START_S = 1000.0
NOTICED_AFTER_S = 2.5
"""how long until a frozen worker is taken for dead and replaced"""
NOTICED_BY_CLIENT_S = 4.5
"""how long until a client has noticed that nobody answers, and has connected anew; twice, if to the same dead end"""
RECONNECTED_S = 1.5
"""how long until a client is back whose connection was reset: at its next ping"""
WHOLE_HISTORY = 1_000_000
"""versions: every version is checked, and a session may settle hundreds between two saves"""

FaultKind = Literal[
    "worker killed",
    "worker's machine lost",
    "worker frozen",
    "groups moved",
    "connection reset",
    "connection in a black hole",
    "store away",
    "store loses answers",
    "publisher pauses",
    "publisher restarted",
    "session deleted",
]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    at_step: int
    kind: FaultKind
    duration_s: float = 0.5
    """until the worker is restarted or thawed, the store is back, the publisher goes on"""
    target: int = 0
    """which client, or which session"""
    moves: bool = False
    """the worker that takes over listens elsewhere"""


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A segment that a publisher will publish."""

    at_s: float
    key: SessionKey
    stream: str
    modality: str
    event_time_s: float
    frames: Float32Array
    code: str
    """the Nack it must meet; "" for a good one"""
    sequence: int | None
    """given by the source, if it numbers its segments and can be replayed"""


@dataclass(frozen=True)
class Scenario:
    """The plainest run: two sessions of two streams, each with a publisher of its own, and nothing goes wrong."""

    seed: int = 0
    sessions: int = 2
    tenants: int = 1
    """sessions are dealt out to them, and the first of each bear the same id"""
    streams: int = 2
    """of each session"""
    segments: int = 6
    """of each stream"""
    every_s: float = 0.4
    jitter_s: float = 0.3
    """how far an event time may lie behind its publication"""
    joins_s: float = 0.0
    """streams begin within so long"""
    has_ties: bool = False
    publishers: Literal["one per stream", "one per session", "one per tenant"] = "one per stream"
    readers: int = 0
    ends: bool = True
    numbered: bool = False
    bad_segments: float = 0.0
    """how likely a segment is one that the runtime must refuse"""
    order: OrderPolicy = field(default_factory=OrderPolicy)
    batch: BatchPolicy = field(default_factory=BatchPolicy)
    quota: QuotaPolicy = field(default_factory=QuotaPolicy)
    capacity: int = 256
    evict_after_s: float = 60.0
    dispatch: DispatchPolicy = field(default_factory=DispatchPolicy)
    publisher: PublisherPolicy = field(default_factory=PublisherPolicy)
    faults: tuple[Fault, ...] = ()

    def with_faults(self, *faults: Fault) -> Scenario:
        return replace(self, faults=faults)

    @property
    def engine(self) -> EnginePolicy:
        return EnginePolicy(
            self.order, self.batch, self.quota, self.capacity, self.evict_after_s, history_length=WHOLE_HISTORY
        )

    @property
    def keys(self) -> list[SessionKey]:
        return [SessionKey(f"t{i % self.tenants}", f"s{i // self.tenants}") for i in range(self.sessions)]

    # ---- the plan ----

    @cached_property
    def plans(self) -> list[list[Planned]]:
        """What each publisher publishes, in order."""
        random = Random(self.seed)
        plans: dict[tuple[str | int, ...], list[Planned]] = {}
        for i, key in enumerate(self.keys):
            for stream in range(self.streams):
                owner = {"one per stream": (*key, stream), "one per session": key, "one per tenant": (key.tenant,)}
                plan = plans.setdefault(owner[self.publishers], [])
                plan += self._stream(random, i, stream)
        return [sorted(plan, key=lambda planned: planned.at_s) for plan in plans.values()]

    def _stream(self, random: Random, session: int, stream: int) -> list[Planned]:
        modality = SIGNATURE.modalities[(session + stream) % len(SIGNATURE.modalities)]
        features = np.random.default_rng([self.seed, session, stream])
        starts_s = START_S + random.uniform(0.0, self.joins_s)
        planned = []
        for i in range(self.segments):
            at_s = starts_s + self.every_s * (i + random.uniform(0.0, 0.5))
            event_time_s = at_s - random.uniform(0.0, self.jitter_s)
            # Distinct by a trace of a microsecond, unless equal stamps are wanted.
            event_time_s = round(event_time_s, 1) if self.has_ties else round(event_time_s, 3) + 1e-7 * (8 * i + stream)
            frames = features.normal(size=(1 + i % 3, modality.width)).astype(np.float32)
            code = ""
            if random.random() < self.bad_segments:
                frames[0, 0] = random.choice((np.nan, np.inf, POISON, -POISON))
                code = "step_failed" if np.isfinite(frames).all() else "bad_segment"
            sequence = i + 1 if self.numbered else None
            one = Planned(
                at_s, self.keys[session], "abcdefgh"[stream], modality.name, event_time_s, frames, code, sequence
            )
            planned.append(one)
        return planned

    # ---- what may come of it ----

    @property
    def may_be_late(self) -> bool:
        """A publisher was cut off, or did not publish, for longer than it is waited for."""
        fits = self.publisher.max_buffer_bytes >= 1 << 20 or self.publisher.when_full == "drop_oldest"
        # Nobody can wait for a stream that has never been open; it may begin while the worker is away.
        begins_late = self.joins_s > 0 and bool(self.faults)
        was_away = any(self._outage_s(fault) >= self.order.idle_timeout_s for fault in self.faults)
        return was_away or begins_late or not fits

    def _outage_s(self, fault: Fault) -> float:
        """How long one publisher may be away while the others go on."""
        match fault.kind:
            case "worker killed" | "worker's machine lost" if fault.moves:
                return 2 * NOTICED_BY_CLIENT_S
            case "worker frozen" if fault.duration_s > NOTICED_AFTER_S:
                return 2 * NOTICED_BY_CLIENT_S
            case "connection in a black hole" | "worker's machine lost" | "groups moved":
                return NOTICED_BY_CLIENT_S
            case "publisher pauses" | "publisher restarted":
                return fault.duration_s + self.every_s * 1.5
            case _:
                return RECONNECTED_S


def short_scenario(kind: FaultKind, seed: int = 0) -> Scenario:
    """A run short enough to let this accident happen at every step of it; its publishers may come back in time."""
    away_for_s = max(Scenario()._outage_s(Fault(0, kind, 0.3)), Scenario()._outage_s(Fault(0, kind, 6.0)))
    return Scenario(
        seed=seed,
        every_s=0.3,
        bad_segments=0.1,
        numbered=kind == "publisher restarted",
        order=OrderPolicy(idle_timeout_s=2.0 if away_for_s < 2.0 else 10.0),
    )


def random_scenario(seed: int, long: bool = False) -> Scenario:
    """One of all the ways in which a run may go."""
    random = Random(f"scenario {seed}")
    choice: Callable[[tuple[T, ...]], T] = random.choice
    idle_timeout_s = choice((2.0, 6.0))
    sessions, streams, every_s = random.randint(1, 4), random.randint(1, 4), choice((0.05, 0.2, 0.4))
    unsettled_bytes = round(600 * sessions * streams * (2.0 / every_s + 1))  # while nothing goes wrong
    scenario = Scenario(
        seed=seed,
        sessions=sessions,
        tenants=choice((1, 1, 2)),
        streams=streams,
        segments=random.randint(10, 25) * (8 if long else 1),
        every_s=every_s,
        jitter_s=choice((0.0, 0.3, 0.45)),
        joins_s=choice((0.0, 0.0, 0.0, 3.0)),
        publishers=choice(("one per stream", "one per stream", "one per session", "one per tenant")),
        readers=choice((0, 0, 1, 2)),
        ends=choice((True, False)),
        numbered=choice((True, False)),
        bad_segments=choice((0.0, 0.0, 0.1)),
        order=OrderPolicy(
            mode=choice(("rewind", "rewind", "hold")),
            lateness_s=0.5,
            lateness_by_modality_s=choice(({}, {}, {"text": 1.0})),
            idle_timeout_s=idle_timeout_s,
        ),
        batch=BatchPolicy(max_segments=choice((256, 2, 1))),
        quota=QuotaPolicy(
            max_pending_bytes=choice((256 << 20, 256 << 20, 2 * unsettled_bytes)),
            max_segments_per_s=choice((inf, inf, 40.0)),
        ),
        capacity=choice((512, 512, 200, 40)),
        evict_after_s=choice((60.0, 1.0, idle_timeout_s)),
        dispatch=DispatchPolicy(
            window_segments=choice((1024, 4, 1)),
            checkpoint_sessions=choice((2000, 1)),
            checkpoint_interval_s=choice((0.02, 0.2)),
        ),
        publisher=PublisherPolicy(
            max_buffer_bytes=choice((64 << 20, 64 << 20, 12_000)), when_full=choice(("block", "drop_oldest"))
        ),
    )
    return scenario.with_faults(*_random_faults(random, scenario, long))


def _random_faults(random: Random, scenario: Scenario, long: bool) -> list[Fault]:
    kinds: list[FaultKind] = [
        "worker killed",
        "worker killed",
        "worker's machine lost",
        "worker frozen",
        "groups moved",
        "connection reset",
        "connection reset",
        "store away",
        "store loses answers",
    ]
    if random.random() < 0.3:
        kinds += ["connection in a black hole", "publisher pauses"]
    if scenario.numbered:
        kinds += ["publisher restarted"]
    steps = scenario.sessions * scenario.streams * scenario.segments * 5
    faults = []
    for _ in range(random.randint(1, 12 if long else 4)):
        kind = random.choice(kinds)
        duration_s = random.choice((0.05, 0.5, 1.0, 3.0))
        if kind == "worker frozen":
            duration_s = random.choice((1.0, 6.0, 12.0))
        target = random.randrange(16)
        faults.append(Fault(random.randint(1, steps), kind, duration_s, target, random.random() < 0.3))
    return faults
