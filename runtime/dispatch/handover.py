"""Giving key groups up: freeze -> what is settled is saved -> forget -> given up. No session is ever in two places.

A frozen group takes nothing more. What was fused and has not settled is not durable: its publishers send it again, to
whoever owns the group then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from runtime.dispatch.ownership import OwnedGroups
from runtime.engine.engine import Engine
from runtime.engine.session import Session
from runtime.keys import key_group
from runtime.nack_codes import RetryCode


class Handover:
    def __init__(self, engine: Engine, owned: OwnedGroups, forget: Callable[[Session, RetryCode, str], None]) -> None:
        """`forget` a resident session and tell those who publish to it why."""
        self._engine = engine
        self._owned = owned
        self._forget = forget
        self._staying: list[Session] = []
        """of frozen groups, not saved yet"""

    def begin(self, groups: Iterable[int]) -> bool:
        """Freeze these; False if all of them were already. The order comes with every beat, and looking at all sessions
        takes a second when there are a million."""
        frozen = self._owned.freeze(groups)
        if frozen:
            self._staying += [one for key, one in self._engine.sessions.items() if key_group(key) in frozen]
        return bool(frozen)

    def go_on(self) -> None:
        """Let go of what is saved, and give up the groups of which nothing is left."""
        frozen = set(self._owned.frozen)
        if not frozen:
            self._staying.clear()
            return
        here = [one for one in self._staying if self._engine.sessions.get(one.key) is one]
        for session in here:
            if not session.dirty:
                self._forget(session, "not_owner", f"key group {key_group(session.key)} moves")
        self._staying = [session for session in here if session.dirty]
        for group in frozen - {key_group(session.key) for session in self._staying}:
            self._owned.give_up(group)
