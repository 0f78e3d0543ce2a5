"""grf train, grf evaluate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from grf_core.bundle import load_bundle
from grf_core.recording_format import MAGIC
from grf_core.training import trainer
from grf_core.training.evaluation import evaluate_conditions, evaluate_recording
from grf_core.training.recipes import RECIPES


@click.command()
@click.argument("recipe", type=click.Choice(sorted(RECIPES)))
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Where the data is, if no package has it.")
@click.option("--out", type=click.Path(path_type=Path), help="Bundle directory.  [default: bundles/RECIPE]")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Run folders.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def train(recipe: str, data: Path | None, out: Path | None, runs: Path, seed: int, device: str) -> None:
    """Train a recipe and write its bundle; prints the metrics on the test part as one JSON object last."""
    run_folder = runs / f"{recipe}-{seed}"
    columns = (TextColumn("epoch {task.completed} of {task.total}"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task("", total=RECIPES[recipe].schedule.epochs)

        def show(epoch: trainer.Progress) -> None:
            text = f"validation loss {epoch.validation_loss:.3f}"
            progress.update(task, completed=epoch.epoch, description=text)

        result = trainer.train(RECIPES[recipe], data, run_folder, seed, show, device)
    target = out or Path("bundles") / recipe
    target.mkdir(parents=True, exist_ok=True)
    for file in result.path.iterdir():
        shutil.copy2(file, target / file.name)
    click.echo(f"bundle {target}, run {run_folder}")
    click.echo(json.dumps(result.test))


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), help="A recording (.grfrec), or the recipe's data."
)
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), default="motion", show_default=True)
@click.option("--device", default="cpu", show_default=True)
def evaluate(bundle: Path, data: Path | None, recipe: str, device: str) -> None:
    """Evaluate a bundle as a stream, on a recording or on its recipe's test part; prints one JSON object last."""
    loaded = load_bundle(bundle)
    if data is not None and _is_recording(data):
        click.echo(json.dumps(evaluate_recording(loaded, data, device)))
        return
    chosen = RECIPES[recipe]
    sessions = chosen.load(data).test
    conditions = evaluate_conditions(loaded, sessions, chosen.conditions, device)
    for name, metrics in conditions.items():
        click.echo(f"{name}: {json.dumps(metrics)}", err=True)
    click.echo(json.dumps(next(iter(conditions.values()))))


def _is_recording(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC
