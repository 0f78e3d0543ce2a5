"""`grf train`: a recipe and a seed in; a run folder and a bundle out."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from grf_core.bundle import Bundle, save_bundle
from grf_core.data.sessions import Dataset
from grf_core.model import GRF
from grf_core.training.checkpoint import load_checkpoint, save_checkpoint
from grf_core.training.evaluation import evaluate_conditions
from grf_core.training.model_card import model_card
from grf_core.training.preparation import TrainingError
from grf_core.training.recipe import Recipe
from grf_core.training.run import CHECKPOINT_FIELDS, Progress, TrainingRun

RECIPE_FILE = "recipe.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class TrainingResult:
    bundle: Bundle
    path: Path
    test: dict[str, dict[str, Any]]
    """By condition of the recipe: the figures of the test half, which no decision of the run has seen."""


def train(
    recipe: Recipe,
    data_path: Path | None,
    out: Path,
    seed: int = 0,
    on_progress: Callable[[Progress], None] = lambda _: None,
    device: str = "cpu",
    resume: bool = False,
) -> TrainingResult:
    """Train, and write into the folder `out`: `recipe.json`, `metrics.jsonl`, `checkpoint.pt` and `bundle/`.

    The weights kept are those of the epoch with the best figure on the validation part, which is cut from the training
    half and from nothing else. With `resume` a run goes on from the folder's checkpoint; without one it begins.
    """
    if not recipe.config.shared_block:
        raise TrainingError("a model with separate blocks has no recurrent step, so it is no bundle")
    out.mkdir(parents=True, exist_ok=True)
    dataset = recipe.load(data_path)
    recipe = recipe.fitted(dataset)
    run = TrainingRun(recipe, dataset.train, seed, device)
    checkpoint, metrics_path = out / CHECKPOINT_FILE, out / METRICS_FILE
    if resume and checkpoint.exists():
        run.resume(load_checkpoint(checkpoint, CHECKPOINT_FIELDS))
    else:
        checkpoint.unlink(missing_ok=True)
    _keep_lines(metrics_path, run.epoch)
    (out / RECIPE_FILE).write_text(json.dumps({**recipe.to_json(), "seed": seed}, indent=2) + "\n")
    with metrics_path.open("a", encoding="utf-8") as metrics:
        for progress in run.epochs():
            metrics.write(json.dumps(asdict(progress)) + "\n")
            metrics.flush()
            save_checkpoint(checkpoint, run.state())
            on_progress(progress)
    return _finish(recipe, dataset, run, out / "bundle")


def train_seeds(
    recipe: Recipe,
    data_path: Path | None,
    runs: Path,
    seeds: Sequence[int],
    on_progress: Callable[[Progress], None] = lambda _: None,
    device: str = "cpu",
    resume: bool = False,
) -> TrainingResult:
    """`train` once for each seed, in a folder of its own. The result is that of the first, which no figure has chosen;
    its card tells the figures of all."""
    results = [
        train(recipe, data_path, run_folder(runs, recipe, seed), seed, on_progress, device, resume) for seed in seeds
    ]
    first = results[0]
    if len(results) == 1:
        return first
    training = {**first.bundle.training, "seeds": list(seeds), "spread": spread([result.test for result in results])}
    bundle = replace(first.bundle, training=training)
    save_bundle(first.path, bundle, model_card(recipe, training))
    return replace(first, bundle=bundle)


def run_folder(runs: Path, recipe: Recipe, seed: int) -> Path:
    return runs / f"{recipe.name}-{seed}"


def spread(tests: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, list[float]]]:
    """[mean, standard deviation] over the seeds, of each metric by condition."""
    figures: dict[str, dict[str, list[float]]] = {}
    for condition, of_first in tests[0].items():
        values = {metric: [test[condition][metric] for test in tests] for metric in of_first}
        figures[condition] = {
            metric: [statistics.mean(of_seeds), statistics.stdev(of_seeds)]
            for metric, of_seeds in values.items()
            if metric not in ("n", "segments") and None not in of_seeds
        }
    return figures


def bundle_of(run: TrainingRun, provenance: dict[str, Any]) -> Bundle:
    """The best weights of a run. TrainingError for a model that is no GRF with a shared block."""
    model = run.restore_best()
    if not isinstance(model, GRF) or not model.config.shared_block:
        raise TrainingError(f"{type(model).__name__} has no recurrent step, so it is no bundle")
    return Bundle.of(run.recipe.name, model, run.normalisation, provenance)


def _keep_lines(path: Path, count: int) -> None:
    """A run that stopped between a line and its checkpoint repeats that epoch."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    path.write_text("".join(lines[:count]), encoding="utf-8")


def _finish(recipe: Recipe, dataset: Dataset, run: TrainingRun, path: Path) -> TrainingResult:
    provenance: dict[str, Any] = {
        "recipe": recipe.to_json(),
        "seed": run.seed,
        "data": {"name": dataset.name, "source": dataset.source, "licence": dataset.licence, "split": dataset.split},
        "sessions": {
            "train": len({session.session for session in run.data.training}),
            "validation": len(run.data.validation),
            "test": len(dataset.test),
        },
        "trained_on": run.trained_on,
        "best_epoch": run.best_epoch,
        "torch": torch.__version__,
    }
    bundle = bundle_of(run, provenance)
    test = evaluate_conditions(bundle, dataset.test, recipe.conditions, run.device) if dataset.test else {}
    bundle = replace(bundle, training={**provenance, "test": test})
    save_bundle(path, bundle, model_card(recipe, bundle.training))
    return TrainingResult(bundle, path, test)
