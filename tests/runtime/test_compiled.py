"""`make compiled`: what is compiled passes the tests of its source, and says when the source has moved on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from runtime.compiled import compiled_modules, stale_modules

ROOT = Path(__file__).parents[2]
COPIED = ("docs", "grf_core", "runtime", "scripts", "tests")
TESTS = ("engine", "dispatch", "client", "test_wire.py", "test_records.py", "test_history.py", "test_settings.py")
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]


def test_a_source_that_has_changed_since_is_named(tmp_path: Path) -> None:
    for name, changed_s in (("order", 100.0), ("flow", 300.0)):
        source = tmp_path / "engine" / f"{name}.py"
        source.parent.mkdir(exist_ok=True)
        for path, at_s in ((source, changed_s), (source.with_name(name + EXTENSION_SUFFIXES[0]), 200.0)):
            path.touch()
            os.utime(path, (at_s, at_s))
    (tmp_path / f"native__mypyc{EXTENSION_SUFFIXES[0]}").touch()
    assert [path.name.partition(".")[0] for path in compiled_modules(tmp_path)] == ["flow", "order"]
    assert stale_modules(tmp_path) == ["flow"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"there is no C compiler {COMPILER}")
def test_what_is_compiled_passes_the_tests_of_its_source(tmp_path: Path) -> None:
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    run(tmp_path, "scripts/compile.py", "--optimise", "0")
    module = run(tmp_path, "-c", "import runtime.engine.order as module; print(module.__file__)").strip()
    assert module.endswith(EXTENSION_SUFFIXES[0])
    assert module.startswith(str(tmp_path))
    assert len(compiled_modules(tmp_path / "runtime")) > 30
    assert not stale_modules(tmp_path / "runtime")
    run(tmp_path, "-m", "pytest", "-q", *(f"tests/runtime/{name}" for name in TESTS))
    run(tmp_path, "-m", "tests.simulation", "--seed", "0", "--runs", "20")


def run(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert not done.returncode, f"{arguments}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout
