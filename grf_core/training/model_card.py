"""The README.md of a bundle: what the model is for, what it was trained on, how good it is, and what it is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grf_core.training.recipe import Recipe

_HOW = {
    "streaming": """The answer after the last segment, or after every segment where the label changes along the session,
through the step model that the runtime drives.""",
    "whole": "The answer after one whole segment of each modality.",
}


def model_card(recipe: Recipe, training: Mapping[str, Any]) -> str:
    """Markdown. `training` is the bundle's provenance, with the test figures by condition under `test`, and what other
    seeds gave under `spread`."""
    sessions, data = training["sessions"], training["data"]
    return f"""# {recipe.name}

A Gated Recurrent Fusion model (arXiv 2507.02985) for streams: recipe `{recipe.name}`, seed {training["seed"]}.
The context is {recipe.config.context_slots} x {recipe.config.d_model} float32.

## Takes and gives

{_modalities(recipe)}

{_heads(recipe)}

## Data

- Name: {data["name"]}
- Source: {data["source"]}
- Licence: {data["licence"]}
- Split: {data["split"]}

{_who_trained(training)} The {sessions["test"]} test sessions had no part in this run.

## Test half

{_HOW[recipe.regime]}

{_figures(training["test"])}
{_other_seeds(training)}
## Limits

{recipe.limits}
"""


def _who_trained(training: Mapping[str, Any]) -> str:
    sessions, epoch = training["sessions"], training["best_epoch"]
    if training["recipe"].get("spoiled"):
        sessions = {**sessions, "train": f"{sessions['train']} (each also in a spoiled copy)"}
    if not sessions["validation"]:
        return f"All sessions of the training half, {sessions['train']}, trained the weights, for {epoch} epochs."
    return (
        f"Of the training half, {sessions['train']} sessions trained the weights and {sessions['validation']} chose the"
        f" epoch, {epoch}."
    )


def _modalities(recipe: Recipe) -> str:
    rows = [f"| `{m.name}` | {m.width} | {m.max_frames} |" for m in recipe.config.modalities]
    return "\n".join(["| modality | width | longest segment, frames |", "| --- | --- | --- |", *rows])


def _heads(recipe: Recipe) -> str:
    rows = [f"| `{h.name}` | {h.kind} | {', '.join(h.labels) or h.outputs} |" for h in recipe.config.heads]
    return "\n".join(["| head | kind | outputs |", "| --- | --- | --- |", *rows])


def _figures(test: Mapping[str, Mapping[str, Any]]) -> str:
    if not test:
        return "No session was held out: nothing is known of how good the model is."
    metrics = _metrics(next(iter(test.values())))
    header = ["condition", *metrics, "sessions played"]
    rows = [
        [name, *(_figure(result.get(metric)) for metric in metrics), str(result["n"])] for name, result in test.items()
    ]
    return _table(header, rows)


def _other_seeds(training: Mapping[str, Any]) -> str:
    spread = training.get("spread", {})
    if not spread:
        return ""
    seeds = training["seeds"]
    shown = _metrics(next(iter(spread.values())))
    told = {
        condition: {metric: "{:.3f} ± {:.3f}".format(*figures[metric]) for metric in shown if metric in figures}
        for condition, figures in spread.items()
    }
    header = ["condition", *shown]
    rows = [[condition, *(cells.get(metric, "-") for metric in shown)] for condition, cells in told.items()]
    return f"""
Mean and standard deviation over the seeds {", ".join(map(str, seeds))}. That seed {seeds[0]} is shipped was settled
before:

{_table(header, rows)}
"""


def _metrics(names: Iterable[str]) -> list[str]:
    """With several heads the first one's metrics stand there twice."""
    metrics = [name for name in names if name not in ("n", "segments")]
    return [name for name in metrics if "/" in name] or metrics


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
