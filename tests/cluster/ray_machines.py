"""Machines of a Ray cluster as an operator starts them (`ray start --block`), all on this one: to be killed whole."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.running import ROOT, descendants, kill, wait_until
from tests.servers import free_port

PYTHON = sys.executable
PROGRAMS = Path(PYTHON).parent
"""`ray`, `serve`"""
STARTED_WITHIN_S = 60.0


class RayMachines:
    def __init__(self, ip: str = "127.0.0.1", **environment: str) -> None:
        """`ip` is the head's."""
        self._ip = ip
        self.port, self.dashboard_port = free_port(), free_port()
        self.address = f"{ip}:{self.port}"
        self._folder = tempfile.mkdtemp(prefix="grf-ray-")
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
        self.environment = {**os.environ, **quiet, **environment}
        self._processes: list[subprocess.Popen[str]] = []

    def start_head(self, *, dashboard: bool = False) -> subprocess.Popen[str]:
        # A reboot empties /tmp. What is left there and another machine's raylet, on this one, look like a running head.
        (Path(self._folder) / "ray_current_cluster").unlink(missing_ok=True)
        shown = ("--include-dashboard", str(dashboard).lower(), "--dashboard-port", str(self.dashboard_port))
        return self._start("--head", "--port", str(self.port), "--temp-dir", self._folder, *shown)

    def start_worker(self, ip: str = "", through: Sequence[str] = ()) -> subprocess.Popen[str]:
        """`through` a command that runs another on the machine of this ip."""
        return self._start("--address", self.address, ip=ip, through=through)

    def _start(self, *arguments: str, ip: str = "", through: Sequence[str] = ()) -> subprocess.Popen[str]:
        ports = ("--min-worker-port", "0", "--max-worker-port", "0", "--dashboard-agent-listen-port", str(free_port()))
        size = ("--num-cpus", "2", "--object-store-memory", str(80 << 20))
        here = ("--block", "--node-ip-address", ip or self._ip)
        process = subprocess.Popen(
            [*through, PROGRAMS / "ray", "start", *here, *arguments, *ports, *size],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        self._wait_until_started(process)
        return process

    def _wait_until_started(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        said = ""
        while "Ray runtime started" not in said:
            ready, _, _ = select.select([process.stdout], [], [], STARTED_WITHIN_S)
            line = os.read(process.stdout.fileno(), 1 << 16).decode() if ready else ""
            said += line
            assert line, f"ray start, exit code {process.poll()}: {said}"

    def run(
        self, *arguments: str, program: str | Path = PROGRAMS / "ray", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        environment = self.environment | {"RAY_ADDRESS": self.address}
        return subprocess.run(
            [program, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=check
        )

    def kill(self, machine: subprocess.Popen[str]) -> None:
        """As a power cut: everything of it at once."""
        for pid in descendants(machine.pid):
            kill(pid)
        machine.communicate(timeout=30)
        self._processes.remove(machine)

    def close(self) -> None:
        for machine in list(self._processes):
            self.kill(machine)
        shutil.rmtree(self._folder, ignore_errors=True)

    def deploy(self, settings: Mapping[str, object]) -> Running:
        """`grf up` on this cluster; returns once so many workers serve as the settings say."""
        runtime = Running(self._ip, free_port())
        common = {"runtime.http_port": runtime.port, "runtime.bundle": ROOT / "bundles" / "motion"}
        flags = [part for name, value in {**common, **settings}.items() for part in ("--set", f"{name}={value}")]
        self.run("-m", "runtime.cli.run", "up", "--address", self.address, *flags, program=PYTHON)
        wait_until(lambda: runtime.serve_all(int(str(settings["cluster.workers"]))), 60.0, "the workers serve")
        return runtime


class Running:
    """A runtime as a client sees it."""

    def __init__(self, ip: str, port: int) -> None:
        self.port = port
        self.address = f"http://{ip}:{port}"

    def workers(self) -> list[dict[str, Any]]:
        """Those heard of lately."""
        answer = httpx.get(f"{self.address}/v1/cluster", timeout=5.0).raise_for_status().json()
        return [worker for worker in answer["workers"] if worker["heard_s_ago"] < 1.5]

    def serves_at(self, ip: str) -> bool:
        return any(worker["groups"] and f"//{ip}:" in worker["endpoint"] for worker in self.workers())

    def serve_all(self, workers: int) -> bool:
        groups = [worker["groups"] for worker in self.workers() if worker["groups"]]
        return len(groups) == workers and sum(groups) == 1024
