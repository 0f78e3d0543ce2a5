"""Programs under measurement, each in a process of its own that speaks JSON lines over its standard streams."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process:
    """`python -m MODULE JSON`. Its lines are answers, lines to it are requests; closing its input ends it."""

    def __init__(self, module: str, plan: dict[str, Any], *, python: str = sys.executable) -> None:
        self._process = subprocess.Popen(
            [python, "-m", module, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            bufsize=1,
        )
        self.module = module

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def hear(self, within_s: float = 60.0) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], within_s)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise RuntimeError(f"{self.module} said nothing within {within_s:g} s, exit code {self._process.poll()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def cpu_s(self) -> float:
        """Processor time it has used so far, all threads."""
        return cpu_of(Path(f"/proc/{self.pid}/stat"))

    def cpu_s_by_thread(self) -> dict[int, float]:
        return {int(task.name): cpu_of(task / "stat") for task in Path(f"/proc/{self.pid}/task").iterdir()}

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE_BYTES

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(15)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def cpu_of(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def plan_of_this_process() -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(sys.argv[1])
    return plan


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def wait_for_go() -> bool:
    """Until the next line from whoever started this process; False once it is gone."""
    return bool(sys.stdin.readline())
