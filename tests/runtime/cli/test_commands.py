from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from runtime.cli import MODULE_OF, grf, summary
from runtime.cli.common import EXPECTED, failure_text

DOCS = [*(Path(__file__).parents[3] / "docs").rglob("*.md"), Path(__file__).parents[3] / "README.md"]


def commands(group: click.Group, path: str = "grf") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


ALL = list(commands(grf))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[path for path, _ in ALL])
def test_every_command_and_every_option_says_what_it_is(path: str, command: click.Command) -> None:
    assert command.help
    assert command.help.strip().endswith(".")
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help or option.name in ("tenant", "seed", "device", "recipe"), f"{path} --{option.name}"


@pytest.mark.parametrize("name", sorted(MODULE_OF))
def test_what_the_list_says_of_a_command_is_what_the_command_says(name: str) -> None:
    command = grf.get_command(click.Context(grf), name)
    assert command is not None
    assert summary(name, 60) == command.get_short_help_str(60)
    assert f"{name} " in CliRunner().invoke(grf, ["--help"]).output


@pytest.mark.parametrize("path", [path for path, _ in ALL])
def test_every_command_is_in_the_documentation(path: str) -> None:
    assert any(path in page.read_text() for page in DOCS)


@pytest.mark.parametrize("path", [path for path, _ in ALL])
def test_help_works_for_every_command(path: str) -> None:
    result = CliRunner().invoke(grf, [*path.split()[1:], "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["up", "--set", "order.x=1"], "order.x: no such setting"),
        (["replay", "nowhere.grfrec"], "does not exist"),
        (["train", "everything"], "everything"),
        (["demo", "--seconds", "0"], "--seconds"),
        (["demo", "talk"], "give a file with somebody talking"),
        (["demo", "talk", "--video", __file__, "--webcam"], "not both"),
        (["sessions", "--address", "127.0.0.1:8000"], "expected tcp://host:port of a worker or http://host:port"),
        (["watch", "--tenant", "a/b"], "tenant has a slash"),
    ],
)
def test_a_wrong_command_line_is_told_with_exit_code_2(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(grf, arguments)
    assert result.exit_code == 2
    assert told in result.output


def test_replay_takes_a_factor_or_max_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x.grfrec").write_bytes(b"")
    for speed in ("0", "-1", "fast", "nan"):
        result = CliRunner().invoke(grf, ["replay", str(tmp_path / "x.grfrec"), "--speed", speed])
        assert result.exit_code == 2
        assert "neither a positive number nor max" in result.output


def test_every_expected_failure_is_where_it_is_looked_for() -> None:
    for module, name in EXPECTED.items():
        kind = getattr(import_module(module), name)
        assert failure_text(kind.__new__(kind)) is not None


def test_a_connector_and_a_question_start_without_torch_and_ray() -> None:
    code = "import sys; from runtime.cli import connecting, reading; print({'torch', 'ray'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "set()\n"
