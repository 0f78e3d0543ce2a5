"""A real runtime in processes of its own, and real publishers in theirs: to be killed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.recorded import STREAMS
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 150.0
FAST = ("runtime.lease_s=3",)


def wait_until(is_so: Callable[[], Any], within_s: float, what: str) -> Any:
    """Poll for something that another process does; what it does not do in time is a failure."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        try:
            answer = is_so()
        except httpx.HTTPError:
            answer = None
        if answer:
            return answer
        select.select([], [], [], 0.05)
    raise AssertionError(f"{what}: not within {within_s:g} s")


class RunningRuntime:
    """`grf up` in a process; ports and state directory stay the same when it is started again."""

    def __init__(self, state_dir: Path, *flags: str) -> None:
        self.state_dir = state_dir
        self.http_port, self.data_port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.http_port}"
        self.flags = [
            f"runtime.state_dir={state_dir}",
            f"runtime.http_port={self.http_port}",
            f"runtime.data_port={self.data_port}",
            f"runtime.bundle={ROOT / 'bundles' / 'motion'}",
            *FAST,
            *flags,
        ]
        self.process: subprocess.Popen[str] | None = None

    def start(self, *, own_session: bool = True) -> None:
        """In a terminal session of its own, by which all its processes are found, or in ours."""
        arguments = [sys.executable, "-m", "runtime.cli.run", "up", "--quiet", *self.set_flags()]
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=own_session
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], READY_WITHIN_S)
        line = self.process.stdout.readline() if ready else ""
        assert "grf is ready" in line, f"grf up said {line!r}, exit code {self.process.poll()}"

    def set_flags(self) -> list[str]:
        return [part for flag in self.flags for part in ("--set", flag)]

    def stop(self) -> int:
        """As Ctrl-C does; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        self._close_pipe()
        return code

    def kill(self) -> None:
        """`kill -9` of everything: the command, Ray, the worker, the gateway."""
        assert self.process is not None
        for pid in descendants(self.process.pid):
            kill(pid)
        self.process.wait(60)
        self._close_pipe()

    def _close_pipe(self) -> None:
        assert self.process is not None
        if self.process.stdout is not None:
            self.process.stdout.close()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()

    def cluster(self) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.address}/v1/cluster", timeout=5.0).raise_for_status()
        workers: list[dict[str, Any]] = answer.json()["workers"]
        return workers

    def serving(self) -> dict[str, Any]:
        """The worker that serves; an empty answer while there is none."""
        return next((worker for worker in self.cluster() if worker["role"] == "serving"), {})

    def metric(self, name: str) -> float:
        """Sum of a metric's samples at the serving worker."""
        text = httpx.get(self.serving()["metrics_url"], timeout=5.0).text
        samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return sum(float(value) for sample, _, value in samples if sample.partition("{")[0] == name)

    def wait_for_worker_other_than(self, incarnation: str, within_s: float = 60.0) -> dict[str, Any]:
        def other() -> dict[str, Any] | None:
            serving = [worker for worker in self.cluster() if worker["role"] == "serving"]
            return next((worker for worker in serving if worker["incarnation"] != incarnation), None)

        answer: dict[str, Any] = wait_until(other, within_s, "another worker serves")
        return answer

    def pids_of(self, title: str) -> list[int]:
        """Processes of this runtime whose command line has this in it (Ray names them `ray::Actor.method`)."""
        assert self.process is not None
        return [pid for pid in descendants(self.process.pid) if title in command_line(pid)]


def grf(*arguments: str, within_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a `grf` command to its end."""
    command = [sys.executable, "-m", "runtime.cli.run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=within_s, check=False)


def start_publishers(
    address: str, *shares: Sequence[str], through: Sequence[str] = (), **load: float
) -> list[subprocess.Popen[str]]:
    """A publisher process (tests/cluster/publisher_process.py) for each stream of each share of the sessions.

    They begin together, each connected: a stream that began later than its session waits for silent ones, as when the
    gateway was killed before it was asked, would be late by right.
    """
    publishers = []
    for share in shares:
        for stream, modality, _ in STREAMS:
            plan = {"address": address, "stream": stream, "modality": modality, "sessions": list(share), **load}
            command = [*through, sys.executable, "-m", "tests.cluster.publisher_process", json.dumps(plan)]
            publishers.append(
                subprocess.Popen(command, text=True, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
    for publisher in publishers:
        assert publisher.stdout is not None
        assert publisher.stdout.readline() == "ready\n"
    for publisher in publishers:
        assert publisher.stdin is not None
        publisher.stdin.write("go\n")
        publisher.stdin.flush()
    return publishers


def finish_publisher(process: subprocess.Popen[str], within_s: float = 120.0) -> dict[str, Any]:
    out, _ = process.communicate(timeout=within_s)
    assert process.returncode == 0, f"publisher ended with {process.returncode}: {out}"
    stats: dict[str, Any] = json.loads(out.splitlines()[-1])
    return stats


def descendants(pid: int) -> list[int]:
    """The process and all below it, and all of its session: Ray starts some in process groups of their own."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    above = {one: parent_and_session(one) for one in pids}
    found = {pid}
    grown = True
    while grown:
        more = {child for child, (parent, session) in above.items() if parent in found or session == pid}
        grown = not more <= found
        found |= more
    return sorted(found, reverse=True)


def parent_and_session(pid: int) -> tuple[int, int]:
    """Of a process; zeros for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return int(fields[1]), int(fields[3])


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wake(pid: int) -> None:
    """Let a stopped worker go on; stopped in the middle of a write, it holds the lock of SQLite and is ended for it."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return
