"""Do the classes come apart with each fusion step, and how far does the gate open? Looked at in a trained model, once
with whole samples and once with streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from grf_core.experiments.comparison import failures
from grf_core.experiments.experiment import Setup, labels_of
from grf_core.experiments.plots.curves import Curve, Panel, panels, shares
from grf_core.experiments.plots.embedding import StepPlane, planes, project, separability
from grf_core.experiments.plots.maps import confusion, gate_map
from grf_core.experiments.report import Findings, Plot, Table, json_rows, score_table
from grf_core.experiments.results import Row, rows_of
from grf_core.experiments.runner import Arm, Finished, Measured
from grf_core.experiments.tracing import Trace, Values, trace_streams, trace_whole
from grf_core.experiments.trained import EVERYTHING, Trained, as_plain
from grf_core.step import Float32Array
from grf_core.training.evaluation import stream_answers
from grf_core.training.playback import play
from grf_core.training.recipe import Condition

WHOLE, STREAM = "whole samples", "streams"
PARTS = (0.0, 1 / 3, 2 / 3, 1.0)
"""Of a session's steps: where its context is looked at."""
TIME_BINS = 24
AGREEING = 0.9
"""Of the steps whose gate is above this, the context has been overwritten."""


@dataclass(frozen=True, slots=True)
class Look:
    condition: Condition

    def __call__(self, trained: Trained) -> Measured:
        whole = trained.recipe.regime == "whole"
        trace = trace_whole(trained) if whole else trace_streams(trained, self.condition)
        names = [modality.name for modality in trained.config.modalities]
        steps = _whole_steps(trace, names) if whole else _stream_steps(trace)
        classes = labels_of(trained.recipe, trained.test)
        scores = {self.condition.name: trained.scores(self.condition)}
        drawn = []
        for title, contexts_ND in steps:
            scores[title] = separability(contexts_ND, classes)
            pca_N2, tsne_N2 = project(contexts_ND)
            drawn.append({"title": title, "pca": as_plain(pca_N2), "tsne": as_plain(tsne_N2)})
        times_s, shares_MT = _shares_over_time(trace, len(names))
        shown = {
            "classes": classes,
            "steps": drawn,
            "gates": [[None if np.isnan(z) else round(float(z), 3) for z in row] for row in trace.gates_NS],
            "mean_gate_after_first": round(float(np.nanmean(trace.gates_NS[:, 1:])), 4),
            "overwriting": round(float(np.mean(trace.gates_NS[:, 1:][~np.isnan(trace.gates_NS[:, 1:])] > AGREEING)), 4),
            "times_s": as_plain(times_s),
            "shares": dict(zip(names, as_plain(shares_MT), strict=True)),
            "confusion": _confusion(trained, self.condition).tolist(),
        }
        return Measured(scores, shown)


def embedding(setup: Setup) -> Findings:
    whole, stream = setup.whole().fitted(setup.dataset()), setup.streaming().fitted(setup.dataset())
    arms = [
        Arm(WHOLE, whole, measure=Look(EVERYTHING)),
        Arm(STREAM, stream, measure=Look(setup.first_condition())),
    ]
    results = setup.run(arms)
    rows = rows_of(results)
    head = next(head for head in whole.config.heads if head.kind == "classification")
    accuracies = [r for r in rows if "probe_accuracy" not in r.mean and r.mean]
    separated = [r for r in rows if "probe_accuracy" in r.mean]
    firsts = {name: next((f for f in results if f.arm == name and f.failed is None), None) for name in (WHOLE, STREAM)}
    plots = [_separability_plot(separated)] if separated else []
    for name, finished in firsts.items():
        if finished is not None:
            modalities = [modality.name for modality in whole.config.modalities]
            plots += _plots(name, finished, head.labels, modalities, setup.recipe.name)
    return Findings(
        tables=[
            score_table(accuracies, conditions=True, title="Test part"),
            score_table(separated, ["silhouette", "probe_accuracy"], True, "How far the classes are apart"),
            _gate_table(results),
        ],
        answer=_answer(separated, results),
        settings=setup.settings(stream),
        rows=json_rows(rows),
        plots=plots,
        remarks=[
            "Silhouette and probe are of the contexts themselves, [D]; PCA and t-SNE are for the eye.",
            "The plots show the first seed. The probe is a logistic regression, cross-validated on the test part.",
            *failures(rows),
        ],
    )


def _whole_steps(trace: Trace, names: Sequence[str]) -> list[tuple[str, Values]]:
    return [(f"after {name}", trace.contexts_NSD[:, step]) for step, name in enumerate(names)]


def _stream_steps(trace: Trace) -> list[tuple[str, Values]]:
    lengths_N = (~np.isnan(trace.gates_NS)).sum(axis=1)
    rows_N = np.arange(len(lengths_N))
    return [
        (
            "after the first segment" if part == 0 else f"after {part:.0%} of the segments",
            trace.contexts_NSD[rows_N, np.round(part * (lengths_N - 1)).astype(int)],
        )
        for part in PARTS
    ]


def _shares_over_time(trace: Trace, count: int) -> tuple[Values, Values]:
    """Mean share of each modality at evenly spread times, over the sessions that have begun; a session that has ended
    keeps its last."""
    ends_N = np.nanmax(trace.times_NS, axis=1)
    first_s, last_s = float(np.nanmin(trace.times_NS)), float(np.median(ends_N))
    times_s = np.linspace(first_s, max(last_s, first_s + 1e-6), TIME_BINS)
    at_TM = np.zeros((len(times_s), count))
    for place, time_s in enumerate(times_s):
        reached_NS = trace.times_NS <= time_s + 1e-9
        begun_N = reached_NS.any(axis=1)
        last_N = reached_NS.shape[1] - 1 - reached_NS[:, ::-1].argmax(axis=1)
        at_TM[place] = trace.shares_NSM[begun_N, last_N[begun_N]].mean(axis=0)
    return times_s, at_TM.T


def _confusion(trained: Trained, condition: Condition) -> Values:
    head = next(head for head in trained.config.heads if head.kind == "classification")
    truth = [head.labels.index(label) for label in labels_of(trained.recipe, trained.test)]
    counts_CC = np.zeros((head.outputs, head.outputs))
    np.add.at(counts_CC, (truth, _answered(trained, condition, head.name).argmax(axis=1)), 1)
    return counts_CC


def _answered(trained: Trained, condition: Condition, head: str) -> Float32Array:
    """[N, classes]; in a stream after the last segment."""
    if trained.recipe.regime == "whole":
        return trained.answers()[0][head]
    rng, model = np.random.default_rng(0), trained.bundle().step_model()
    sequences = [play(s, trained.config, condition.cutting, rng, condition.augmentation) for s in trained.test]
    columns = next(known for known in model.signature.heads if known.name == head)
    return np.stack([answers[-1, columns.start : columns.stop] for answers in stream_answers(model, sequences)])


def _answer(rows: Sequence[Row], results: Sequence[Finished]) -> list[str]:
    told = []
    for name in (WHOLE, STREAM):
        steps = [r for r in rows if r.arm == name]
        if len(steps) > 1:
            silhouettes = [r.mean["silhouette"] for r in steps]
            rising = all(later > earlier for earlier, later in pairwise(silhouettes))
            probes = ", ".join(f"{r.mean['probe_accuracy']:.3f}" for r in steps)
            told.append(
                f"With {name} the classes come apart {'with every step' if rising else 'not with every step'}:"
                f" silhouette {', '.join(f'{s:.3f}' for s in silhouettes)}; probe {probes}."
            )
        shown = [f.shown for f in results if f.arm == name and f.failed is None]
        if shown:
            gate = np.mean([s["mean_gate_after_first"] for s in shown])
            over = np.mean([s["overwriting"] for s in shown])
            collapse = "a sign of context collapse" if over > 0.5 else "no sign of context collapse"
            told.append(
                f"With {name} the gate is {gate:.2f} on average after the first step, and above {AGREEING:g} at"
                f" {over:.0%} of the steps: {collapse}."
            )
    return told


def _gate_table(results: Sequence[Finished]) -> Table:
    cells = [
        [f.arm, str(f.seed), f"{f.shown['mean_gate_after_first']:.3f}", f"{f.shown['overwriting']:.3f}"]
        for f in results
        if f.failed is None
    ]
    return Table(["arm", "seed", "mean gate", f"share of steps above {AGREEING:g}"], cells, "Gate after the first step")


def _separability_plot(rows: Sequence[Row]) -> Plot:
    drawn = []
    for metric, title in (("silhouette", "Silhouette"), ("probe_accuracy", "Linear probe, accuracy")):
        curves = []
        for name in (WHOLE, STREAM):
            steps = [r for r in rows if r.arm == name]
            part = np.linspace(0, 1, len(steps)).tolist()
            curves.append(Curve(name, part, [r.mean[metric] for r in steps], [r.std[metric] or 0.0 for r in steps]))
        drawn.append(Panel(title, "part of the segments fused", title.lower(), [c for c in curves if c.x]))
    return Plot("separability", "How far the classes are apart as fusion goes on.", panels(drawn))


def _plots(name: str, finished: Finished, labels: Sequence[str], modalities: Sequence[str], recipe: str) -> list[Plot]:
    shown: Mapping[str, Any] = finished.shown
    classes, key = shown["classes"], name.split()[0]
    steps = [StepPlane(step["title"], step["pca"], step["tsne"]) for step in shown["steps"]]
    order = sorted(range(len(classes)), key=lambda row: classes[row])
    gates_NS = np.array([[np.nan if z is None else z for z in shown["gates"][row]] for row in order], np.float64)
    named = list(modalities) if name == WHOLE else [str(step + 1) for step in range(gates_NS.shape[1])]
    plots = [
        Plot(
            f"embedding-{key}",
            f"Contexts of the test part step by step, {name}.",
            planes(steps, classes, f"{recipe}: contexts, {name}"),
        ),
        Plot(
            f"gates-{key}",
            f"Gate of each test session (rows, by class) at each step, {name}.",
            gate_map(gates_NS, named, [classes[row] for row in order], f"{recipe}: gates, {name}"),
        ),
        Plot(
            f"confusion-{key}",
            f"Answers on the test part, {name}.",
            confusion(shown["confusion"], labels, f"{recipe}: answers, {name}"),
        ),
    ]
    if name == STREAM:
        scale, unit = (3600.0, "h") if shown["times_s"][-1] > 7200 else (1.0, "s")
        times = [time_s / scale for time_s in shown["times_s"]]
        drawn = shares(times, shown["shares"], f"{recipe}: who the context is made of", f"event time, {unit}")
        plots.append(Plot("shares", "Mean share of each modality in the context over the session.", drawn))
    return plots
