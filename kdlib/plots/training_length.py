"""The pilot's figure: students and their differences over the length of training."""

from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.plots.canvas import LABEL, canvas

METRICS = {"acc": ("accuracy, %", "difference, points", 100), "ece": ("ECE", "difference", 1)}


def lengths(
    students: pd.DataFrame, differences: pd.DataFrame, margins: Mapping[str, float], title: str
) -> Figure:
    """Above, accuracy and ECE of every student at each length; below, those of every difference,
    whose sign counts beyond the grey band.

    students: cell, epochs, acc, ece; differences: difference, epochs, acc_effect, ece_effect;
    margins: metric -> half of the band.
    """
    with canvas(2, (11.0, 8.5), 2, sharex=True, squeeze=False) as (figure, grid):
        for (metric, (name, gap, scale)), above, below in zip(METRICS.items(), *grid, strict=True):
            _lines(above, students, "cell", metric, scale)
            _lines(below, differences, "difference", f"{metric}_effect", scale)
            below.axhspan(-scale * margins[metric], scale * margins[metric], color="0.85", zorder=0)
            below.axhline(0, color="0.4", lw=0.8)
            above.set(ylabel=name)
            below.set(ylabel=f"{gap} ({name.split(',')[0]})", xlabel="epochs")
            below.set_xscale("log", base=2)
            shown = sorted(students["epochs"].unique())
            below.set_xticks(shown, [str(length) for length in shown])
            below.minorticks_off()
        for axes in grid[:, 1]:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=LABEL)
        figure.suptitle(title, fontsize=10)
    return figure


def _lines(axes: Axes, table: pd.DataFrame, by: str, column: str, scale: float) -> None:
    palette = sns.color_palette("colorblind")
    for at, (name, part) in enumerate(table.groupby(by, sort=False)):
        part = part.sort_values("epochs")
        style = {"color": palette[at % len(palette)], "marker": "os^vDP*X"[at % 8], "ms": 4}
        dash = ("-", "--", ":")[at // len(palette) % 3]
        axes.plot(part["epochs"], scale * part[column], ls=dash, lw=1.2, label=name, **style)
