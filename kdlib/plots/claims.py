"""The forest of claims: effects, intervals, margins, published effects, on one axis."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.plots.canvas import BLUE, GREY, LABEL, ORANGE, RED, canvas, legend

REVERSED = "does not hold, the reverse does"
LOOKS = {  # of a verdict
    "holds": {"color": BLUE, "marker": ">"},
    "does not hold": {"color": ORANGE, "marker": "o"},
    REVERSED: {"color": RED, "marker": "<"},
    "undecided": {"color": GREY, "marker": "o"},
}
NONE = {"color": GREY, "marker": "o", "mfc": "white"}
AFTER = {"color": "0.35", "marker": "s", "mfc": "white", "ms": 3.6, "lw": 0.8}
SETTINGS = {"color": "0.8", "lw": 2.2, "solid_capstyle": "butt"}
MARGIN = {"color": "0.2", "marker": "|", "ms": 9}
WIDTH = 80  # letters of a label's line
INCHES = 0.16  # a line of text
# Whether it went through a mistake: how a published effect is drawn.
PUBLISHED = {
    wrong: {"marker": "D", "ls": "", "color": colour, "mfc": face, "ms": 4.5}
    for wrong, colour, face in ((False, "0.15", "0.15"), (True, "0.4", "none"))
}
OTHERS = {  # of the legend, beside the verdicts
    "no verdict": NONE,
    "after a fit on validation": AFTER,
    "margin": MARGIN,
    "published (other scale)": PUBLISHED[False],
    "published, through a mistake": PUBLISHED[True],
    "lowest to highest setting": {"ls": "-", **SETTINGS},
}
SIDES = {-0.02: ("right", "against the claim ◂"), 0.02: ("left", "▸ as claimed")}


def forest(lines: pd.DataFrame, title: str) -> Figure:
    """One line an effect in multiples of its claim's margin, positive on the claimed side, so that
    metrics share an axis: linear inside one margin, logarithmic beyond it.

    lines (`kdlib.report.audit.forest_lines`): heading (of a group, in two lines), label, told (the
    effect in its unit), verdict (of `LOOKS`, else none); effect, half (of
    its interval; NaN for none), fitted, fitted_half (after a fit on validation), lowest, highest
    (of the settings it is a mean of), margin (1, or -1 where the claim is "not worse by more
    than"), published, mistaken (it went through a mistake); each may be NaN.
    """
    places, headings, height = _places(lines)
    with canvas(1, 1, (11.0, 2.0 + INCHES * height), title) as (figure, axes):
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
        for shift, (side, text) in SIDES.items():
            axes.annotate(text, (0, 1), (72 * shift, 4), xycoords=("data", "axes fraction"),
                          textcoords="offset points", ha=side, fontsize=LABEL)  # fmt: skip
        axes.set_xlabel("effect in margins of its claim, towards the claim (linear inside ±1)")
        legend(figure, LOOKS | OTHERS, 3)
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
    look = LOOKS.get(line["verdict"], NONE)
    axes.plot([line["lowest"], line["highest"]], [place, place], zorder=1, **SETTINGS)
    axes.plot(line["margin"], place, ls="", **MARGIN)
    half, fitted_half = (np.nan_to_num(line[name]) for name in ("half", "fitted_half"))
    after = place + 0.42
    axes.errorbar(line["fitted"], after, xerr=fitted_half, ls="", zorder=3, **AFTER)
    axes.errorbar(line["effect"], place, xerr=half, ls="", capsize=2, ms=4.5, zorder=4, **look)
    axes.plot(line["published"], place, zorder=5, **PUBLISHED[line["mistaken"]])
    axes.text(1.01, place, line["told"], transform=axes.get_yaxis_transform(), va="center",
              fontsize=LABEL)  # fmt: skip
