from __future__ import annotations

import builtins
import warnings
from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from grf_core.experiments.plots.bars import Bar, bars
from grf_core.experiments.plots.curves import Curve, Panel, panels, shares
from grf_core.experiments.plots.embedding import StepPlane, planes, project, separability
from grf_core.experiments.plots.maps import confusion, gate_map
from grf_core.experiments.plots.style import LINES, MARKERS, MissingPlotting, colours, need, picture

RNG = np.random.default_rng(0)


def grey(colour: tuple[float, ...]) -> float:
    return float(np.dot(colour[:3], (0.299, 0.587, 0.114)))


def test_colours_differ_in_grey_and_are_darker_than_the_paper() -> None:
    tones = [grey(colour) for colour in colours(5)]
    assert tones == sorted(tones)
    assert min(np.diff(tones)) > 0.05
    assert tones[-1] < 0.8


def test_curves_differ_in_line_and_marker_too() -> None:
    figure = panels([Panel("t", "x", "y", [Curve(str(k), [1, 2], [k, k + 1], [0.1, 0.1]) for k in range(6)])])
    lines = figure.axes[0].get_lines()
    assert len({(line.get_marker(), str(line.get_linestyle())) for line in lines}) == 6
    assert len({line.get_marker() for line in lines}) == 6
    assert len(LINES) >= 6
    assert len(MARKERS) >= 6
    assert len(figure.axes[0].collections) == 6  # the bands of the spread


def test_bars_show_every_seed_the_spread_and_a_hatch_for_each_group() -> None:
    figure = bars([Bar("a", [0.4, 0.6], 0), Bar("b", [0.7, 0.9, 0.8], 1)], "t", "accuracy", reference=0.5)
    axes = figure.axes[0]
    widths = [round(patch.get_width(), 6) if isinstance(patch, Rectangle) else None for patch in axes.patches]
    assert widths == [0.5, 0.8]
    assert len({patch.get_hatch() for patch in axes.patches}) == 2
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [sorted(np.asarray(line.get_xdata()).tolist()) for line in dots] == [[0.4, 0.6], [0.7, 0.8, 0.9]]
    assert axes.get_xlim()[0] == 0


def test_long_names_of_bars_are_not_cut_off() -> None:
    figure = bars([Bar("the longest name that anybody has given", [0.7]), Bar("b", [0.8])], "one\ntwo", "accuracy")
    picture(figure, "png")
    assert min(label.get_window_extent().x0 for label in figure.axes[0].get_yticklabels()) >= 0


def test_a_logarithmic_panel_has_both_axes_so() -> None:
    curve = Curve("GRF", [2, 4, 8], [1, 2, 4])
    [axes] = panels([Panel("t", "x", "y", [curve], logarithmic=True, note="n")]).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_confusion_is_told_as_shares_of_the_true_class() -> None:
    figure = confusion([[3, 1], [0, 0]], ["up", "down"], "t")
    image = figure.axes[0].images[0].get_array()
    assert np.asarray(image).tolist() == [[0.75, 0.25], [0, 0]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "1"]


def test_a_gate_map_names_groups_once_and_leaves_missing_steps_blank() -> None:
    gates = np.array([[1.0, 0.2], [1.0, np.nan], [1.0, 0.8]])
    figure = gate_map(gates, ["one", "two"], ["a", "a", "b"], "t")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None
    assert np.isnan(np.ma.filled(shown, np.nan)[1, 1])


def test_shares_are_stacked_with_hatches() -> None:
    figure = shares([0, 1], {"text": [1.0, 0.4], "audio": [0.0, 0.6]}, "t", "s")
    assert len({layer.get_hatch() for layer in figure.axes[0].collections}) == 2


def test_classes_that_lie_apart_are_measured_as_apart() -> None:
    classes = ["a", "b", "c"] * 20
    mixed = RNG.normal(size=(60, 6))
    apart = mixed + 10 * np.eye(6)[[" abc".index(c) for c in classes]]
    before, after = separability(mixed, classes), separability(apart, classes)
    assert after["silhouette"] > 0.6 > before["silhouette"]
    assert after["probe_accuracy"] == 1.0
    assert before["probe_accuracy"] < 0.6
    assert separability(mixed, ["a"] * 60) == {}
    assert separability(mixed[:4], ["a", "a", "b", "b"]) == {}


def test_steps_are_columns_and_methods_rows() -> None:
    classes = ["a", "b"] * 10
    pca, tsne = project(RNG.normal(size=(20, 5)))
    assert pca.shape == tsne.shape == (20, 2)
    figure = planes([StepPlane("first", pca, tsne), StepPlane("second", pca, tsne)], classes, "t")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["first", "second", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["PCA", "", "t-SNE", ""]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_the_same_every_time(suffix: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (picture(bars([Bar("a", [1.0])], "t", "x"), suffix) for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


def test_what_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPlotting, match=r"matplotlib is missing: pip install grf-runtime\[experiments\]"):
        need("matplotlib")
    with pytest.raises(MissingPlotting, match="experiments"):
        bars([Bar("a", [1.0])], "t", "x")
