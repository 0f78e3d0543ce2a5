"""grf experiment."""

from __future__ import annotations

import shlex
import sys
from datetime import date, datetime
from pathlib import Path

import click

from grf_core.data.archives import DataFileError
from grf_core.data.mosi import MosiDataError
from grf_core.data.unpickling import UnpicklingRefused
from grf_core.experiments.catalogue import EXPERIMENTS
from grf_core.experiments.experiment import ExperimentError, Setup
from grf_core.experiments.plots.style import MissingPlotting, need
from grf_core.experiments.report import folder_of, write_report
from grf_core.experiments.runner import Laboratory
from grf_core.training.checks import RecipeError
from grf_core.training.preparation import TrainingError
from grf_core.training.recipes import RECIPES

EXPECTED = (
    DataFileError,
    ExperimentError,
    MissingPlotting,
    MosiDataError,
    RecipeError,
    TrainingError,
    UnpicklingRefused,
)
WORK = Path("runs/experiments")


@click.command()
@click.argument("name", type=click.Choice(sorted(EXPERIMENTS)))
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Where the data is, if no package has it.")
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), help="On other data than usual.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Trainings of every arm.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, a core each.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--quick", is_flag=True, help="One seed, two epochs, a few sessions: to see that it works.")
@click.option("--fresh", is_flag=True, help="Train again what is kept from before.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Report folder.  [default: docs/experiments/DATE-NAME]",
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=WORK,
    show_default=True,
    help="Where finished trainings are kept.",
)
@click.option("--date", "day", type=click.DateTime(["%Y-%m-%d"]), help="Of the report.  [default: today]")
def experiment(
    name: str,
    data: Path | None,
    recipe: str | None,
    seeds: int,
    jobs: int,
    epochs: int | None,
    quick: bool,
    fresh: bool,
    out: Path | None,
    work: Path,
    day: datetime | None,
) -> None:
    """Ask one of the questions about GRF: train what it needs, and write a report with figures and plots.

    An experiment that was interrupted goes on where it was. Prints the report's folder last.
    """
    asked = EXPERIMENTS[name]
    told = day.date() if day else date.today()
    laboratory = Laboratory(work / name, data, 1 if quick else seeds, jobs, quick, fresh, tell=_tell)
    setup = Setup(laboratory, RECIPES[recipe or asked.recipe], epochs)
    try:
        need("matplotlib")
        findings = asked.ask(setup)
    except EXPECTED as error:
        raise click.ClickException(str(error)) from None
    folder = folder_of(name if recipe in (None, asked.recipe) else f"{name}-{recipe}", told, out)
    write_report(folder, name, asked.question, _command(), told, findings)
    click.echo(folder)


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _command() -> str:
    """As it was typed, without the paths of this machine."""
    hidden, words = False, []
    for word in sys.argv[1:]:
        words.append("..." if hidden else shlex.quote(word))
        hidden = word in ("--data", "--out", "--work")
    return " ".join(["grf", *words])
