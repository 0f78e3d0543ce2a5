"""What a reader may ask, and what the answers say: the same for threads and for asyncio. Raises InvalidId for a session
that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Any, Generic, TypeVar

from runtime import messages as m
from runtime.client.given import as_time_s
from runtime.client.state_core import Answer, Question
from runtime.keys import check_id

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asking(Generic[T]):
    question: Callable[[int], Question]
    """made from the number of the request"""
    read: Callable[[Answer], T]
    held_s: float = 0.0
    """for so long the worker may hold its answer back"""


def ask_state(session: str, after_version: int, wait_s: float, include_context: bool) -> Asking[dict[str, Any]]:
    check_id("session", session)
    version, wait_ms = index(after_version), int(wait_s * 1000)

    def read(answer: Answer) -> dict[str, Any]:
        assert isinstance(answer, m.State)
        return answer.state | {"timed_out": answer.timed_out}

    return Asking(lambda request: m.Query(request, session, version, wait_ms, include_context), read, wait_s)


def ask_sessions(after: str, limit: int) -> Asking[tuple[list[str], bool]]:
    def read(answer: Answer) -> tuple[list[str], bool]:
        assert isinstance(answer, m.Sessions)
        return answer.sessions, answer.more

    return Asking(lambda request: m.ListSessions(request, after, limit), read)


def ask_history(session: str, from_s: float, to_s: float, limit: int) -> Asking[list[dict[str, Any]]]:
    check_id("session", session)
    between_s, n_rows = (as_time_s(from_s), as_time_s(to_s)), index(limit)

    def read(answer: Answer) -> list[dict[str, Any]]:
        assert isinstance(answer, m.History)
        return answer.rows

    return Asking(lambda request: m.QueryHistory(request, session, *between_s, n_rows), read)


def ask_to_delete(session: str) -> Asking[bool]:
    check_id("session", session)

    def read(answer: Answer) -> bool:
        assert isinstance(answer, m.Deleted)
        return answer.existed

    return Asking(lambda request: m.Delete(request, session), read)
