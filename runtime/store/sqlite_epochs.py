"""Epochs of key groups, which every write asks for and which hardly ever change."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping


class CurrentEpochs:
    """As one connection sees them. They are read again once another connection has changed the file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._seen: dict[int, int] = {}
        self._changes: int | None = None
        """that others have made, by the connection's count, when they were seen"""

    def of(self, groups: Iterable[int]) -> Mapping[int, int]:
        """Of these groups, and maybe of others; 0 if nobody has claimed one. For use within a transaction."""
        (changes,) = self._connection.execute("PRAGMA data_version").fetchone()
        if changes != self._changes:
            self._seen, self._changes = {}, changes
        unseen = [group for group in groups if group not in self._seen]
        if unseen:
            self._seen.update(dict.fromkeys(unseen, 0) | self._read(unseen))
        return self._seen

    def forget(self) -> None:
        """This connection is about to change them, which it does not count."""
        self._seen = {}

    def _read(self, groups: list[int]) -> dict[int, int]:
        """In one row: at each row the interpreter's lock changes hands."""
        (found,) = self._connection.execute(
            "SELECT json_group_object(key_group, epoch) FROM groups"
            " WHERE key_group IN (SELECT value FROM json_each(?))",
            (json.dumps(groups),),
        ).fetchone()
        return {int(group): epoch for group, epoch in json.loads(found).items()}
