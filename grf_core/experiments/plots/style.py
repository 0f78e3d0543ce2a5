"""What all plots share: sizes, greys that differ, and files that are small and the same every time."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from io import BytesIO
from typing import TYPE_CHECKING, Any, ParamSpec, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
Colour = tuple[float, float, float, float]
DPI = 110
COLOUR_MAP = "viridis"
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 2)), (0, (3, 1, 1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "d")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo", "--", "**", "||")
SETTINGS: dict[str, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "grf",
    "svg.fonttype": "none",
    "figure.facecolor": "white",
}


class MissingPlotting(ImportError):
    """matplotlib or scikit-learn is not installed; the text says how to."""


def need(package: str) -> None:
    """MissingPlotting unless the package can be imported."""
    try:
        __import__(package)
    except ImportError:
        raise MissingPlotting(f"{package} is missing: pip install grf-runtime[experiments]") from None


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with our settings, whatever those of the process are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        need("matplotlib")
        import matplotlib

        with matplotlib.rc_context(cast(Any, SETTINGS)):
            return draw(*args, **kwargs)

    return drawn


def new_figure(width_in: float, height_in: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row after row. Sizes are in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def colours(count: int, lightest: float = 0.78) -> list[Colour]:
    """From dark to light, none as light as the paper."""
    from matplotlib import colormaps

    tones = (colormaps[COLOUR_MAP](lightest * place / max(count - 1, 1)) for place in range(count))
    return [(red, green, blue, alpha) for red, green, blue, alpha in tones]


def picture(figure: Figure, suffix: str) -> bytes:
    """As `png` or `svg`; without a date in it."""
    import matplotlib

    if figure.get_layout_engine() is not None:
        # Settled here, at the resolution of the file: a layout made anew for each drawing is not quite the same each
        # time, and the first one has not yet seen the labels of the ticks that it makes room for.
        figure.set_dpi(DPI)
        for _ in range(2):
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
    file = BytesIO()
    metadata = {"Date": None} if suffix == "svg" else {}
    with matplotlib.rc_context(cast(Any, SETTINGS)):
        figure.savefig(file, format=suffix, dpi=DPI, metadata=metadata)
    return file.getvalue()
