"""The Redis of a store: what is asked of it, the names of its keys, and what its errors mean to us."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from runtime.keys import KEY_GROUPS
from runtime.store.base import StoreError, StoreUnavailable, StoreUnusable
from runtime.store.redis_address import ANSWER_WITHIN_S, RedisAddress, connect

log = logging.getLogger(__name__)

SCHEMA = b"1"
ADVICE = {
    "AuthenticationError": "it asks for a password, or for another one: give it in the address",
    "NoPermissionError": "its user may not do what a store does: give it the right, or another user in the address",
    "OutOfMemoryError": "it is full: raise its maxmemory, or free some of it",
    "ReadOnlyError": "it is a replica, and takes no writes: give the address of the master",
}
"""by the client's errors whose own words do not say what to do"""
Command = tuple[Any, ...]


class RedisServer:
    """One server, whoever Sentinels say it is, or a cluster. Raises StoreError."""

    def __init__(self, address: RedisAddress, *, only_reads: bool = False) -> None:
        """Raises StoreUnusable for a server of another schema, and for one that may drop what is stored."""
        self.address = address
        self.is_cluster = address.kind == "cluster"
        self._closed = False
        with translating(address):
            self.client: Any = connect(address)
            self._check_schema(makes=not only_reads)
            if not only_reads:
                self._check_durability()

    def ask(self, commands: Sequence[Command], writes: bool = False) -> list[Any]:
        """Send commands in one go and return their answers; with `writes`, once enough replicas have them."""
        self.refuse_closed()
        replicas = self.address.options.replicas if writes else 0
        with translating(self.address):
            pipeline = self.client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            if replicas:  # on the same connection: it counts what was written there
                pipeline.execute_command("WAIT", replicas, int(ANSWER_WITHIN_S * 500))
            answers: list[Any] = pipeline.execute()
        if replicas and (reached := answers.pop()) < replicas:
            raise StoreUnavailable(f"store {self.address}: {reached} of {replicas} replicas have the write")
        return answers

    def key(self, tag: int | str, rest: str = "") -> str:
        """`tag` is a key group, or what belongs to none."""
        return f"{self.address.options.prefix}:{{{tag}}}" + (f":{rest}" if rest else "")

    def refuse_closed(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"store {self.address}: it was closed")

    def close(self) -> None:
        self._closed = True
        self.client.close()

    def _check_schema(self, *, makes: bool) -> None:
        """A store that is there is not written to: what it holds can be had from a server that is full as well."""
        schema = self.client.get(self.key("schema"))
        if schema is None and makes:
            self.client.set(self.key("schema"), SCHEMA, nx=True)
            schema = self.client.get(self.key("schema"))
        if schema is None and self._is_owned():
            return  # emptied while a runtime was at work, which has saved what it had once more
        if schema is None:
            raise StoreUnavailable(f"store {self.address}: there is none, no key {self.key('schema')!r}")
        if schema != SCHEMA:
            raise StoreUnusable(f"store {self.address}: schema {schema!r}, this version knows {SCHEMA!r}")

    def _is_owned(self) -> bool:
        """Has anybody claimed a key group?"""
        return any(self.ask([("EXISTS", self.key(group)) for group in range(KEY_GROUPS)]))

    def _check_durability(self) -> None:
        try:
            config = self.client.config_get("maxmemory-policy", "appendonly", "appendfsync")
        except Exception as error:  # a managed Redis may hide its settings
            log.warning("store %s: cannot see how durable it is: %s", self.address, error)
            return
        settings = {_text(name): _text(value) for name, value in config.items()}
        if settings.get("maxmemory-policy", "noeviction") != "noeviction":
            policy = settings["maxmemory-policy"]
            raise StoreUnusable(f"store {self.address}: it may drop what is stored: maxmemory-policy is {policy}")
        synced = settings.get("appendonly") == "yes" and settings.get("appendfsync") == "always"
        if not synced and not self.address.options.replicas:
            log.warning(
                "store %s: a crash of its machine may lose the last second: see decisions/redis.md", self.address
            )


@contextmanager
def translating(address: RedisAddress) -> Iterator[None]:
    """Errors of the client in our words; see `meaning`."""
    try:
        yield
    except (StoreError, ValueError):
        raise
    except OSError as error:
        raise StoreUnavailable(f"store {address}: {error}") from error
    except Exception as error:
        kind = meaning(error)
        if kind is None:
            raise
        raise kind(f"store {address}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """Without the script in which it happened, and without the last full stop."""
    words = str(error).rpartition(" of pipeline caused error: ")[2].partition(" script: ")[0].rstrip(".")
    advice = ADVICE.get(type(error).__name__)
    return f"{advice} ({words})" if advice else words


def meaning(error: Exception) -> type[StoreError] | None:
    """What an error of the client means; None for one that is not the client's."""
    from redis import exceptions as e

    if isinstance(error, e.AuthenticationError | e.AuthorizationError | e.NoPermissionError):
        return StoreUnusable
    away = (e.ConnectionError, e.TimeoutError, e.ReadOnlyError, e.OutOfMemoryError, e.ClusterError, e.TryAgainError)
    if isinstance(error, away):
        return StoreUnavailable
    if isinstance(error, e.ResponseError):  # those that have no class of their own
        words = str(error).split(" ", 1)[0]
        passing = {"MISCONF", "NOREPLICAS", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "BUSY", "UNBLOCKED", "OOM"}
        return StoreUnavailable if words in passing else StoreUnusable
    return StoreUnusable if isinstance(error, e.RedisError) else None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
