"""On what a number was measured, and where it is kept."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from grf_core.native import steps_here
from runtime.compiled import compiled_modules

RESULTS = Path(__file__).parents[1] / "results"


def machine() -> dict[str, Any]:
    """The hardware, how busy it was (1, 5 and 15 minutes), and the versions that matter for speed."""
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "compiled_modules": len(compiled_modules()),
        "steps": steps_here(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def kept_today(name: str) -> dict[str, Any]:
    """The answer that was kept today, if there is one: long benchmarks are run a part at a time."""
    path = _path(name)
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return kept


def _path(name: str) -> Path:
    return RESULTS / f"{datetime.date.today().isoformat()}-{name}.json"


def conclude(name: str, answer: dict[str, Any], *, keep: bool) -> None:
    """Print the answer as the last line; `keep` writes it to results/ as well, dated, with the machine."""
    if keep:
        today = datetime.date.today().isoformat()
        _path(name).write_text(json.dumps({"date": today, "machine": machine(), **answer}, indent=1) + "\n")
    print(json.dumps(answer), flush=True)
