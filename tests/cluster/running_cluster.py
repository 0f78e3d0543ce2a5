"""The runtime on several raylets with a Redis of its own, from outside: to be killed in parts."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.running import FAST, READY_WITHIN_S, ROOT, command_line, descendants, grf, wait_until
from tests.servers import RedisServer, free_port


class RunningCluster:
    def __init__(self, folder: Path, *flags: str, nodes: int = 3) -> None:
        self.redis = RedisServer(folder)
        self.http_port = free_port()
        self.address = f"http://127.0.0.1:{self.http_port}"
        self.flags = [
            f"runtime.state_dir={folder / 'state'}",
            f"runtime.store={self.redis.address}",
            f"runtime.http_port={self.http_port}",
            f"runtime.bundle={ROOT / 'bundles' / 'motion'}",
            *FAST,
            *flags,
        ]
        self._nodes = nodes
        self._process: subprocess.Popen[str] | None = None
        self.ray = ""
        self.nodes: list[str] = []

    def start(self) -> None:
        self.redis.start()
        plan = json.dumps({"nodes": self._nodes, "flags": self.flags})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.raylets", plan],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        ready = json.loads(self._line())
        self.ray, self.nodes = ready["ray"], ready["nodes"]

    def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], READY_WITHIN_S)
        line = self._process.stdout.readline() if ready else ""
        assert line, f"the cluster says nothing, exit code {self._process.poll()}"
        return line

    def order(self, text: str) -> str:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        return self._line().strip()

    def kill_node(self, number: int | None) -> None:
        assert number is not None
        self.order(f"kill {number}")

    def number_of(self, node: str) -> int | None:
        """Of a node as the runtime names it; None for the head, and for one that was lost."""
        return next((number for number, one in enumerate(self.nodes) if one.startswith(node)), None)

    def ray_drains(self, number: int | None) -> None:
        """What an autoscaler tells Ray before it takes a machine away."""
        assert number is not None
        drain = ["drain-node", "--address", self.ray, "--node-id", self.nodes[number], "--deadline-remaining-seconds"]
        why = ["60", "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "it is taken away"]
        subprocess.run([str(Path(sys.executable).with_name("ray")), *drain, *why], check=True, capture_output=True)

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=60)
        self.redis.kill()

    def grf(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return grf(*arguments, "--address", self.ray, within_s=60.0)

    def pids_of(self, title: str) -> list[int]:
        """Processes of this cluster whose command line has this in it (Ray names them `ray::Actor.method`)."""
        assert self._process is not None
        return [pid for pid in descendants(self._process.pid) if title in command_line(pid)]

    def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.address}/v1/cluster", timeout=5.0).raise_for_status().json()
        return answer

    def workers(self, role: str = "") -> list[dict[str, Any]]:
        """Those heard of lately."""
        workers = [worker for worker in self.state()["workers"] if worker["heard_s_ago"] < 1.5]
        return [worker for worker in workers if role in ("", worker["role"])]

    def wait_for(self, serving: int, standby: int, within_s: float = 60.0) -> list[dict[str, Any]]:
        """Until so many workers serve all key groups, and so many stand by; those that serve."""

        def as_wanted() -> list[dict[str, Any]] | None:
            workers = self.workers()
            serves = [worker for worker in workers if worker["groups"]]
            complete = sum(worker["groups"] for worker in serves) == 1024
            wanted = len(serves) == serving and len(workers) - len(serves) == standby
            return serves if complete and wanted else None

        found: list[dict[str, Any]] = wait_until(as_wanted, within_s, f"{serving} workers serve, {standby} stand by")
        return found
