"""Why a message or a segment was not taken, or was taken with a remark: the codes of a Nack.

A final code means that sending it again gives the same answer; a retry code, that it is to be sent again.
"""

from __future__ import annotations

from typing import Literal, get_args

FinalCode = Literal[
    "malformed",  # not a message of this protocol
    "version",  # a protocol version this worker does not speak
    "unauthorised",
    "bad_id",
    "unknown_modality",
    "bad_segment",  # width, length, dtype or value of the frames
    "far_future",
    "late",  # at or before the watermark, and the policy drops
    "step_failed",  # the model gave no finite result for this segment
    "not_found",
    "too_large",
]
RetryCode = Literal[
    "hello_first",  # this worker does not know the connection (it is new, or was restarted)
    "not_open",  # the stream is not open on this worker: OPEN it, then send again from the durable mark
    "slow_down",  # a limit is reached: send again from this sequence after retry_after_ms
    "not_owner",  # the session's key group is served elsewhere
    "unavailable",  # the store does not answer
]
NoticeCode = Literal[
    "late_fused",  # it was late, and the policy fused it at the watermark
    "session_reset",  # the session does not continue what the client knew; the text says why
    "stream_taken",  # another publisher opened this stream; this one no longer owns it
]
Code = FinalCode | RetryCode | NoticeCode

RETRY_CODES: frozenset[str] = frozenset(get_args(RetryCode))
NOTICE_CODES: frozenset[str] = frozenset(get_args(NoticeCode))
SEGMENT_CODES: frozenset[str] = frozenset({"bad_segment", "far_future", "late", "step_failed"})
"""final codes that are about one segment: its stream goes on"""
OPENING_CODES: frozenset[str] = frozenset({"bad_id", "malformed", "too_large", "unknown_modality"})
"""final codes that, in answer to Open, say that the stream can never be opened"""
