"""The forest of claims: effects, intervals, margins, published effects."""

import string

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.plots.canvas import BLUE, GREY, LABEL, ORANGE, RED, canvas

SIGN = {"higher": 1, "lower": -1}
PANELS = {
    "accuracy, points": (("acc", "acc_few"), 100),
    "ECE": (("ece", "ece_10"), 1),
    "NLL and KL, nats": (("nll", "fidelity.centroid_probs"), 1),
    "AURC": (("aurc",), 1),
}
COLOURS = {"holds": BLUE, "does not hold": RED, "undecided": GREY}


def forest(verdicts: pd.DataFrame, title: str) -> Figure:
    """One line an effect, positive on the claimed side; a panel for each unit. What it was measured
    on is a letter, which stands under the title.

    verdicts: of `kdlib.report.audit.deterministic_tables`; lines without an effect are left out. A
    tick is the margin, a cross the published effect, a hollow point one without a verdict.
    """
    lines = verdicts.dropna(subset="effect")
    lines = lines.assign(measured=lines["profile"] + ": " + lines["scale"])
    letters = dict(zip(lines["measured"].unique(), string.ascii_lowercase, strict=False))
    known = {metric for metrics, _ in PANELS.values() for metric in metrics}
    panels = {**PANELS, "other": (tuple(set(lines["metric"]) - known), 1)}
    parts = {
        name: (lines[lines["metric"].isin(metrics)].iloc[::-1], factor)
        for name, (metrics, factor) in panels.items()
    }
    parts = {name: part for name, part in parts.items() if len(part[0])}
    sizes = [len(part) for part, _ in parts.values()]
    height = 1.2 + 0.15 * len(letters) + 0.55 * len(parts) + 0.24 * sum(sizes)
    ratios = {"height_ratios": [size + 1 for size in sizes]}
    with canvas(1, (10.0, height), len(parts), squeeze=False, gridspec_kw=ratios) as (figure, grid):
        for axes, (name, (part, factor)) in zip(grid[:, 0], parts.items(), strict=True):
            _panel(axes, part.assign(letter=part["measured"].map(letters)), factor)
            axes.set_xlabel(f"effect on {name}, towards the claim")
        figure.legend(handles=_legend(), loc="outside lower center", ncols=3, fontsize=LABEL)
        key = (f"{letter}: {measured}" for measured, letter in letters.items())
        figure.suptitle("\n".join([title, *key]), fontsize=9)
    return figure


def _panel(axes: Axes, part: pd.DataFrame, factor: float) -> None:
    heights = np.arange(len(part))
    for height, line in zip(heights, part.to_dict("records"), strict=True):
        sign = SIGN[line["side"]]
        colour = COLOURS.get(line["verdict"], GREY)
        filled = colour if line["verdict"] in COLOURS else "white"
        value = factor * sign * line["effect"]
        half = factor * np.nan_to_num(line["effect_ci95"])
        axes.errorbar(value, height, xerr=half, fmt="o", color=colour, mfc=filled, capsize=2, ms=4)
        axes.plot(factor * sign * line["margin"], height, "|", color="0.2", ms=9)
        axes.plot(factor * line["published_effect"], height, "x", color=ORANGE, ms=5, zorder=1)
    axes.axvline(0, color="0.4", ls="--", lw=0.8)
    axes.set_yticks(heights, [_name(line) for line in part.to_dict("records")], fontsize=LABEL)
    axes.set_ylim(-0.7, len(part) - 0.3)


def _name(line: dict) -> str:
    name = line["id"].replace("_", " ")
    return f"{name} ({line['letter']}, n = {line['seeds']:.0f})"


def _legend() -> list[Line2D]:
    marks = [Line2D([], [], marker="o", ls="", color=c, label=name) for name, c in COLOURS.items()]
    hollow = {"marker": "o", "ls": "", "color": GREY, "mfc": "white"}
    return [
        *marks,
        Line2D([], [], **hollow, label="no verdict"),
        Line2D([], [], marker="|", ls="", color="0.2", ms=9, label="margin"),
        Line2D([], [], marker="x", ls="", color=ORANGE, label="published (other scale)"),
    ]
