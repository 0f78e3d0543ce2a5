"""grf train, grf evaluate."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from grf_core.bundle import Bundle, load_bundle
from grf_core.data.archives import DataFileError
from grf_core.data.conversion import RecordedSessionSegments, fitted_session, labelled_session
from grf_core.data.mosi import MosiDataError
from grf_core.data.recordings import Recordings, RecordingsError, is_recordings, read_recordings
from grf_core.data.unpickling import UnpicklingRefused
from grf_core.training import trainer
from grf_core.training.checkpoint import CheckpointError
from grf_core.training.checks import RecipeError
from grf_core.training.evaluation import (
    EVERY_HALF_SECOND,
    EvaluationError,
    NothingToEvaluate,
    OnProgress,
    evaluate_as_trained,
    evaluate_conditions,
    evaluate_recorded,
    split_unseen,
)
from grf_core.training.objective import LabelError
from grf_core.training.preparation import TrainingError
from grf_core.training.recipe import Recipe, RegimeName
from grf_core.training.recipes import RECIPES
from grf_core.training.recipes.custom import custom_conditions, custom_recipe
from grf_core.training.recipes.custom_sessions import typical_segment_s
from grf_core.training.run import Progress as EpochProgress

CUSTOM = "custom"
DEVICES = click.Choice(["auto", "cpu", "cuda"])
EXPECTED = (
    CheckpointError,
    DataFileError,
    EvaluationError,
    LabelError,
    MosiDataError,
    RecipeError,
    RecordingsError,
    TrainingError,
    UnicodeDecodeError,
    UnpicklingRefused,
    yaml.YAMLError,
)
FLOAT_1_2 = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
"""1e-3 is a number in YAML 1.2 and in everybody's mind, and text in the YAML 1.1 that PyYAML reads."""


BOOL = "tag:yaml.org,2002:bool"
BOOL_1_2 = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
"""likewise `no` is a text: it is what a class may be called"""


class RecipeLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    yaml_implicit_resolvers = {  # noqa: RUF012  # as PyYAML has it
        first: [(tag, pattern) for tag, pattern in known if tag != BOOL]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


RecipeLoader.add_implicit_resolver(BOOL, BOOL_1_2, list("tTfF"))
RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT_1_2, list("-+.0123456789"))


@click.command()
@click.argument("recipe", type=click.Choice([*sorted(RECIPES), CUSTOM]))
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Where the data is, if no package has it.")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Recipe file of `custom`.")
@click.option("--out", type=click.Path(path_type=Path), help="Bundle directory.  [default: bundles/NAME]")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Run folders.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Trainings, counting on from the seed: the first is the bundle, its card tells the spread of all.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--resume", is_flag=True, help="Go on from the run folder's checkpoint, if there is one.")
@click.option("--device", type=DEVICES, default="auto", show_default=True)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,  # steps are small: threads that wait for each other where cores are shared took up to 20 times as long
    show_default=True,
    help="CPU threads; more help a large model on idle cores.",
)
def train(
    recipe: str,
    data: Path | None,
    config: Path | None,
    out: Path | None,
    runs: Path,
    seed: int,
    seeds: int,
    epochs: int | None,
    resume: bool,
    device: str,
    threads: int,
) -> None:
    """Train a recipe and write its bundle; prints the metrics on the test part as one JSON object last."""
    with _told_in_one_line():
        chosen = _recipe(recipe, data, config)
        if epochs is not None:
            chosen = replace(chosen, schedule=replace(chosen.schedule, epochs=epochs))
        with _going_on_told(), _epoch_bar(chosen.schedule.epochs) as show, _threads(threads):
            numbers = range(seed, seed + seeds)
            result = trainer.train_seeds(chosen, data, runs, numbers, show, _device(device), resume)
    target = out or Path("bundles") / chosen.name
    target.mkdir(parents=True, exist_ok=True)
    for file in result.path.iterdir():
        shutil.copy2(file, target / file.name)
    click.echo(f"bundle {target}, run {result.path.parent}")
    click.echo(json.dumps(result.test))


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), help="A recording (.grfrec), or data as the recipe reads."
)
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), help="Instead of the one that made the bundle.")
@click.option("--conditions", is_flag=True, help="Under every condition of the recipe, told on stderr.")
@click.option("--device", type=DEVICES, default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
def evaluate(
    bundle: Path, data: Path | None, recipe: str | None, conditions: bool, device: str, threads: int | None
) -> None:
    """Evaluate a bundle on what it was not trained on, of a recording or of data like its recipe's.

    Prints one JSON object last: the first head's metrics by name, those of every head by head/name, and n.
    """
    loaded = load_bundle(bundle)
    with _told_in_one_line(), _threads(threads), _session_bar() as show:
        if data is not None and recipe is None and is_recordings(data):
            result = _evaluate_recordings(loaded, data, conditions, _device(device), show)
        else:
            chosen = _recipe_of(loaded, recipe)
            result = _evaluate_recipe(loaded, chosen, data, conditions, _device(device), show)
    click.echo(json.dumps(result))


def _recipe(name: str, data: Path | None, config: Path | None) -> Recipe:
    if name != CUSTOM:
        if config is not None:
            raise click.UsageError(f"--config is for custom, and {name} is a recipe of ours")
        return RECIPES[name]
    if data is None or config is None:
        raise click.UsageError("custom needs --data and --config")
    with config.open(encoding="utf-8") as file:
        recipe = custom_recipe(yaml.load(file, RecipeLoader), data)
    if recipe.name in RECIPES:
        raise RecipeError("name", f"{recipe.name!r} is a recipe of ours")
    return recipe


def _recipe_of(bundle: Bundle, override: str | None) -> Recipe:
    name = override or str(bundle.training.get("recipe", {}).get("name", bundle.name))
    if name not in RECIPES:
        raise EvaluationError(
            f"the bundle's recipe is {name!r}: give a recording as --data, or one of ours as --recipe"
        )
    return RECIPES[name]


def _evaluate_recordings(bundle: Bundle, data: Path, conditions: bool, device: str, show: OnProgress) -> dict[str, Any]:
    recordings = read_recordings(data)
    sessions = _fitted(bundle, recordings)
    chosen = _unseen(bundle, [session.name for session in sessions])
    sessions = [session for session in sessions if session.name in chosen]
    regime: RegimeName = "whole" if bundle.training.get("recipe", {}).get("regime") == "whole" else "streaming"
    whole = [labelled_session(session) for session in sessions] if conditions or regime == "whole" else []
    if conditions:
        # As training finds it: of all that was recorded, before anything is cut or left out.
        asked = list(custom_conditions(bundle.config, typical_segment_s(recordings.sessions), regime))
        _tell(evaluate_conditions(bundle, whole, asked, device, show))
    if regime == "whole":
        return evaluate_as_trained(bundle, whole, EVERY_HALF_SECOND, device, show)
    return evaluate_recorded(bundle, sessions, device, show)


def _fitted(bundle: Bundle, recordings: Recordings) -> list[RecordedSessionSegments]:
    """The labelled sessions, as training took them: a recipe may leave modalities out, and bound segments."""
    most = {modality.name: modality.max_frames for modality in bundle.config.modalities}
    if others := sorted(recordings.head.modalities.keys() - most.keys()):
        click.echo(f"left out, since the bundle does not take it: {', '.join(others)}", err=True)
    fitted = [fitted_session(session, most) for session in recordings.sessions if session.labels]
    return [session for session in fitted if session.segments]


def _evaluate_recipe(
    bundle: Bundle, recipe: Recipe, data: Path | None, conditions: bool, device: str, show: OnProgress
) -> dict[str, Any]:
    if data is None:
        sessions = list(recipe.load(None).test)
    elif recipe.read is None:
        sessions = list(recipe.load(data).test)
    else:
        sessions = list(recipe.read(data))
        chosen = _unseen(bundle, [session.session for session in sessions])
        sessions = [session for session in sessions if session.session in chosen]
    asked = recipe.conditions if conditions else recipe.conditions[:1]
    results = evaluate_conditions(bundle, sessions, asked, device, show)
    if conditions:
        _tell(results)
    headline = next(iter(results.values()))
    if not headline["n"]:
        raise NothingToEvaluate
    return headline


def _tell(results: Mapping[str, Mapping[str, Any]]) -> None:
    for name, metrics in results.items():
        click.echo(f"{name}: {json.dumps(metrics)}", err=True)


def _unseen(bundle: Bundle, names: list[str]) -> set[str]:
    unseen, trained_on = split_unseen(bundle, names)
    if trained_on and not unseen:
        click.echo(
            f"the bundle was trained on all {len(trained_on)} sessions; they are evaluated all the same", err=True
        )
        return set(trained_on)
    if trained_on:
        click.echo(f"{len(trained_on)} sessions left out: the bundle was trained on them", err=True)
    elif "trained_on" not in bundle.training:
        click.echo("the bundle does not say what it was trained on: every session is evaluated", err=True)
    return set(unseen)


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    try:
        yield
    except EXPECTED as error:
        raise click.ClickException(" ".join(str(error).split())) from None


@contextmanager
def _going_on_told() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        told = "with --resume the same goes on after its last whole epoch, without it from the beginning"
        click.echo(f"grf: stopped; {told}", err=True)
        raise


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(name: str) -> str:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise click.UsageError("--device cuda: torch sees no such device")
    return name if name != "auto" else "cuda" if available else "cpu"


@contextmanager
def _epoch_bar(epochs: int) -> Iterator[Callable[[EpochProgress], None]]:
    columns = (TextColumn("epoch {task.completed} of {task.total}"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=epochs)

        def show(epoch: EpochProgress) -> None:
            loss, part = (
                (epoch.training_loss, "training")
                if epoch.validation_loss is None
                else (epoch.validation_loss, "validation")
            )
            text = f"{part} loss {loss:.3f}"
            progress.update(task, completed=epoch.epoch, description=text)
            if not progress.console.is_terminal:
                text += f", best {epoch.best_epoch}, {epoch.elapsed_s:.0f} s"
                click.echo(f"epoch {epoch.epoch} of {epochs}: {text}", err=True)

        yield show


@contextmanager
def _session_bar() -> Iterator[OnProgress]:
    columns = (TextColumn("session {task.completed} of {task.total}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
