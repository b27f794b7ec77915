"""Figures of what predictions show image by image."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.metrics import ReliabilityBins
from kdlib.plots.canvas import BLUE, LABEL, ORANGE, PALETTE, PERFECT, canvas, legend, looks

FEWEST = 5  # images in a bin that is drawn: fewer are noise


def rank_stability(table: pd.DataFrame, title: str, shown: int = 15) -> Figure:
    """How often a cell is among the top 5, when test images are redrawn and from seed to seed.

    table: of `kdlib.report.rank_stability`; the `shown` most frequent cells are drawn.
    """
    part = table[table["top5_images"] > 0].nlargest(shown, "top5_images")
    heights = np.arange(len(part))[::-1]
    with canvas(size=(8.0, 0.8 + 0.24 * len(part))) as (figure, axes):
        axes.barh(heights, 100 * part["top5_images"], 0.7, color=BLUE, label="test images redrawn")
        seeds = part["seeds"].max()
        if seeds > 1:
            label = f"{seeds} seeds, each alone"
            axes.scatter(100 * part["top5_seeds"], heights, 40, marker="D", color=ORANGE,
                         edgecolor="white", label=label, zorder=3)  # fmt: skip
        axes.set_yticks(heights, part["cell"], fontsize=LABEL)
        axes.set(xlim=(0, 102), xlabel="among the top 5 by Harmonic, % of draws", title=title)
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


Bins = ReliabilityBins | Mapping[str, ReliabilityBins] | Mapping[str, Mapping[str, ReliabilityBins]]


def reliability(panels: Bins, title: str) -> Figure:
    """Accuracy against confidence, a panel for each network, a line for each adjustment.

    panels: network -> legend -> `kdlib.metrics.reliability_bins`; without networks one panel, or
    bins alone. A marker's area is the share of images in its bin, of which there are at least
    FEWEST; the diagonal is perfect calibration.
    """
    if isinstance(panels, ReliabilityBins):
        panels = {"": panels}
    if isinstance(next(iter(panels.values())), ReliabilityBins):
        panels = {"": panels}
    size = 8.0, 1.3 + 6.6 / len(panels)  # panels are square
    shared = {"squeeze": False, "sharey": True}
    with canvas(1, len(panels), size, title, **shared) as (figure, (found,)):
        for axes, (name, lines) in zip(found, panels.items(), strict=True):
            axes.plot([0, 1], [0, 1], color="0.4", ls="--", lw=0.8)
            for label, look in looks(list(lines)).items():
                bins = lines[label]
                filled = bins.count >= FEWEST
                at = bins.confidence[filled], bins.accuracy[filled]
                axes.plot(*at, color=look["color"], lw=1)
                axes.scatter(*at, 6 + 150 * bins.share[filled], alpha=0.7, label=label, zorder=3,
                             clip_on=False, **look)  # fmt: skip
            axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence", aspect="equal")
            axes.set_title(name, fontsize=8.5)
        found[0].set_ylabel("accuracy")
        _legends(figure, found)
    return figure


def _legends(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend below the panels where they show the same, else one in each."""
    labels = {tuple(axes.get_legend_handles_labels()[1]) for axes in panels}
    if len(labels) == 1 < len(panels):
        legend(figure, looks(labels.pop()), 2, ls="-", lw=1, ms=5)
        return
    for axes in panels:
        if not any(axes.get_legend_handles_labels()[1]):
            continue  # bins alone have no name
        axes.legend(fontsize=LABEL - 0.5, loc="lower right", markerscale=0.6)


def risk_coverage(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
    """The error rate among the most confident images, over the share of images that is answered.

    curves: network -> coverages and risks of `kdlib.metrics.risk_coverage`.
    """
    styles = zip(itertools.cycle(PALETTE), itertools.cycle(("-", "--", "-.", ":")), strict=True)
    with canvas(size=(8.0, 3.6)) as (figure, axes):
        for (name, (coverage, risk)), (colour, dash) in zip(curves.items(), styles, strict=False):
            axes.plot(100 * coverage, 100 * risk, dash, color=colour, lw=1.5, label=name)
        axes.set(xlim=(0, 100), ylim=(0, None), title=title)
        axes.set(xlabel="coverage, % of images answered", ylabel="error rate among them, %")
        axes.legend(loc="upper left")
    return figure


def batch_ece(table: pd.DataFrame, title: str) -> Figure:
    """ECE averaged over batches beside that of all images, of predictors without any error.

    table: of `kdlib.report.batch_ece`.
    """
    bars = {
        "mean over batches of 128": ("ece_batches", ORANGE),
        "all images at once": ("ece", BLUE),
    }
    places = np.arange(len(table))
    with canvas(size=(8.0, 3.2)) as (figure, axes):
        for shift, (label, (column, colour)) in zip((-0.2, 0.2), bars.items(), strict=True):
            drawn = axes.bar(places + shift, table[column], 0.36, color=colour, label=label)
            axes.bar_label(drawn, fmt="%.3f", fontsize=LABEL, padding=7)
        floors = np.column_stack([table["ece_floor_batch"], table["ece_floor"]])
        at = np.column_stack([places - 0.2, places + 0.2])
        axes.scatter(at, floors, 300, marker="_", color="black", label=PERFECT, zorder=3)
        axes.set_xticks(places, [f"{100 * value:.0f} % accuracy" for value in table["accuracy"]])
        axes.set(ylabel="ECE, 15 bins", title=title)
        axes.margins(y=0.15)
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside lower center", ncols=3)
    return figure
