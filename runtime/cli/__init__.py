"""The command `grf`.

Exit codes: 0 done; 1 the runtime said no or something failed; 2 the command line is wrong; 3 no runtime answers;
4 done, but not as it should be (segments lost, digests that differ); 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

import click

from runtime.cli.common import FAILED, NO_RUNTIME, failure_text, is_expected

MODULES = {
    "connecting": ("connect",),
    "converting": ("convert",),
    "demo": ("demo",),
    "experiment": ("experiment",),
    "lifecycle": ("up", "down", "scale", "drain"),
    "model": ("train", "evaluate"),
    "reading": ("query", "sessions", "watch"),
    "replaying": ("record", "replay"),
    "state": ("digest", "state"),
    "status": ("status",),
}
"""of the commands, which have the names of their functions"""
MODULE_OF = {name: module for module, names in MODULES.items() for name in names}


class Commands(click.Group):
    """A command is loaded when it is asked for: some bring torch or Ray along, which takes seconds."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(MODULE_OF)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in MODULE_OF:
            return None
        command: click.Command = getattr(import_module(f"runtime.cli.{MODULE_OF[name]}"), name)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        names = self.list_commands(context)
        width = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(name, width)) for name in names])


def summary(name: str, width: int) -> str:
    """What a command does, in one line, read from its source: to list them all none has to be loaded."""
    source = Path(__file__).with_name(f"{MODULE_OF[name]}.py").read_text(encoding="utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    return click.Command(name, help=ast.get_docstring(functions[0])).get_short_help_str(width)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="grf-runtime", prog_name="grf")
def grf() -> None:
    """A streaming fusion runtime for multimodal AI: streams in, live fused state out."""


def main() -> None:
    """Run the command; turn every expected failure into one line and an exit code."""
    try:
        sys.exit(grf(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        text = failure_text(error)
        if text is None:
            raise
        click.echo(f"grf: {text}", err=True)
        sys.exit(NO_RUNTIME if is_expected(error, {"runtime.client.errors": "RequestTimeout"}) else FAILED)
