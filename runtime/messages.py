"""The messages between a client and a worker: small frozen dataclasses, no I/O.

Evolution: new fields last and with defaults; never retype a field; never reuse a tag; skip what is unknown.
The order of a class's fields is its order on the wire (`docs/protocol.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]


# ---- client to worker -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of every connection; answered by Welcome."""

    tag: ClassVar[str] = "hello"
    client: str
    """name of the client, for logs and for the ownership of streams"""
    tenant: str = "default"
    token: str = ""


@dataclass(frozen=True, slots=True)
class Open:
    """Open one stream of a session for publishing; answered by Opened or Nack."""

    tag: ClassVar[str] = "open"
    session: str
    stream: str
    modality: str
    base: int
    """lowest sequence number that will ever be sent from now on; what lies below is durable or given up"""
    known_durable: int = 0
    """highest sequence number the client has seen acknowledged as durable: less on the worker means a reset"""
    known_born: int = 0
    """`born` of the last Opened: if that session was deleted since, none is opened; 0 makes one if there is none"""
    known_numbering: int = 0
    """`numbering` of the last Opened: if another publisher has numbered segments of the stream since, it is not opened;
    0 takes it over from any"""


class SegmentEntry(NamedTuple):
    sequence: int
    """1, 2, 3, ... within the stream"""
    event_time_s: float
    """when it happened at the source, seconds; any epoch, but one and the same for a session"""
    frames: Float32Array
    """[T, F]"""


class StreamSegments(NamedTuple):
    """Segments of one stream, in sequence order."""

    session: str
    stream: str
    oldest: int
    """lowest sequence number the publisher still holds: what lies below is durable or given up"""
    entries: tuple[SegmentEntry, ...]


@dataclass(frozen=True, slots=True)
class Segments:
    """Segments of one or more streams in one message; answered by Ack, and by a Nack for each one refused."""

    tag: ClassVar[str] = "segments"
    groups: tuple[StreamSegments, ...]


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more comes on this stream for now: the watermark need not wait for it. Open it again to go on."""

    tag: ClassVar[str] = "end"
    session: str
    stream: str
    upto: int = 0
    """the last sequence number sent: while one up to it is missing the stream has not ended, for it is sent again"""


@dataclass(frozen=True, slots=True)
class Query:
    """Ask for a session's state; answered by State."""

    tag: ClassVar[str] = "query"
    request: int
    session: str
    after_version: int = 0
    """answer once the live version is at least this, or when wait_ms is over"""
    wait_ms: int = 0
    include_context: bool = False


@dataclass(frozen=True, slots=True)
class ListSessions:
    """Ask for the ids of the tenant's sessions in code point order; answered by Sessions."""

    tag: ClassVar[str] = "list"
    request: int
    after: str = ""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class QueryHistory:
    """Ask for the settled versions of a session with event time in [from_s, to_s]; answered by History."""

    tag: ClassVar[str] = "history"
    request: int
    session: str
    from_s: float = float("-inf")
    to_s: float = float("inf")
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Delete:
    """Forget a session for good; answered by Deleted."""

    tag: ClassVar[str] = "delete"
    request: int
    session: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Receive an Update whenever the state of a session changes; "" means every session of the tenant."""

    tag: ClassVar[str] = "subscribe"
    session: str = ""
    credit: int = 64
    """how many updates may be sent before the client grants more (Credit)"""
    in_rows: bool = False
    """as Updates, from now on and for all subscriptions of the connection, not as one Update each"""


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    tag: ClassVar[str] = "unsubscribe"
    session: str = ""


@dataclass(frozen=True, slots=True)
class Credit:
    """Grant more updates, counted over all subscriptions of the connection."""

    tag: ClassVar[str] = "credit"
    updates: int


@dataclass(frozen=True, slots=True)
class Tap:
    """Receive every segment of the tenant as it is accepted (Tapped), to record it; grants credit like Subscribe."""

    tag: ClassVar[str] = "tap"
    credit: int = 4096
    """how many segments may be sent before the client grants more (another Tap)"""


@dataclass(frozen=True, slots=True)
class Ping:
    """Proves that both ends live; answered by Pong. A connection silent for long is forgotten."""

    tag: ClassVar[str] = "ping"
    nonce: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    tag: ClassVar[str] = "goodbye"


# ---- worker to client -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome:
    tag: ClassVar[str] = "welcome"
    worker: str
    incarnation: str
    """changes whenever the worker process does"""
    tenant: str
    signature: dict[str, Any]
    """name, digest, context_shape, modalities [{name, width, max_frames}], heads [{name, kind, labels, start, stop}]"""
    window_segments: int
    """how many segments of this connection may be on their way: sent and not yet fused"""
    window_bytes: int
    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class Opened:
    tag: ClassVar[str] = "opened"
    session: str
    stream: str
    durable: int
    """send again from the sequence number after this one"""
    last_sequence: int
    """highest sequence number ever seen of this stream: a new publisher numbers on from here"""
    version: int
    born: int = 0
    """another one once the session was deleted and began anew; 0 if that is not known"""
    numbering: int = 0
    """a higher one whenever another publisher takes over, who numbers on from `last_sequence`"""


class StreamAck(NamedTuple):
    session: str
    stream: str
    fused: int
    """every sequence number up to this one is in the live state, or was answered by a Nack"""
    durable: int
    """every sequence number up to this one is in the committed settled state, or was answered by a Nack"""
    version: int
    """version of the live state that holds everything up to `fused`"""
    taken: int = 0
    """every sequence number up to this one has left the window: it is fused, or only the watermark holds it back"""


@dataclass(frozen=True, slots=True)
class Ack:
    tag: ClassVar[str] = "ack"
    streams: tuple[StreamAck, ...]


@dataclass(frozen=True, slots=True)
class Nack:
    """One message or segment was not taken, or was taken with a remark; `text` is for people."""

    tag: ClassVar[str] = "nack"
    code: str
    """one of `runtime.nack_codes`, or one that a newer worker knows: that is final"""
    text: str
    session: str = ""
    stream: str = ""
    sequence: int = 0
    request: int = 0
    """the request this answers, when it is not about a segment"""
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """Answer to Query. `state` is a map of `runtime.state_maps`."""

    tag: ClassVar[str] = "state"
    request: int
    state: dict[str, Any]
    timed_out: bool = False
    """the live version asked for was not reached in time; `state` is what there is"""


@dataclass(frozen=True, slots=True)
class Sessions:
    tag: ClassVar[str] = "sessions"
    request: int
    sessions: list[str]
    more: bool


@dataclass(frozen=True, slots=True)
class History:
    tag: ClassVar[str] = "past"
    request: int
    rows: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Deleted:
    tag: ClassVar[str] = "deleted"
    request: int
    existed: bool


@dataclass(frozen=True, slots=True)
class Update:
    """A session's state has changed."""

    tag: ClassVar[str] = "update"
    state: dict[str, Any]
    correction: bool = False
    """the live state was fused again because a segment landed out of order"""
    missed: int = 0
    """updates of this session that were skipped since the last one, because the subscriber granted no credit"""


class UpdateRow(NamedTuple):
    """As Update, for who knows the model's signature: `runtime.state_maps` makes the same state of it."""

    session: str
    correction: bool
    missed: int
    version: int
    """of the live state; 0 while there is none"""
    event_time_s: float
    settled_version: int
    """of the settled state; 0 while there is none"""
    settled_event_time_s: float
    durable_version: int
    watermark_s: float
    """-inf before the first"""
    pending: int
    freshness_s: Sequence[float]
    """newest event time of each modality, by rank; -inf where there is none"""
    lineage: bytes
    reset_reason: str
    live: Float32Array
    """[W]: outputs, shares, gate"""
    settled: Float32Array
    """[W]"""


@dataclass(frozen=True, slots=True)
class Updates:
    """The states of several sessions have changed; followed by one tensor [2 rows, W]: live, settled, live, ..."""

    tag: ClassVar[str] = "updates"
    rows: tuple[UpdateRow, ...]


@dataclass(frozen=True, slots=True)
class Tapped:
    """One accepted segment, followed by one tensor frame [T, F]. After a crash a segment may be accepted again."""

    tag: ClassVar[str] = "tapped"
    session: str
    stream: str
    modality: str
    sequence: int
    event_time_s: float
    """as it is fused: a late segment's is moved to the watermark, if the policy fuses it"""
    arrival_s: float
    """wall clock of the worker"""
    missed: int
    """segments that were not sent since the last one, because no credit was left"""
    frames: Float32Array


@dataclass(frozen=True, slots=True)
class Pong:
    tag: ClassVar[str] = "pong"
    nonce: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The key group is served by another worker from `epoch` on."""

    tag: ClassVar[str] = "moved"
    group: int
    endpoint: str
    epoch: int
    session: str = field(default="")


@dataclass(frozen=True, slots=True)
class Routes:
    """Which worker serves which key group. Follows Welcome where there are several workers, and whenever it changes."""

    tag: ClassVar[str] = "routes"
    version: int
    """grows with every change of an owner; of two tables the one with the larger version is the newer"""
    workers: list[dict[str, Any]]
    """[{endpoint, groups}]; a worker without groups may be asked for news. A group that is missing is where it was"""


ClientMessage = (
    Hello
    | Open
    | Segments
    | End
    | Query
    | ListSessions
    | QueryHistory
    | Delete
    | Subscribe
    | Unsubscribe
    | Credit
    | Tap
    | Ping
    | Goodbye
)
WorkerMessage = (
    Welcome
    | Opened
    | Ack
    | Nack
    | State
    | Sessions
    | History
    | Deleted
    | Update
    | Updates
    | Tapped
    | Pong
    | Moved
    | Routes
)
Message = ClientMessage | WorkerMessage
