"""The store of a cluster: a Redis, alone, behind Sentinels, or a Redis Cluster. Needs the extra `redis`.

All keys of a key group bear its number as hash tag, so a group lives on one node of a cluster:

    grf:{17}            hash    owner, epoch, number of the owner's last write
    grf:{17}:records    hash    tenant NUL session -> record
    grf:{17}:names      zset    tenant NUL session, in the order of their bytes
    grf:{17}:history:tenant NUL session    zset by version
    grf:{leases}        hash    owner -> count of renewals
    grf:{notes}         hash    of controllers

A write is one script that checks the epochs first: on one server for all groups at once, on a cluster group by group.
Of one owner's writes none takes effect after a later one, whatever network and server do with their order.
It is as durable as the server makes it before it answers: docs/decisions/redis.md.
"""

from __future__ import annotations

import heapq
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runtime.keys import KEY_GROUPS, SessionKey, key_group
from runtime.records import HistoryRow, SessionRecord
from runtime.store import redis_scripts as scripts
from runtime.store.base import Ownership, StoreFenced
from runtime.store.fencing import check_epochs, check_expected, new_count
from runtime.store.redis_address import RedisAddress, parse_redis
from runtime.store.redis_server import Command, RedisServer
from runtime.store.sealing import (
    HistoryPiece,
    begins_at,
    open_history,
    open_record,
    seal_history,
    seal_record,
    wanted_rows,
)

LOAD_CHUNK = 256
"""sessions in one answer of the server"""
PAGE = 16
"""names of one group that are asked for first: a listing is spread over all groups"""
_PIECE = struct.Struct("<qd")
Part = tuple[int, list[str], list[Any]]
"""of a write: key group, keys, arguments"""


class RedisStore:
    """`runtime.store.base.Store` at a `redis://` address (redis_address.py). Raises StoreError, ValueError."""

    def __init__(self, address: str | RedisAddress, *, history_length: int = 256, only_reads: bool = False) -> None:
        """`only_reads`: nothing is written, so it may be a replica, or full; there has to be a store."""
        self.history_length = history_length
        self._writes = time.time_ns() // 1000
        """numbers of writes, each greater than the last: a Lua number holds microseconds exactly"""
        parsed = parse_redis(address) if isinstance(address, str) else address
        self._server = RedisServer(parsed, only_reads=only_reads)
        self.address = self._server.address

    def load(self, keys: Sequence[SessionKey]) -> dict[SessionKey, SessionRecord]:
        self._server.refuse_closed()
        found: dict[SessionKey, SessionRecord] = {}
        for start in range(0, len(keys), LOAD_CHUNK):
            chunk = keys[start : start + LOAD_CHUNK]
            answers = self._server.ask(
                [("HGET", self._server.key(key_group(key), "records"), _field(key)) for key in chunk]
            )
            found |= {key: open_record(key, data) for key, data in zip(chunk, answers, strict=True) if data is not None}
        return found

    def save(self, epochs: Mapping[int, int], records: Sequence[SessionRecord]) -> None:
        self._write(epochs, [(record, begins_at(record)) for record in records])

    def delete(self, epochs: Mapping[int, int], key: SessionKey) -> bool:
        group = key_group(key)
        keys = [self._server.key(group, "records"), self._server.key(group, "names"), self._history_key(key)]
        (answer,) = self._run_fenced(
            scripts.DELETE_SCRIPT, {**epochs, group: epochs.get(group, 0)}, [(group, keys, [_field(key)])]
        )
        return bool(answer[1])

    def scan(self, tenant: str, after: str, limit: int) -> list[str]:
        start = b"(" + _field(SessionKey(tenant, after)) if after else b"[" + tenant.encode() + b"\0"
        fields = self._names(start, b"(" + tenant.encode() + b"\1", max(0, limit))
        return [_session_key(field).session for field in fields]

    def history(self, key: SessionKey, from_s: float, to_s: float, limit: int) -> list[HistoryRow]:
        (members,) = self._server.ask([("ZRANGE", self._history_key(key), 0, -1)])
        return wanted_rows(self._history_rows(key, members), from_s, to_s, limit)

    # ---- owners and leases ----

    def claim(self, owner: str, expected: Mapping[int, int]) -> dict[int, int]:
        lease: Command = ("HSETNX", self._server.key("leases"), owner, new_count())
        try:
            parts: list[Part] = [(group, [], [owner]) for group in expected]
            self._run_fenced(scripts.CLAIM_SCRIPT, expected, parts, claims=lease)
        except StoreFenced:
            check_expected(self._epochs(expected), expected)  # says so in the words of every store
            raise
        return {group: epoch + 1 for group, epoch in expected.items()}

    def ownership(self) -> dict[int, Ownership]:
        answers = self._server.ask(
            [("HMGET", self._server.key(group), "owner", "epoch") for group in range(KEY_GROUPS)]
        )
        return {
            group: Ownership(owner.decode(), int(epoch))
            for group, (owner, epoch) in enumerate(answers)
            if owner is not None
        }

    def leases(self) -> dict[str, int]:
        (answer,) = self._server.ask([("HGETALL", self._server.key("leases"))])
        return {owner.decode(): int(count) for owner, count in answer.items()}

    def renew(self, owner: str, count: int) -> None:
        self._change_lease(scripts.RENEW, owner, count)

    def revoke(self, owner: str, count: int) -> None:
        self._change_lease(scripts.REVOKE, owner, count)

    def _change_lease(self, script: str, owner: str, count: int) -> None:
        (answer,) = self._server.ask([("EVAL", script, 1, self._server.key("leases"), owner, count)], writes=True)
        if answer[0] != b"done":
            raise StoreFenced(f"{owner}: its lease is not the one that stood at {count}")

    def note(self, name: str, value: str) -> None:
        self._server.ask([("HSET", self._server.key("notes"), name, value)], writes=True)

    def notes(self) -> dict[str, str]:
        (answer,) = self._server.ask([("HGETALL", self._server.key("notes"))])
        return {name.decode(): value.decode() for name, value in answer.items()}

    # ---- everything ----

    def records(self) -> Iterator[SessionRecord]:
        """As the contract says: each session whole, as it was at some moment of the export."""
        self._server.refuse_closed()
        return self._records()

    def _records(self) -> Iterator[SessionRecord]:
        start = b"-"
        while fields := self._names(start, b"+", LOAD_CHUNK):
            keys = [_session_key(field) for field in fields]
            places = [(self._server.key(key_group(key), "records"), self._history_key(key)) for key in keys]
            commands = [
                ("EVAL", scripts.READ_WHOLE, 2, *place, field) for place, field in zip(places, fields, strict=True)
            ]
            for key, (sealed, members) in zip(keys, self._server.ask(commands), strict=True):
                if sealed is not None:  # else it was deleted meanwhile
                    yield replace(open_record(key, sealed), history=tuple(self._history_rows(key, members)))
            start = b"(" + fields[-1]

    def restore(self, records: Sequence[SessionRecord]) -> None:
        # Unfenced by taking the epochs as they are: the runtime is down, nobody claims meanwhile.
        self._write({}, [(record, "-inf") for record in records], fenced=False)

    def close(self) -> None:
        self._server.close()

    # ---- writing ----

    def _write(self, epochs: Mapping[int, int], records: list[tuple[SessionRecord, Any]], fenced: bool = True) -> None:
        """Records, each with the version from which on what is stored of the history makes way."""
        parts = []
        for record, not_before in records:
            group = key_group(record.key)
            piece = seal_history(record, self.history_length)
            pieces = [] if piece is None else [piece.version, _member(piece)]
            keys = [self._server.key(group, "records"), self._server.key(group, "names"), self._history_key(record.key)]
            oldest = record.version - self.history_length + 1
            limits = [not_before, oldest, len(pieces) // 2]
            parts.append((group, keys, [_field(record.key), seal_record(record), *limits, *pieces]))
        if fenced:
            groups = {group for group, _, _ in parts}
            self._run_fenced(scripts.SAVE_SCRIPT, {**dict.fromkeys(groups, 0), **epochs}, parts)
        else:
            self._run(scripts.SAVE_SCRIPT, {}, parts, [0])

    def _run_fenced(
        self,
        script: str,
        epochs: Mapping[int, int],
        parts: list[Part],
        claims: Command | None = None,
    ) -> list[Any]:
        """The script for these parts (group, keys, arguments), provided that all epochs are the current ones.

        `claims` is the command that gives a claimer its lease; it comes before the script.
        """
        self._server.refuse_closed()
        if not claims and not all(epochs.values()):  # nobody owns a group at epoch 0
            self._refuse(epochs)
        if self._server.is_cluster:  # the groups are written one after another: first a look at all of them
            check = check_expected if claims else _check_owned
            check(self._epochs(epochs), epochs)
        answers = self._run_in_turn(script, epochs, parts, claims)
        if any(answer[0] != b"done" for answer in answers):
            if not claims:
                self._refuse(epochs)
            raise StoreFenced("another claim was quicker")
        return answers

    def _run_in_turn(
        self, script: str, epochs: Mapping[int, int], parts: list[Part], claims: Command | None
    ) -> list[Any]:
        if claims:
            return self._claim(script, epochs, parts, claims)
        while True:
            self._writes += 1
            answers = self._run(script, epochs, parts, [self._writes])
            last = max((int(answer[1]) for answer in answers if answer[0] == b"overtaken"), default=0)
            if not last:
                return answers
            # Who reads this answer is the owner, and this is its last write: its numbers began too low.
            self._writes = max(self._writes, last)

    def _claim(self, script: str, epochs: Mapping[int, int], parts: list[Part], lease: Command) -> list[Any]:
        """One round trip where that keeps the order: publishers wait for it."""
        if self._server.is_cluster:
            self._server.ask([lease])
            return self._run(script, epochs, parts, [])
        return self._server.ask([lease, self._command(script, epochs, parts, [])], writes=True)[1:]

    def _refuse(self, epochs: Mapping[int, int]) -> None:
        """Raise StoreFenced with the reason."""
        _check_owned(self._epochs(epochs), epochs)
        raise StoreFenced("a key group has changed hands this moment")

    def _run(self, script: str, epochs: Mapping[int, int], parts: list[Part], turn: list[int]) -> list[Any]:
        self._server.refuse_closed()
        if not self._server.is_cluster:
            return (
                self._server.ask([self._command(script, epochs, parts, turn)], writes=True) if epochs or parts else []
            )
        by_group: dict[int, list[Part]] = {}
        for part in parts:
            by_group.setdefault(part[0], []).append(part)
        commands = [
            self._command(script, {group: epochs[group]} if group in epochs else {}, mine, turn)
            for group, mine in by_group.items()
        ]
        return self._server.ask(commands, writes=True)

    def _command(self, script: str, epochs: Mapping[int, int], parts: list[Part], turn: list[int]) -> Command:
        keys = [*(self._server.key(group) for group in epochs), *(key for _, keys, _ in parts for key in keys)]
        arguments = [argument for _, _, arguments in parts for argument in arguments]
        return ("EVAL", script, len(keys), *keys, len(epochs), *epochs.values(), *turn, *arguments)

    # ---- reading ----

    def _epochs(self, groups: Iterable[int]) -> dict[int, int]:
        wanted = list(groups)
        answers = self._server.ask([("HGET", self._server.key(group), "epoch") for group in wanted])
        return {group: int(epoch or 0) for group, epoch in zip(wanted, answers, strict=True)}

    def _names(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        """The first `limit` names of all groups between two bounds of ZRANGEBYLEX, in order."""
        found: list[bytes] = []
        page = min(PAGE, limit)
        starts = dict.fromkeys(range(KEY_GROUPS), start) if limit else {}
        while starts:
            commands = [
                ("ZRANGEBYLEX", self._server.key(group, "names"), begin, end, "LIMIT", 0, page)
                for group, begin in starts.items()
            ]
            pages = dict(zip(starts, self._server.ask(commands), strict=True))
            found = heapq.nsmallest(limit, [*found, *(name for names in pages.values() for name in names)])
            # A group may have more before the last one found only if its page was full and ended before that.
            starts = {
                group: b"(" + names[-1]
                for group, names in pages.items()
                if len(names) == page and (len(found) < limit or names[-1] < found[-1])
            }
        self._server.refuse_closed()
        return found

    def _history_rows(self, key: SessionKey, members: Iterable[bytes]) -> list[HistoryRow]:
        return open_history(key, sorted(map(_piece, members)), self.history_length)

    def _history_key(self, key: SessionKey) -> str:
        return self._server.key(key_group(key), f"history:{key.tenant}\0{key.session}")


def _check_owned(current: Mapping[int, int], epochs: Mapping[int, int]) -> None:
    check_epochs(current, epochs, ())


def _field(key: SessionKey) -> bytes:
    return f"{key.tenant}\0{key.session}".encode()


def _session_key(field: bytes) -> SessionKey:
    tenant, _, session = field.decode().partition("\0")
    return SessionKey(tenant, session)


def _member(piece: HistoryPiece) -> bytes:
    return _PIECE.pack(piece.version, piece.event_time_s) + piece.sealed


def _piece(member: bytes) -> HistoryPiece:
    version, event_time_s = _PIECE.unpack_from(member)
    return HistoryPiece(version, event_time_s, member[_PIECE.size :])
