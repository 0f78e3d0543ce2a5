"""What requests and answers about sessions look like: the OpenAPI at /docs is made of these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, model_validator

MAX_EVENT_TIME_S = 1e15
MAX_SEQUENCE = 2**62
MAX_VERSION = 2**63 - 1
MAX_WAIT_MS = 60_000
MAX_FIELDS = 64
"""of an object in a request; more are refused together: an error for each of hundreds of thousands takes seconds"""


def _not_text_nor_true(value: object) -> object:
    if isinstance(value, str | bool):
        raise ValueError("Input should be a number")
    return value


Number = Annotated[float, Field(strict=True)]
"""neither text nor true: whoever sends those means something else"""
WholeNumber = Annotated[int, BeforeValidator(_not_text_nor_true)]
"""the same; 3.0 is one, for there are languages that have no other numbers"""
EventTime = Annotated[Number, Field(gt=-MAX_EVENT_TIME_S, lt=MAX_EVENT_TIME_S, allow_inf_nan=False, examples=[12.4])]

Frame = Annotated[list[Number], Field(min_length=1), FailFast()]
Frames = Annotated[list[Frame], FailFast()]
"""the first fault alone: a body holds millions of numbers, and an error for each would be larger than it"""


def _example(content: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [content]})


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class ErrorDetail(Answer):
    code: str
    """one of a small set, for programs: `late`, `bad_segment`, `unauthorised`, ... (docs/http.md)"""
    message: str
    """for people"""


class ErrorAnswer(Answer):
    """Every answer that is not a success."""

    model_config = _example({"error": {"code": "late", "message": "0.731000 s behind the watermark"}})

    error: ErrorDetail


def refusals(by_status: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """How an endpoint declares its errors: status and when."""
    return {status: {"model": ErrorAnswer, "description": text} for status, text in by_status.items()}


# ---- state ------------------------------------------------------------------------------------------------


class ClassOutput(Answer):
    """What a classification head says."""

    label: str
    confidence: float
    probabilities: dict[str, float]


class ValueOutput(Answer):
    """What a regression head with one output says."""

    value: float


class ValuesOutput(Answer):
    """What a regression head with several outputs says."""

    values: list[float]


class FusedState(Answer):
    """The context after some segments, and what the heads make of it."""

    version: int
    """how many segments are in the context"""
    event_time_s: float
    """of the newest segment in it"""
    outputs: dict[str, ClassOutput | ValueOutput | ValuesOutput]
    """by head"""
    shares: dict[str, float]
    """how much of the context each modality accounts for; the shares sum to 1"""
    gate: float
    """mean of the update gate at the last step: how much that segment changed the context"""
    context: list[list[float]] | None = None
    """the context itself, [K, d_model], where it was asked for"""


class Freshness(Answer):
    event_time_s: float
    """newest event of the modality in the context"""
    behind_s: float
    """how much older that is than the newest event of any modality"""


_FUSED = {
    "outputs": {
        "activity": {"label": "walking", "confidence": 0.93, "probabilities": {"walking": 0.93, "standing": 0.07}}
    },
    "shares": {"accelerometer": 0.64, "gyroscope": 0.36},
    "gate": 0.21,
}


class StateAnswer(Answer):
    """One session: `live` holds all that has landed, `settled` all up to the watermark, for good."""

    model_config = _example(
        {
            "tenant": "default",
            "session": "robot-7",
            "model": "motion",
            "version": 97,
            "live": _FUSED | {"version": 97, "event_time_s": 12.4},
            "settled": _FUSED | {"version": 91, "event_time_s": 11.9},
            "durable_version": 91,
            "watermark_s": 11.9,
            "pending": 6,
            "modalities": {
                "accelerometer": {"event_time_s": 12.4, "behind_s": 0.0},
                "gyroscope": {"event_time_s": 12.3, "behind_s": 0.1},
            },
            "lineage": "8f19ea8e884295df4d509deb3010a3df",
            "reset_reason": "",
            "timed_out": False,
        }
    )

    tenant: str
    session: str
    model: str
    version: int
    """of the live state; it grows with every segment that lands"""
    live: FusedState | None
    settled: FusedState | None
    durable_version: int
    """how many segments are in the settled state that the store holds"""
    watermark_s: float | None
    """no segment at or before this event time is waited for any more; null before the first"""
    pending: int
    """segments that are not settled yet"""
    modalities: dict[str, Freshness]
    """those that have been fused"""
    lineage: str
    """digest of all settled segments in their order, by event time, modality, stream and sequence number, not of their
    frames"""
    reset_reason: str
    """why the session does not continue what was stored of it; empty if it does"""
    timed_out: bool = False
    """the version asked for was not reached in time; this is what there is"""


class SessionsAnswer(Answer):
    sessions: list[str]
    """ids in code point order"""
    next: str | None
    """give it as `after` for the next page; null on the last one"""


class HistoryRow(Answer):
    """One settled version."""

    version: int
    event_time_s: float
    modality: str
    """of the segment that made it"""
    outputs: dict[str, ClassOutput | ValueOutput | ValuesOutput]
    shares: dict[str, float]
    gate: float


class HistoryAnswer(Answer):
    session: str
    rows: list[HistoryRow]
    """oldest first; the newest `limit` of those asked for"""


class DeletedAnswer(Answer):
    session: str
    existed: bool


# ---- publishing -------------------------------------------------------------------------------------------


class SegmentPost(BaseModel):
    """One segment of one stream."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    stream: str = Field(examples=["wrist"])
    """name of the source within the session"""
    modality: str = Field(examples=["imu"])
    """one of the model's (GET /v1/model)"""
    event_time_s: EventTime
    """when it happened, in seconds; any epoch, but one and the same for a session"""
    frames: Frames = Field(examples=[[[0.1, -0.2, 9.8, 0.0, 0.01, 0.0]]])
    """[T, F]: T frames of the modality's width F"""
    sequence: WholeNumber | None = Field(default=None, ge=1, le=MAX_SEQUENCE, examples=[1])
    """1, 2, 3, ... within the stream. With a number, posting again is free: what the stream has is not fused twice.
    Without one the gateway numbers the segment, and posting again is another segment"""
    oldest: WholeNumber = Field(default=1, ge=1, le=MAX_SEQUENCE)
    """lowest sequence number that may still be posted: what lies below and never came is given up. Raise it to go on
    after a gap, or to start a stream elsewhere than at 1"""
    wait: Literal["fused", "durable", "none"] = "fused"
    """answer once the segment is in the live state, or once no crash can lose it, or at once"""
    wait_ms: WholeNumber = Field(default=10_000, ge=0, le=MAX_WAIT_MS)
    """for how long at most; then the answer is an error `timeout`"""

    @model_validator(mode="before")
    @classmethod
    def _check_size(cls, content: Any) -> Any:
        if isinstance(content, dict) and len(content) > MAX_FIELDS:
            raise ValueError(f"{len(content)} fields, {len(cls.model_fields)} are known")
        return content

    @model_validator(mode="after")
    def _check_oldest(self) -> SegmentPost:
        if self.sequence is not None and self.oldest > self.sequence:
            raise ValueError(f"oldest ({self.oldest}) is above sequence ({self.sequence})")
        return self


class Notice(Answer):
    code: str
    """late_fused or session_reset"""
    message: str


class PublishedAnswer(Answer):
    """What has become of a posted segment."""

    model_config = _example(
        {
            "session": "robot-7",
            "stream": "wrist",
            "sequence": 42,
            "version": 97,
            "fused": True,
            "durable": False,
            "duplicate": False,
            "notice": None,
        }
    )

    session: str
    stream: str
    sequence: int | None
    """null while the gateway has not numbered the segment (`wait` none)"""
    version: int | None
    """the live state with this version, or a later one, holds the segment; null before it is fused"""
    fused: bool
    durable: bool
    duplicate: bool
    """the stream had this number: nothing was fused again"""
    notice: Notice | None
    """a remark: the segment was late and fused all the same, or the session was reset"""
