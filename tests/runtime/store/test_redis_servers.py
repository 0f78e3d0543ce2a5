"""A Redis as it is in life: killed, stopped, full, protected, replicated, spread over nodes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import pytest

from runtime.store.base import StoreError, StoreUnavailable, StoreUnusable
from runtime.store.redis_address import RedisAddress, parse_redis
from runtime.store.redis_store import RedisStore
from tests.runtime.store.samples import assert_same, key, owned, record, save
from tests.servers import RedisServer, find_program, free_port


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    servers: list[RedisServer] = []

    def start_one(*options: str) -> RedisServer:
        directory = tmp_path / f"redis-{len(servers)}"
        directory.mkdir()
        servers.append(RedisServer(directory, *options))
        servers[-1].start()
        return servers[-1]

    yield start_one
    for server in servers:
        server.kill()


def until_it_works(call: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 20.0
    while True:
        try:
            call()
            return
        except StoreUnavailable:
            assert time.monotonic() < deadline_s


def test_what_was_saved_survives_a_kill_and_the_same_store_object_goes_on(start: Callable[..., RedisServer]) -> None:
    server = start()
    store = RedisStore(server.address)
    epochs = save(store, record(key("a"), version=1))
    server.kill()
    with pytest.raises(StoreUnavailable):
        store.save(epochs, [record(key("a"), version=2)])
    server.start()
    until_it_works(lambda: store.save(epochs, [record(key("a"), version=2)]))
    assert_same(store.load([key("a")])[key("a")], record(key("a"), version=2))
    assert len(store.leases()) == 1
    store.close()


def test_old_pieces_of_a_history_leave_the_server(start: Callable[..., RedisServer]) -> None:
    store, of = RedisStore(start().address, history_length=16), key("a")
    epochs = owned(store, of)
    for version in range(5, 200, 5):
        store.save(epochs, [record(of, version=version, rows=range(version - 4, version + 1))])
        (pieces,) = store._server.ask([("ZCARD", store._history_key(of))])
        assert pieces <= 16 // 5 + 2
    assert [row.version for row in store.history(of, -inf, inf, 100)] == list(range(180, 196))
    store.close()


def test_a_stopped_server_is_unavailable_within_a_bounded_time(start: Callable[..., RedisServer]) -> None:
    server = start()
    store = RedisStore(server.address)
    epochs = save(store, record(key("a")))
    server.pause()
    began_s = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.save(epochs, [record(key("a"), version=2)])
    assert time.monotonic() - began_s < 6.0
    server.resume()
    until_it_works(lambda: store.save(epochs, [record(key("a"), version=3)]))
    store.close()


def test_a_write_that_was_held_back_does_not_undo_what_was_written_and_acknowledged_since(
    start: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut network, or a server that was stopped, may deliver what its sender has long given up."""
    server = start()
    store = RedisStore(server.address)
    epochs = save(store, record(key("a"), version=1), record(key("b"), version=1))
    held_back = []
    ask = store._server.ask

    def cut(commands: list[tuple[object, ...]], writes: bool = False) -> list[object]:
        held_back.extend(commands)
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(store._server, "ask", cut)
    with pytest.raises(StoreUnavailable):
        store.save(epochs, [record(key("a"), version=2)])
    with pytest.raises(StoreUnavailable):
        store.save(epochs, [record(key("b"), version=2)])
    monkeypatch.setattr(store._server, "ask", ask)
    store.save(epochs, [record(key("a"), version=3)])
    assert store.delete(epochs, key("b"))
    answers = ask(held_back, writes=True)
    assert [answer[0] for answer in answers] == [b"overtaken", b"overtaken"]
    assert_same(store.load([key("a")])[key("a")], record(key("a"), version=3))
    assert store.load([key("b")]) == {}
    assert [row.version for row in store.history(key("a"), -inf, inf, 10)] == [1, 3]
    store.close()


def test_numbers_of_writes_that_began_too_low_are_made_up_for(start: Callable[..., RedisServer]) -> None:
    """The clock was set back between two stores of the same owner."""
    server = start()
    first, second = RedisStore(server.address), RedisStore(server.address)
    epochs = save(first, record(key("a"), version=1))
    second._writes = 5
    second.save(epochs, [record(key("a"), version=2)])
    assert second._writes > 5
    assert_same(second.load([key("a")])[key("a")], record(key("a"), version=2))
    first.close()
    second.close()


def test_a_full_server_is_unavailable_and_keeps_what_it_has(start: Callable[..., RedisServer]) -> None:
    server = start("--maxmemory", "3mb")
    store = RedisStore(server.address)
    records = [record(key(f"s{number}"), width=20_000) for number in range(100)]
    epochs = owned(store, *(one.key for one in records))

    def fill() -> None:
        for one in records:
            store.save(epochs, [one])

    with pytest.raises(StoreUnavailable, match=r"it is full: raise its maxmemory, .* \(command not allowed [^.]*\)$"):
        fill()
    assert store.load([key("s0")]).keys() == {key("s0")}
    store.close()
    assert key("s0") in [found.key for found in RedisStore(server.address).records()]


def test_who_only_reads_may_read_a_replica_that_drops_keys_and_where_there_is_nothing_is_told(
    start: Callable[..., RedisServer],
) -> None:
    master = start()
    replica = start("--replicaof", "127.0.0.1", str(master.port), "--maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreUnavailable, match="there is none"):
        RedisStore(master.address, only_reads=True)
    store = RedisStore(f"{master.address}?replicas=1")
    until_it_works(lambda: save(store, record(key("a"))))
    assert [found.key for found in RedisStore(replica.address, only_reads=True).records()] == [key("a")]
    store._server.client.delete("grf:{schema}")  # the server was emptied, and a runtime saved what it had
    assert [found.key for found in RedisStore(master.address, only_reads=True).records()] == [key("a")]
    store.close()


def test_a_server_that_may_drop_keys_is_refused(start: Callable[..., RedisServer]) -> None:
    server = start("--maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreUnusable, match="allkeys-lru"):
        RedisStore(server.address)


def test_a_store_of_another_schema_is_refused(start: Callable[..., RedisServer]) -> None:
    server = start()
    store = RedisStore(server.address)
    store._server.client.set("grf:{schema}", "9")
    store.close()
    with pytest.raises(StoreUnusable, match="schema"):
        RedisStore(server.address)


def test_a_password_is_asked_for_and_never_shown(start: Callable[..., RedisServer]) -> None:
    server = start("--requirepass", "s3cret")
    right = server.address.replace("//", "//:s3cret@")
    store = RedisStore(right)
    save(store, record(key("a")))
    store.close()
    with pytest.raises(StoreUnusable) as refused:
        RedisStore(right.replace("s3cret", "wr0ng"))
    assert "wr0ng" not in str(refused.value)
    with pytest.raises(StoreError, match="it asks for a password"):
        RedisStore(server.address)
    assert "s3cret" not in f"{parse_redis(right)} {parse_redis(right)!r}"


def test_tls_with_a_certificate_of_ones_own(start: Callable[..., RedisServer], tmp_path: Path) -> None:
    cert, secret, port = tmp_path / "cert.pem", tmp_path / "key.pem", free_port()
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*make, "-keyout", secret, "-out", cert, *subject], check=True, capture_output=True)
    files = ["--tls-cert-file", str(cert), "--tls-key-file", str(secret), "--tls-ca-cert-file", str(cert)]
    start("--tls-port", str(port), "--tls-auth-clients", "no", *files)
    store = RedisStore(f"rediss://127.0.0.1:{port}?ca={cert}")
    save(store, record(key("a")))
    store.close()
    with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        RedisStore(f"rediss://127.0.0.1:{port}")


def test_a_write_waits_for_its_replicas(start: Callable[..., RedisServer]) -> None:
    master = start()
    replica = start("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
    address = f"{master.address}?replicas=1"
    store = RedisStore(address)
    until_it_works(lambda: store.claim("w", {}))
    epochs: dict[int, int] = {}
    until_it_works(lambda: epochs.update(save(store, record(key("a")))))
    replica.pause()
    with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
        store.save(epochs, [record(key("a"), version=2)])
    replica.resume()
    until_it_works(lambda: store.save(epochs, [record(key("a"), version=3)]))
    store.close()


@pytest.mark.parametrize("fails_over", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_sentinels_lead_to_the_master_and_to_its_successor(
    start: Callable[..., RedisServer], tmp_path: Path, fails_over: bool
) -> None:
    master = start()
    start("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
    port, config = free_port(), tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds mymaster 300\nsentinel failover-timeout mymaster 2000\n"
    )
    log = (tmp_path / "sentinel.log").open("wb")
    sentinel = subprocess.Popen([find_program("redis-server"), str(config), "--sentinel"], stdout=log)
    stores: list[RedisStore] = []
    try:
        until_it_works(lambda: stores.append(RedisStore(f"redis+sentinel://127.0.0.1:{port}/mymaster?replicas=1")))
        (store,) = stores
        if not fails_over:
            assert store.ownership() == {}
            store.close()
            return
        epochs: dict[int, int] = {}
        until_it_works(lambda: epochs.update(save(store, record(key("a")))))
        until_it_works(lambda: _knows_a_replica(port))
        store.close()
        master.kill()
        plain: list[RedisStore] = []
        until_it_works(lambda: plain.append(RedisStore(f"redis+sentinel://127.0.0.1:{port}/mymaster")))
        until_it_works(lambda: plain[0].save(epochs, [record(key("a"), version=2)]))
        plain[0].close()
    finally:
        sentinel.kill()
        sentinel.wait()
        log.close()


def _knows_a_replica(port: int) -> None:
    import redis

    with redis.Redis(port=port) as client:
        if not client.execute_command("SENTINEL REPLICAS", "mymaster"):
            raise StoreUnavailable("not yet")


@pytest.mark.parametrize(
    ("address", "kind", "tls", "hosts"),
    [
        ("redis://h", "single", False, (("h", 6379),)),
        ("rediss://u:p@h:7000/2?prefix=x&replicas=2", "single", True, (("h", 7000),)),
        ("redis+sentinel://:p@a,b:9/main/1", "sentinel", False, (("a", 26379), ("b", 9))),
        ("rediss+cluster://a:1,[::1]:2", "cluster", True, (("a", 1), ("::1", 2))),
    ],
)
def test_addresses(address: str, kind: str, tls: bool, hosts: tuple[tuple[str, int], ...]) -> None:
    parsed = parse_redis(address)
    assert (parsed.kind, parsed.tls, parsed.hosts) == (kind, tls, hosts)


@pytest.mark.parametrize(
    ("address", "because"),
    [
        ("http://h", "unknown scheme 'http'"),
        ("redis://", "no host"),
        ("redis://h:x", "port 'x' is no number"),
        ("redis://h/a", "db 'a' is no number"),
        ("redis+cluster://h/1", "not understood"),
        ("redis+cluster://h?replicas=1", "min-replicas-to-write"),
        ("redis://h?color=red", "unknown option color"),
    ],
)
def test_an_address_that_cannot_be_is_refused_with_the_reason(address: str, because: str) -> None:
    with pytest.raises(ValueError, match=because):
        parse_redis(address)


def test_an_address_is_its_own_document() -> None:
    import runtime.store.redis_address as module

    assert module.__doc__ is not None
    for option in RedisAddress("single", False, ()).options.__slots__:
        assert f"`{option}`" in module.__doc__
