"""From the address of a Redis to a client of it: one server, Sentinels that know it, or a cluster; plain or TLS.

    redis://[[user]:password@]host[:6379][/db][?options]
    redis+sentinel://[[user]:password@]host[:26379],host...[/service[/db]][?options]
    redis+cluster://[[user]:password@]host[:6379],host...[?options]

`rediss` instead of `redis` is TLS. Options: `prefix` of all keys (grf), `replicas` that must have a write before it
counts as durable (0), `ca`, `cert` and `key` (files, for TLS), `sentinel_password`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from runtime.store.base import StoreUnusable

if TYPE_CHECKING:  # redis is an extra: only who uses it needs it
    import redis

ANSWER_WITHIN_S = 2.0
DEFAULT_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}
SCHEMES: dict[str, Literal["single", "sentinel", "cluster"]] = {
    "redis": "single",
    "redis+sentinel": "sentinel",
    "redis+cluster": "cluster",
}


@dataclass(frozen=True, slots=True)
class RedisOptions:
    prefix: str = "grf"
    replicas: int = 0
    ca: str = ""
    cert: str = ""
    key: str = ""
    sentinel_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    kind: Literal["single", "sentinel", "cluster"]
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    user: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    service: str = ""
    options: RedisOptions = field(default_factory=RedisOptions)

    def __str__(self) -> str:
        """Without the password: for logs and errors."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        kind = "" if self.kind == "single" else f"+{self.kind}"
        return f"redis{'s' if self.tls else ''}{kind}://{hosts}"


def is_redis(address: str) -> bool:
    return address.partition("://")[0].replace("rediss", "redis") in SCHEMES


def parse_redis(address: str) -> RedisAddress:
    """Raises ValueError saying what is wrong, never repeating the password."""
    parts = urlsplit(address)
    tls = parts.scheme.startswith("rediss")
    kind = SCHEMES.get(parts.scheme.replace("rediss", "redis"))
    if kind is None:
        raise ValueError(f"unknown scheme {parts.scheme!r}: expected {', '.join(SCHEMES)}, or rediss for TLS")
    credentials, _, places = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    hosts = tuple(_host(place, DEFAULT_PORTS[kind]) for place in places.split(","))
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = path.pop(0) if kind == "sentinel" and path else "mymaster" if kind == "sentinel" else ""
    db = _number("db", path.pop(0)) if path else 0
    if path or (db and kind == "cluster"):
        raise ValueError(f"path {parts.path!r} is not understood")
    options = _options(parts.query)
    if options.replicas and kind == "cluster":
        raise ValueError("replicas cannot be waited for in a cluster: set min-replicas-to-write on its nodes")
    return RedisAddress(kind, tls, hosts, unquote(user), unquote(password), db, service, options)


def _host(place: str, default_port: int) -> tuple[str, int]:
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, str(default_port)
    if not host:
        raise ValueError(f"{place!r}: no host")
    return host.strip("[]"), _number("port", port)


def _number(what: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{what} {text!r} is no number")
    return int(text)


def _options(query: str) -> RedisOptions:
    given: dict[str, Any] = dict(parse_qsl(query))
    unknown = given.keys() - {one.name for one in fields(RedisOptions)}
    if unknown:
        raise ValueError(f"unknown option {', '.join(sorted(unknown))}")
    if "replicas" in given:
        given["replicas"] = _number("replicas", given["replicas"])
    return RedisOptions(**given)


def connect(address: RedisAddress) -> redis.Redis | redis.RedisCluster:
    """A client; nothing is sent yet, but for a cluster, which is asked for its nodes (raises redis.RedisError)."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise StoreUnusable("a Redis store needs the extra: pip install 'grf-runtime[redis]'") from None
    common: dict[str, Any] = {
        "username": address.user or None,
        "password": address.password or None,
        "socket_timeout": ANSWER_WITHIN_S,
        "socket_connect_timeout": ANSWER_WITHIN_S,
        "retry": Retry(NoBackoff(), 1),  # a pooled connection may be stale; who asks tries again by himself
    } | _tls(address)
    if address.kind == "cluster":
        nodes = [redis.cluster.ClusterNode(host, port) for host, port in address.hosts]
        return redis.RedisCluster(startup_nodes=nodes, **common)
    if address.kind == "sentinel":
        theirs = {"socket_timeout": ANSWER_WITHIN_S, "password": address.options.sentinel_password or None}
        sentinel = redis.Sentinel(list(address.hosts), sentinel_kwargs=theirs | _tls(address))
        master: redis.Redis = sentinel.master_for(address.service, db=address.db, **common)
        return master
    ((host, port),) = address.hosts
    return redis.Redis(host=host, port=port, db=address.db, **common)


def _tls(address: RedisAddress) -> dict[str, Any]:
    if not address.tls:
        return {}
    options = address.options
    files = {"ssl_ca_certs": options.ca, "ssl_certfile": options.cert, "ssl_keyfile": options.key}
    return {"ssl": True} | {name: path for name, path in files.items() if path}
