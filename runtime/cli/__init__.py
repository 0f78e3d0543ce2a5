"""The command `grf`.

Exit codes: 0 done; 1 the runtime said no or something failed; 2 the command line is wrong; 3 no runtime answers;
4 done, but not as it should be (segments lost, digests that differ); 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import sys

import click

from runtime.cli.common import FAILED, NO_RUNTIME, failure_text
from runtime.cli.connecting import connect
from runtime.cli.converting import convert
from runtime.cli.demo import demo
from runtime.cli.experiment import experiment
from runtime.cli.lifecycle import down, drain, scale, status, up
from runtime.cli.model import evaluate, train
from runtime.cli.reading import query, sessions, watch
from runtime.cli.replaying import record, replay
from runtime.cli.state import digest, state
from runtime.client import RequestTimeout


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="grf-runtime", prog_name="grf")
def grf() -> None:
    """A streaming fusion runtime for multimodal AI: streams in, live fused state out."""


for command in (
    up,
    down,
    status,
    scale,
    drain,
    demo,
    train,
    evaluate,
    experiment,
    connect,
    convert,
    replay,
    query,
    watch,
    sessions,
    record,
    digest,
    state,
):
    grf.add_command(command)


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
        sys.exit(NO_RUNTIME if isinstance(error, RequestTimeout) else FAILED)
