"""The pilot's figure: students and their differences over the length of training."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.plots.canvas import canvas, looks
from kdlib.quantities import QUANTITIES

METRICS = ("acc", "ece")


def lengths(
    students: pd.DataFrame, differences: pd.DataFrame, margins: Mapping[str, float], title: str
) -> Figure:
    """Above, accuracy and ECE of every student at each length; below, its difference to the student
    without KD, whose sign counts beyond the grey band.

    students: cell, epochs, acc, ece; differences: difference ("KD S:CE - no KD S:CE"), epochs,
    acc_effect, ece_effect; margins: metric -> half of the band.
    """
    styles = looks(list(students["cell"].unique()))
    with canvas(2, 2, (11.0, 8.5), title, sharex=True) as (figure, grid):
        for metric, above, below in zip(METRICS, *grid, strict=True):
            written = QUANTITIES[metric]
            scale = written.scale
            for cell, part in students.groupby("cell", sort=False):
                _line(above, cell, part.sort_values("epochs"), metric, scale, styles[cell])
            for pair, part in differences.groupby("difference", sort=False):
                style = styles[pair.split(" - ")[0]]
                part = part.sort_values("epochs")
                _line(below, pair, part, f"{metric}_effect", scale, style)
            below.axhspan(-scale * margins[metric], scale * margins[metric], color="0.85", zorder=0)
            below.axhline(0, color="0.4", lw=0.8)
            above.set(ylabel=written.axis)
            below.set(ylabel=f"difference in {written.change_axis}", xlabel="epochs")
            below.set_xscale("log", base=2)
            shown = sorted(students["epochs"].unique())
            below.set_xticks(shown, [str(length) for length in shown])
            below.minorticks_off()
        for axes in grid[:, 1]:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def _line(
    axes: Axes, name: str, part: pd.DataFrame, column: str, scale: float, style: dict
) -> None:
    axes.plot(part["epochs"], scale * part[column], lw=1.2, ms=4, label=name, **style)
