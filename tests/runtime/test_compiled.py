"""`make compiled`: what is compiled passes the tests of its source, and says when the source has moved on."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from runtime.compiled import STAMP, compiled_modules, sources, stale_modules

ROOT = Path(__file__).parents[2]
COPIED = ("docs", "grf_core", "runtime", "scripts", "tests", "pyproject.toml", "setup.py", "README.md", "LICENSE")
TESTS = ("engine", "dispatch", "client", "test_wire.py", "test_records.py", "test_history.py", "test_settings.py")
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@pytest.mark.parametrize("source", sources(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_compiled_holds_a_function_inside_a_function_or_a_generator(source: Path) -> None:
    """mypyc offers the variables of such a function for use again while it still lets go of them: another thread's call
    may get them, and lose its own."""
    assert not list(held(ast.parse(source.read_text())))


def held(tree: ast.AST, function: ast.AST | None = None) -> list[str]:
    found = []
    for node in ast.iter_child_nodes(tree):
        if function is not None and isinstance(node, Function):
            found.append(f"line {node.lineno}: a function inside a function")
        if isinstance(node, ast.Yield | ast.YieldFrom | ast.AsyncFunctionDef):
            found.append(f"line {node.lineno}: a generator")
        found += held(node, node if isinstance(node, Function) else function)
    return found


def test_a_source_that_has_changed_since_is_named(tmp_path: Path) -> None:
    for name, changed_s in (("order", 100.0), ("flow", 300.0), ("room", 300.0)):
        source = tmp_path / "engine" / f"{name}.py"
        source.parent.mkdir(exist_ok=True)
        source.touch()
        os.utime(source, (changed_s, changed_s))
    for name in ("order", "flow"):
        (tmp_path / "engine" / f"{name}{EXTENSION_SUFFIXES[0]}").touch()
    assert [path.stem for path in compiled_modules(tmp_path)] == ["flow", "order"]
    assert not stale_modules(tmp_path)  # installed
    (tmp_path / STAMP).touch()
    os.utime(tmp_path / STAMP, (200.0, 200.0))
    assert [path.stem for path in stale_modules(tmp_path)] == ["flow"]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    shutil.which(COMPILER) is None and os.environ.get("CI") != "true", reason=f"there is no C compiler {COMPILER}"
)
def test_what_is_compiled_passes_the_tests_of_its_source(tmp_path: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", STAMP, "__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path)
    run(tmp_path, "setup.py", "--quiet", "build_ext", "--inplace", GRF_COMPILED="1", GRF_COMPILED_OPTIMISED="0")
    module = run(tmp_path, "-c", "import runtime.engine.order as module; print(module.__file__)").strip()
    assert module == str(tmp_path / "runtime" / "engine" / f"order{EXTENSION_SUFFIXES[0]}")
    assert len(compiled_modules(tmp_path / "runtime")) == len(sources())
    run(tmp_path, "-m", "pytest", "-q", *(f"tests/runtime/{name}" for name in TESTS))
    run(tmp_path, "-m", "tests.simulation", "--seed", "0", "--runs", "20")


def run(folder: Path, *arguments: str, **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert not done.returncode, f"{arguments}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout
