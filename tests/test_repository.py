"""The commands and the pins are part of the product: what they promise is tested like any other code."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+")


def planned(*arguments: str, **environment: str) -> str:
    """What `make ARGUMENTS` would run."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--dry-run", "--old-file=.venv/.installed", *arguments]
    run = subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=True, timeout=30
    )
    return run.stdout


def pins(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert PIN.fullmatch(line), f"{file}: not an exact pin: {line}"
    return {normal(name): version for name, version in (line.split("==") for line in lines)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_demo_takes_seconds_from_its_command_line() -> None:
    assert planned("demo", "SECONDS=30").strip() == ".venv/bin/grf demo --seconds 30"


@pytest.mark.parametrize("arguments", [[], ["SECONDS="]])
def test_demo_without_seconds_ignores_what_the_shell_exported(arguments: list[str]) -> None:
    assert planned("demo", *arguments, SECONDS="12").strip() == ".venv/bin/grf demo"


def test_help_names_every_command() -> None:
    verbs = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)[0].split())
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    assert set(re.findall(r"^make ([\w-]+) ", shown, flags=re.M)) == verbs


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = list(project["project"]["dependencies"]) + project["build-system"]["requires"]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {normal(re.split(r"[\[<>=]", requirement)[0]) for requirement in wanted}
    assert names <= pins("constraints.txt").keys()
    assert pins("requirements-demo.txt").keys() == {"aeon"}


def test_every_script_is_executable_and_parses() -> None:
    for script in [ROOT / ".ci/run", *sorted((ROOT / "scripts").glob("*.sh"))]:
        assert os.access(script, os.X_OK), script
        shell = "bash" if "bash" in script.read_text().splitlines()[0] else "sh"
        subprocess.run([shell, "-n", script], check=True, timeout=30)


@pytest.mark.parametrize("package", ["grf_core", "runtime", "connectors"])
def test_a_package_says_that_it_has_types(package: str) -> None:
    """Else the type checker of whoever installs it takes everything of it for Any, or refuses it."""
    assert (ROOT / package / "py.typed").exists()


def test_the_architecture_page_names_the_files_that_are_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    tree = page[page.index("## The tree") : page.index("## The life of one segment")]
    named = set(re.findall(r"\b(\w+\.(?:py|cc|h))\b", tree))
    ours = [path for package in ("grf_core", "runtime", "connectors") for path in (ROOT / package).rglob("*.*")]
    assert not named - {path.name for path in ours}
    parts = ("engine", "dispatch", "store", "gateway", "client")
    explained = ["grf_core", "connectors", "runtime", *(f"runtime/{part}" for part in parts)]
    modules = {path.name for folder in explained for path in (ROOT / folder).glob("*.py")}
    assert not modules - named - {"__init__.py", "__main__.py"}
