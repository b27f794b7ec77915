"""The forest of claims: effects, intervals, margins, published effects, on one axis."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.plots.canvas import BLUE, GREY, LABEL, RED, canvas

COLOURS = {"holds": BLUE, "does not hold": RED, "undecided": GREY}
WIDTH = 70  # letters of a label's line
INCHES = 0.16  # a line of text
# Whether it went through a mistake: how a published effect is drawn.
PUBLISHED = {
    wrong: {"marker": "D", "ls": "", "color": colour, "mfc": "white", "ms": 4.5}
    for wrong, colour in ((False, "0.25"), (True, "0.7"))
}


def forest(lines: pd.DataFrame, title: str) -> Figure:
    """One line an effect in multiples of its claim's margin, positive on the claimed side, so that
    metrics share an axis: linear inside one margin, logarithmic beyond it.

    lines (`kdlib.report.audit.forest_lines`): heading (of a group, in two lines), label, told (the
    effect in its unit), verdict; effect, half (of its interval; NaN for none), margin (1, or -1
    where the claim is "not worse by more than"), published (NaN for none), mistaken (it went
    through a mistake). A tick is the margin, a diamond the published effect, pale where it is
    mistaken, a hollow point an effect without a verdict.
    """
    places, headings, height = _places(lines)
    with canvas(1, (10.0, 1.6 + INCHES * height)) as (figure, axes):
        for place, line in zip(places, lines.to_dict("records"), strict=True):
            _line(axes, place, line)
        for place, heading in headings.items():
            name, _, scale = heading.partition("\n")
            for row, text, weight in ((0, name, "bold"), (1, scale, "normal")):
                axes.text(-0.01, place + row, text, transform=axes.get_yaxis_transform(),
                          va="center", ha="right", fontsize=LABEL, fontweight=weight)  # fmt: skip
        axes.axvline(0, color="0.4", lw=0.8)
        axes.axvspan(-1, 1, color="0.95", zorder=0)
        axes.set_xscale("symlog", linthresh=1, linscale=0.7)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yticks(places, map(_wrapped, lines["label"]), fontsize=LABEL)
        axes.set_ylim(height, -0.8)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("effect in margins of its claim, towards the claim (linear inside ±1)")
        figure.legend(handles=_legend(), loc="outside lower center", ncols=4, fontsize=LABEL)
        figure.suptitle(title, fontsize=10)
    return figure


def _places(lines: pd.DataFrame) -> tuple[list[float], dict[float, str], float]:
    """Where each line stands, from the top in lines of text, and the first line of each heading;
    how many there are."""
    places, headings, height, before = [], {}, 0.0, None
    for line in lines.to_dict("records"):
        if line["heading"] != before:
            height += 0.6 * bool(places)
            headings[height] = before = line["heading"]
            height += 2.4
        rows = _wrapped(line["label"]).count("\n") + 1
        places.append(height + (rows - 1) / 2)
        height += rows + 0.55
    return places, headings, height


def _wrapped(label: str) -> str:
    return "\n".join(textwrap.wrap(label, WIDTH))


def _line(axes: Axes, place: float, line: dict) -> None:
    colour = COLOURS.get(line["verdict"], GREY)
    filled = colour if line["verdict"] in COLOURS else "white"
    half = np.nan_to_num(line["half"])
    axes.plot(line["published"], place, **PUBLISHED[line["mistaken"]], zorder=1)
    axes.plot(line["margin"], place, "|", color="0.2", ms=9)
    axes.errorbar(
        line["effect"], place, xerr=half, fmt="o", color=colour, mfc=filled, capsize=2, ms=4
    )
    axes.text(1.01, place, line["told"], transform=axes.get_yaxis_transform(), va="center",
              fontsize=LABEL)  # fmt: skip


def _legend() -> list[Line2D]:
    marks = [Line2D([], [], marker="o", ls="", color=c, label=name) for name, c in COLOURS.items()]
    return [
        *marks,
        Line2D([], [], marker="o", ls="", color=GREY, mfc="white", label="no verdict"),
        Line2D([], [], marker="|", ls="", color="0.2", ms=9, label="margin"),
        Line2D([], [], **PUBLISHED[False], label="published (other scale)"),
        Line2D([], [], **PUBLISHED[True], label="published, through a mistake"),
    ]
