"""Sessions over HTTP: list, state, history, delete, publish. A handler parses, calls one method, renders."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from starlette.responses import Response

from runtime.gateway.asking import SessionId, TheBackend, WhoAsks
from runtime.gateway.backend import CallerClients
from runtime.gateway.errors import ApiError
from runtime.gateway.json_answer import JsonAnswer
from runtime.gateway.models import (
    MAX_VERSION,
    MAX_WAIT_MS,
    DeletedAnswer,
    HistoryAnswer,
    PublishedAnswer,
    SegmentPost,
    SessionsAnswer,
    StateAnswer,
    refusals,
)
from runtime.gateway.post_route import CONNECTED_WITHIN_S, PostRoute
from runtime.gateway.posted import Posted
from runtime.keys import check_id
from runtime.messages import Float32Array

session_routes = APIRouter(tags=["sessions"])
post_routes = APIRouter(tags=["sessions"], route_class=PostRoute)

NOT_FOUND = refusals({404: "there is no such session"})
NOT_TAKEN = refusals(
    {
        409: "late, a gap in the sequence numbers, a reset session, a stream that another publisher has opened",
        413: "the body is too large",
        429: "a limit is reached: try again after Retry-After",
    }
)


@session_routes.get("/v1/sessions", response_model=SessionsAnswer, summary="List session ids")
async def list_sessions(
    backend: TheBackend,
    caller: WhoAsks,
    after: Annotated[str, Query(description="ids greater than this, in code point order")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    async with backend.clients(caller) as clients:
        sessions, more = await clients.state.sessions(
            after=after, limit=limit, timeout_s=backend.policy.answer_timeout_s
        )
    return JsonAnswer({"sessions": sessions, "next": sessions[-1] if more and sessions else None})


@session_routes.get(
    "/v1/sessions/{session}", response_model=StateAnswer, responses=NOT_FOUND, summary="Live and settled state"
)
async def get_state(
    backend: TheBackend,
    caller: WhoAsks,
    session: SessionId,
    after: Annotated[
        int,
        Query(
            ge=0, le=MAX_VERSION, description="read your writes: wait for this version, which a publishing answer named"
        ),
    ] = 0,
    wait_ms: Annotated[int, Query(ge=0, le=MAX_WAIT_MS, description="how long to wait for that version")] = 0,
    context: Annotated[bool, Query(description="with the raw context")] = False,
) -> Response:
    """Answers at once, or as soon as the live version is at least `after`; `timed_out` says that it was not in time."""
    async with backend.clients(caller) as clients:
        state = await clients.state.state(
            session,
            after_version=after,
            wait_s=wait_ms / 1000,
            include_context=context,
            timeout_s=backend.policy.answer_timeout_s,
        )
    return JsonAnswer(state)


@session_routes.get("/v1/sessions/{session}/history", response_model=HistoryAnswer, summary="Settled versions in time")
async def get_history(
    backend: TheBackend,
    caller: WhoAsks,
    session: SessionId,
    from_s: Annotated[
        float | None, Query(alias="from", allow_inf_nan=False, description="event time, seconds; inclusive")
    ] = None,
    to_s: Annotated[
        float | None, Query(alias="to", allow_inf_nan=False, description="event time, seconds; inclusive")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """A bounded number of settled versions is kept for each session; a session that does not exist has none."""
    first_s = float("-inf") if from_s is None else from_s
    last_s = float("inf") if to_s is None else to_s
    async with backend.clients(caller) as clients:
        rows = await clients.state.history(
            session, from_s=first_s, to_s=last_s, limit=limit, timeout_s=backend.policy.answer_timeout_s
        )
    return JsonAnswer({"session": session, "rows": rows})


@session_routes.delete("/v1/sessions/{session}", response_model=DeletedAnswer, summary="Forget a session for good")
async def delete_session(backend: TheBackend, caller: WhoAsks, session: SessionId) -> Response:
    """Deleting twice is no error. Who publishes to the session afterwards begins a new one."""
    async with backend.clients(caller) as clients:
        clients.forget_session(session)
        existed = await clients.state.delete(session, timeout_s=backend.policy.answer_timeout_s)
    return JsonAnswer({"session": session, "existed": existed})


@post_routes.post(
    "/v1/sessions/{session}/segments",
    response_model=PublishedAnswer,
    responses={202: {"model": PublishedAnswer, "description": "taken, not waited for (`wait` none)"}, **NOT_TAKEN},
    summary="Publish one segment",
)
async def publish(backend: TheBackend, caller: WhoAsks, session: SessionId, segment: SegmentPost) -> Response:
    """For occasional segments and for clients that speak nothing else; streams are better sent over ZeroMQ.

    The gateway keeps the segment and sends it again until it is durable. With a `sequence` posting again is free, so
    repeat what was answered by 503, or not at all.
    """
    check_id("stream", segment.stream)
    check_id("modality", segment.modality)  # what cannot travel would end the connection for all that is held
    frames = _as_frames(segment.frames)
    wait_s = segment.wait_ms / 1000
    async with backend.clients(caller) as clients:
        await clients.state.check(min(max(wait_s, CONNECTED_WITHIN_S), backend.policy.answer_timeout_s))
        posted, again = await clients.relay.post(
            session,
            segment.stream,
            segment.modality,
            frames,
            segment.event_time_s,
            sequence=segment.sequence or 0,
            oldest=segment.oldest,
            timeout_s=wait_s,
        )
        if segment.wait == "none":
            return JsonAnswer(_published(session, segment.stream, posted, again), 202)
        if not await clients.relay.wait(posted, segment.wait, wait_s):
            raise _not_in_time(clients, session, segment, posted)
    return JsonAnswer(_published(session, segment.stream, posted, again))


def _as_frames(rows: list[list[float]]) -> Float32Array:
    if not rows or not rows[0]:
        raise ApiError("bad_segment", "frames are empty, expected [T, F]")
    if any(len(row) != len(rows[0]) for row in rows):
        raise ApiError("bad_segment", "frames have rows of different lengths, expected [T, F]")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and the worker says so
        return np.array(rows, dtype=np.float32)


def _published(session: str, stream: str, posted: Posted, again: bool) -> dict[str, object]:
    return {
        "session": session,
        "stream": stream,
        "sequence": posted.sequence or None,
        "version": posted.version if posted.is_fused else None,
        "fused": posted.is_fused,
        "durable": posted.is_durable,
        "duplicate": posted.is_duplicate or again,
        "notice": {"code": posted.notice[0], "message": posted.notice[1]} if posted.notice else None,
    }


def _not_in_time(clients: CallerClients, session: str, segment: SegmentPost, posted: Posted) -> ApiError:
    within = f"within {segment.wait_ms} ms"
    if clients.relay.withdraw(session, segment.stream, posted):
        return ApiError("timeout", f"not sent {within} (is the runtime or the store away?), and taken back: post again")
    upto = clients.relay.fused_upto(session, segment.stream)
    done = "fused but not durable" if posted.is_fused else f"not fused (the stream is complete up to {upto})"
    text = f"{done} {within}; the gateway goes on trying. To be sure, post it again with sequence {posted.sequence}"
    return ApiError("timeout", text)
