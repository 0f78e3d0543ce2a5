"""Real servers for tests: found, or honestly skipped; started on a free port; ended with the test run."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

READY_WITHIN_S = 10.0
PORTS = range(20_000, 32_000)
"""below those that the kernel hands out, of which another connection may take one before a server listens on it"""
HIGHEST_CLUSTER_PORT = 55535
"""a Redis of a cluster takes the port 10,000 above its own as well"""


def find_program(name: str) -> str:
    """Its path. Without it the test is skipped on a laptop and fails in CI, where `make test` has installed it."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if path is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed: scripts/install-system.sh should have done it")
    if path is None:
        pytest.skip(f"{name} is not installed: `make system` does it")
    return path


def free_port() -> int:
    while True:
        port = PORTS[secrets.randbelow(len(PORTS))]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """One `redis-server` with a directory and a port of its own, kept when it is started again."""

    def __init__(self, directory: Path, *options: str, sync: str = "always", port: int = 0) -> None:
        self.directory = directory
        self.port = port or free_port()
        while "--cluster-enabled" in options and self.port > HIGHEST_CLUSTER_PORT:
            self.port = free_port()
        self.options = ["--appendonly", "yes", "--appendfsync", sync, "--save", "", *options]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it takes connections; what it has to load it may still be loading."""
        listen = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        log = ["--logfile", str(self.directory / "redis.log")]
        self.process = subprocess.Popen([find_program("redis-server"), *listen, *log, *self.options])
        deadline_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._ready_port)) == 0:
                    return
            assert self.process.poll() is None, (self.directory / "redis.log").read_text()
            time.sleep(0.01)
        raise AssertionError(f"redis-server was not ready within {READY_WITHIN_S:g} s")

    @property
    def _ready_port(self) -> int:
        tls = [value for name, value in zip(self.options, self.options[1:], strict=False) if name == "--tls-port"]
        return int(tls[0]) if tls else self.port

    def kill(self) -> None:
        """`kill -9`."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@cache
def shared_redis(cluster: bool) -> RedisServer:
    """A server for the whole test run: tests keep apart by a prefix of their keys. A cluster has one node."""
    directory = Path(tempfile.mkdtemp(prefix="grf-redis-"))
    server = RedisServer(directory, *(["--cluster-enabled", "yes"] if cluster else []), sync="no")
    server.start()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    atexit.register(server.kill)
    if cluster:
        make_cluster(server)
    return server


def make_cluster(server: RedisServer) -> None:
    import redis

    client = redis.Redis(port=server.port)
    client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    deadline_s = time.monotonic() + READY_WITHIN_S
    while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
        assert time.monotonic() < deadline_s, "the cluster does not come up"
        time.sleep(0.01)
    client.close()
