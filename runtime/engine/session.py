"""One resident session: its streams, its timeline and where its contexts stand in the slab."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from typing import Literal

from grf_core.step import NO_SLOT
from runtime.engine.order import FusionKey, Timeline
from runtime.engine.policies import OrderPolicy
from runtime.engine.quota import Usage
from runtime.engine.sequences import SequenceSet
from runtime.history import SettledStep
from runtime.keys import SessionKey, key_group
from runtime.messages import Float32Array

NO_LINEAGE = b"\0" * 16
MODEL_REPLACED = "the model was replaced"
"""`reset_reason` of a session that another model has fused."""
_pack = struct.Struct("<dqq").pack


def extend_lineage(lineage: bytes, key: FusionKey) -> bytes:
    """The lineage after one more settled segment: equal lineages mean segments of the same names in the same order.

    It holds event time, rank of the modality, stream and sequence number. It holds no number of the model, so it is
    equal to the bit on every device; nor any of the frames, so it does not tell whether they were the same.
    """
    event_time_s, rank, stream, sequence = key
    return blake2b(lineage + _pack(event_time_s, rank, sequence) + stream.encode(), digest_size=16).digest()


class StreamState:
    """Sequence numbers of one stream: received, fused, settled (sets), durable (all up to it are committed)."""

    __slots__ = (
        "durable",
        "fused",
        "newest_s",
        "numbering",
        "oldest",
        "owner",
        "rank",
        "received",
        "refused",
        "settled",
        "stored",
        "told_durable",
        "told_fused",
        "told_version",
    )

    def __init__(self, rank: int, settled: SequenceSet, durable: int, refused: Iterable[tuple[int, str]] = ()) -> None:
        self.rank = rank
        self.received = settled.copy()
        self.fused = settled.copy()
        self.settled = settled
        self.durable = durable
        self.newest_s = -inf
        """newest event time received"""
        self.oldest = 1
        """what lies below has come, or will not: its publisher does not hold it any more"""
        self.owner: str | None = None
        """the connection that opened it last; None in the hands of another worker, until one does"""
        self.numbering = 0
        """whose numbers these are: it grows whenever another publisher takes over"""
        self.refused = dict(refused)
        """numbers refused for good, with the code, until the publisher lets go of them: a Nack may get lost"""
        self.stored: Literal["no", "on its way", "yes"] = "no"
        """does the store know that it is open? If so it is waited for after a crash"""
        self.told_fused = 0
        """as it was acknowledged last, with `told_version`, the live version that held everything up to it"""
        self.told_version = 0
        self.told_durable = durable

    def consume(self, sequence: int, code: str) -> None:
        """Count a segment as done that will never be fused: it was refused for good."""
        self.received.add(sequence)
        self.fused.add(sequence)
        self.settled.add(sequence)
        self.refused[sequence] = code

    def let_go(self, oldest: int) -> None:
        """The publisher knows what became of everything below `oldest`."""
        if self.refused:
            self.refused = {sequence: code for sequence, code in self.refused.items() if sequence >= oldest}

    @property
    def complete_upto_s(self) -> float:
        """The newest event time received, if no sequence number is missing before it; else nothing is known."""
        return -inf if self.received.above else self.newest_s

    def skip_below(self, oldest: int) -> int:
        """The publisher gave up what it does not hold any more; return how many were never received.

        As fused and settled they count once those before them are so (`Flow.pass_gaps`).
        """
        self.oldest = max(self.oldest, oldest)
        return self.received.skip_below(oldest)

    @property
    def has_gaps(self) -> bool:
        """Something below `oldest` is still to settle, or to be passed."""
        return self.oldest > self.settled.upto + 1


@dataclass(frozen=True, slots=True)
class ShownState:
    """The live state as it was last complete, kept while a rewound session is fused again."""

    version: int
    event_time_s: float
    context_KD: Float32Array
    host_row: Float32Array
    upto: FusionKey
    """its last segment: once all up to it is fused again, the live state has all that this one has, and more"""


class Session:
    """State of one session in memory. The engine owns the transitions; this owns the data."""

    __slots__ = (
        "born",
        "dirty",
        "durable_version",
        "freshness_s",
        "group",
        "history",
        "key",
        "lacks_rows",
        "last_active_s",
        "last_segment_s",
        "lineage",
        "look_at_s",
        "reset_reason",
        "settled_event_time_s",
        "settled_freshness_s",
        "settled_slot",
        "settled_version",
        "shown",
        "streams",
        "timeline",
        "usage",
    )

    def __init__(self, key: SessionKey, usage: Usage, policy: OrderPolicy, modalities: int, now_s: float) -> None:
        self.key = key
        self.usage = usage
        """of its tenant, with all other sessions of that"""
        self.group = key_group(key)
        self.streams: dict[str, StreamState] = {}
        self.timeline = Timeline(policy)
        self.settled_slot = NO_SLOT
        self.settled_version = 0
        """how many segments are in the settled context"""
        self.durable_version = 0
        """how many segments are in the context that the store holds"""
        self.settled_event_time_s = -inf
        self.lineage = NO_LINEAGE
        self.freshness_s = [-inf] * modalities
        """newest event time of each modality in the live state"""
        self.settled_freshness_s = [-inf] * modalities
        self.history: list[SettledStep] = []
        """settled since the last checkpoint"""
        self.shown: ShownState | None = None
        """set while a rewind is being fused again"""
        self.dirty = False
        """the store does not hold all that is settled"""
        self.look_at_s = inf
        """when the engine will look whether the session has fallen silent; inf: it will not"""
        self.lacks_rows = False
        """its next step waits until rows of the slab are free"""
        self.born = 0
        """tells it from one of its name that was deleted"""
        self.reset_reason = ""
        """why the session does not continue what was stored of it"""
        self.last_active_s = now_s
        self.last_segment_s = -inf
        """processing time of the last segment accepted since the session became resident"""

    @property
    def live_version(self) -> int:
        """How many segments are in the live context."""
        return self.settled_version + self.timeline.fused

    @property
    def live_slot(self) -> int:
        fused = self.timeline.fused
        return self.timeline.entries[fused - 1].slot if fused else self.settled_slot

    @property
    def live_event_time_s(self) -> float:
        fused = self.timeline.fused
        return self.timeline.entries[fused - 1].key.event_time_s if fused else self.settled_event_time_s

    def shorten_history(self, length: int) -> None:
        """Keep the newest versions only: the store may be away."""
        del self.history[: max(len(self.history) - length, 0)]

    def is_idle(self, now_s: float) -> bool:
        """Nothing unsettled, nothing unsaved, no stream waited for: it can leave and come back as if it had stayed."""
        return not (self.timeline.entries or self.dirty) and self.timeline.idle_at_s <= now_s
