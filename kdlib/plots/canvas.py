"""What all figures share: style, saving, labels that do not overlap.

Colours are seaborn's colour-blind palette; shapes and labels say the same. Nothing here opens a
window: in a notebook a returned figure shows itself, elsewhere it is only an object.
"""

import contextlib
import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from kdlib.files import write_atomic

_COLOURS = sns.color_palette("colorblind")
BLUE, ORANGE, _, RED = _COLOURS[:4]
# Without pink and yellow, which are faint as thin lines and hollow markers on white.
PALETTE = [*_COLOURS[:6], _COLOURS[7], (0.1, 0.1, 0.1), _COLOURS[9]]
MARKERS = "osD^vPX*<>hp"
GREY = (0.5, 0.5, 0.5)
LABEL = 7.5  # size of a label, in points
STYLE = {
    "font.size": 9, "figure.titlesize": 10, "axes.titlesize": 10, "legend.fontsize": LABEL,
    "legend.frameon": True, "grid.color": "0.92",
}  # fmt: skip
PERFECT = "expected of perfect calibration"
FORMATS = {"png": {"Software": None}, "svg": {"Date": None}}  # metadata that would differ
Looks = dict[str, dict[str, Any]]  # name -> properties of its line and marker


@contextlib.contextmanager
def canvas(
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = (8.0, 4.8),
    title: str = "",
    style: Mapping[str, Any] = STYLE,
    **shared: bool,
) -> Iterator[tuple]:
    """A figure and its axes in a style, closed for pyplot: who returns it decides where it is
    shown. size: in inches; title: above all axes."""
    with mpl.rc_context({**sns.axes_style("whitegrid"), **style}):
        figure, found = plt.subplots(
            rows, columns, figsize=size, dpi=150, layout="constrained", **shared
        )
        plt.close(figure)
        if title:
            _entitle(figure, title)
        yield figure, found


def _entitle(figure: Figure, title: str) -> None:
    """Write the title above all axes, in more lines where one is wider than the figure."""
    lines = []
    for line in title.split("\n"):
        share = figure.suptitle(line).get_window_extent().width / (0.97 * figure.bbox.width)
        lines += textwrap.wrap(line, int(len(line) / share)) if share > 1 else [line]
    figure.suptitle("\n".join(lines))


@contextlib.contextmanager
def panel_grid(
    number: int, height: float, title: str, style: Mapping[str, Any] = STYLE, margin: float = 0
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with so many panels, three a row up to nine, else four; spare places are blank.

    height: of a row, in inches; margin: what the figure is higher than its rows.
    """
    columns = min(number, 3 if number <= 9 else 4)
    rows = math.ceil(number / columns)
    size = max(6.4, 3.4 * columns), margin + height * rows
    with canvas(rows, columns, size, title, style, squeeze=False) as (figure, found):
        for spare in found.flat[number:]:
            spare.set_visible(False)
        yield figure, list(found.flat[:number])


def save(figure: Figure, folder: str | Path, name: str) -> Path:
    """Write name.png and name.svg, the same bytes for the same figure; the path of the PNG."""
    folder = Path(folder)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once for both
    for suffix, metadata in FORMATS.items():
        content = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": name}):
            figure.savefig(content, format=suffix, metadata=metadata)
        write_atomic(folder / f"{name}.{suffix}", content.getvalue())
    return folder / f"{name}.png"


def looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each name, by its place."""
    return {
        name: {"color": PALETTE[at % len(PALETTE)], "marker": MARKERS[at % len(MARKERS)]}
        for at, name in enumerate(names)
    }


def legend(
    figure: Figure, looks: Looks, columns: int, loc: str = "outside lower center", **base: Any
) -> None:
    """Name each look beside the axes, in as many columns as fit, at most `columns`. base: what a
    look does not say itself; no line by default."""
    handles = [
        Line2D([], [], label=name, **{"ls": "none", **base, **look}) for name, look in looks.items()
    ]
    for ncols in range(min(columns, len(handles)), 0, -1):
        made = figure.legend(handles=handles, loc=loc, ncols=ncols)
        if made.get_window_extent().width <= figure.bbox.width or ncols == 1:
            return
        made.remove()


def spread(positions: ArrayLike, gap: float, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Ascending positions (n,) moved as little as possible (least squares) so that neighbours are
    at least `gap` apart and all lie in [low, high]; ValueError where they do not fit.

    >>> spread([0.1, 0.5, 0.52, 0.99], gap=0.1)
    array([0.1 , 0.46, 0.56, 0.99])
    >>> spread([0.97, 0.98], gap=0.1)
    array([0.9, 1. ])
    """
    steps = gap * np.arange(len(positions))
    if len(steps) and steps[-1] > high - low:
        raise ValueError(f"{len(steps)} labels {gap} apart do not fit between {low} and {high}")
    # Less its own step, a label only has to lie no lower than its predecessor.
    moved = isotonic_regression(np.asarray(positions) - steps).x if len(steps) else steps
    return np.clip(moved, low, high - steps[-1:]) + steps


def log_scale(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis with a few round numbers."""
    axes.set(**{f"{which}scale": "log"})
    axis = {"x": axes.xaxis, "y": axes.yaxis}[which]
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def label_column(axes: Axes, table: pd.DataFrame, colours: Sequence[Any]) -> None:
    """Write `table["cell"]` in a column to the right of the axes, joined to the points by lines.

    table: columns cell, ece (x), acc (y, as a fraction drawn in percent). Limits must be final.
    """
    points = np.column_stack([table["ece"], 100 * table["acc"]])
    heights = axes.transAxes.inverted().transform(axes.transData.transform(points))[:, 1]
    order = np.argsort(heights, kind="stable")
    line = 1.2 * LABEL / 72 * axes.figure.dpi / axes.get_window_extent().height
    for index, height in zip(order, spread(heights[order], line), strict=True):
        axes.annotate(
            table["cell"].iloc[index],
            points[index],
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=LABEL,
            color=colours[index],
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colours[index], "lw": 0.5, "alpha": 0.6,
                        "relpos": (0, 0.5), "patchA": None, "shrinkA": 1, "shrinkB": 0},
            zorder=2,  # under the points
        )  # fmt: skip
