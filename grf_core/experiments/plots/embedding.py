"""The contexts of many samples in the plane, one column for each fusion step: do the classes come apart?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from grf_core.experiments.plots.style import MARKERS, colours, need, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = npt.NDArray[np.float64]
MANY_POINTS = 150
PERPLEXITY = 30.0
FOLDS = 3


@dataclass(frozen=True, slots=True)
class StepPlane:
    """The contexts after one step."""

    title: str
    pca_N2: npt.ArrayLike
    tsne_N2: npt.ArrayLike


def project(contexts_ND: Points, seed: int = 0) -> tuple[Points, Points]:
    """(PCA, t-SNE) of the contexts in the plane, [N, 2] each."""
    need("sklearn")
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    pca_N2 = PCA(2, random_state=seed).fit_transform(contexts_ND)
    perplexity = min(PERPLEXITY, (len(contexts_ND) - 1) / 3)
    tsne_N2 = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(contexts_ND)
    return pca_N2, tsne_N2.astype(np.float64)


def separability(contexts_ND: Points, classes_N: Sequence[str], seed: int = 0) -> dict[str, float]:
    """`silhouette` in the space of the contexts, from -1 to 1; `probe_accuracy` of a logistic regression on them,
    cross-validated. Classes with too few samples for that are left out."""
    need("sklearn")
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import silhouette_score
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names, counts = np.unique(np.asarray(classes_N), return_counts=True)
    kept_N = np.isin(np.asarray(classes_N), names[counts >= FOLDS])
    contexts_ND, kept_classes_N = contexts_ND[kept_N], np.asarray(classes_N)[kept_N]
    if len(np.unique(kept_classes_N)) < 2 or not np.ptp(contexts_ND, axis=0).any():
        return {}
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return {
        "silhouette": float(silhouette_score(contexts_ND, kept_classes_N)),
        "probe_accuracy": float(cross_val_score(probe, contexts_ND, kept_classes_N, cv=folds).mean()),
    }


@styled
def planes(steps: Sequence[StepPlane], classes_N: Sequence[str], title: str) -> Figure:
    """PCA above, t-SNE below."""
    names = sorted(set(classes_N))
    figure, axes = new_figure(3.2 * len(steps) + 2.0, 6.4, 2, len(steps))
    for column, step in enumerate(steps):
        for row, (points_N2, method) in enumerate(((step.pca_N2, "PCA"), (step.tsne_N2, "t-SNE"))):
            place = axes[row * len(steps) + column]
            _scatter(place, np.asarray(points_N2), classes_N, names)
            place.set(xticks=[], yticks=[])
            if row == 0:
                place.set_title(step.title)
            if column == 0:
                place.set_ylabel(method, fontweight="bold")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7.5, ncols=1 if len(names) <= 30 else 2)
    return figure


def _scatter(axes: Axes, points_N2: Points, classes_N: Sequence[str], names: Sequence[str]) -> None:
    """Neighbouring tones have different markers, so that a class can be found in grey."""
    shades = colours(len(names), lightest=0.95)
    for place, name in enumerate(names):
        own_N = np.asarray(classes_N) == name
        axes.scatter(
            points_N2[own_N, 0],
            points_N2[own_N, 1],
            s=20,
            color=shades[place],
            label=name,
            marker=MARKERS[place % len(MARKERS)],
            edgecolors="white",
            linewidths=0.35,
            rasterized=len(points_N2) > MANY_POINTS,
        )
