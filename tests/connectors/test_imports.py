"""Imports point one way, and `python -m connectors` runs where torch and Ray are not installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ALLOWED = {"client", "keys", "messages", "settings", "wire"}
"""modules of the runtime that connectors may see"""


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_connectors_see_the_client_and_never_the_engine() -> None:
    for file in (ROOT / "connectors").rglob("*.py"):
        of_runtime = {name.split(".")[1] for name in imported(file) if name.startswith("runtime.")}
        assert of_runtime <= ALLOWED, file


def test_what_decides_imports_nothing_that_waits() -> None:
    for name in ("backoff", "clock", "decoding", "delivery", "pipeline", "resampling", "routes", "windowing"):
        waits = imported(ROOT / "connectors" / f"{name}.py") & {"asyncio", "socket", "threading", "time"}
        assert waits == set(), name


def test_a_connector_needs_neither_torch_nor_ray() -> None:
    script = "import sys, connectors.process; sys.exit(sorted({'torch', 'ray'} & set(sys.modules)) or 0)"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
