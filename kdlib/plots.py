"""Figures, drawn from tables and rows; a function returns a figure, `save` writes it.

Colours are seaborn's colour-blind palette; shapes and labels say the same. Nothing here opens a
window: in a notebook a returned figure shows itself, elsewhere it is only an object.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from kdlib.store import Row, write_atomic

BLUE, ORANGE, _, RED = sns.color_palette("colorblind")[:4]
STYLE = {"font.size": 9, "axes.titlesize": 10, "legend.frameon": True, "grid.color": "0.92"}
LABEL = 7.5  # size of a label, in points
FORMATS = {"png": {"Software": None}, "svg": {"Date": None}}  # metadata that would differ


@contextlib.contextmanager
def _canvas(columns: int = 1, size: tuple[float, float] = (8.0, 4.8)) -> Iterator[tuple]:
    """A styled figure and its axes, closed for pyplot: who returns it decides where it is shown."""
    with mpl.rc_context({**sns.axes_style("whitegrid"), **STYLE}):
        figure, found = plt.subplots(1, columns, figsize=size, dpi=150, layout="constrained")
        plt.close(figure)
        yield figure, found


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Write name.png and name.svg, the same bytes for the same figure; the path of the PNG."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once for both
    for suffix, metadata in FORMATS.items():
        content = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": name}):
            figure.savefig(content, format=suffix, metadata=metadata)
        write_atomic(folder / f"{name}.{suffix}", content.getvalue())
    return folder / f"{name}.png"


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


def _plane(axes: Axes, title: str) -> None:
    axes.set(xlabel="ECE, 15 bins (lower is better)", ylabel="accuracy, %", title=title)


def acc_vs_ece(cells: pd.DataFrame, title: str, named: int = 5) -> Figure:
    """Every cell in the plane of ECE and accuracy; the best and the worst by Harmonic are named.

    cells: of `kdlib.report.cells`. The controls without KD are diamonds; the dashed line is the
    mean ECE floor, where a perfectly calibrated network would lie.
    """
    scored = cells[cells["harmonic"].notna()].sort_values("harmonic", kind="stable")
    named = min(named, len(scored) // 2)
    worst, best = scored[:named], scored[len(scored) - named :][::-1]
    controls = cells[cells["kd_method"] == "none"]
    groups = [
        (scored, "cells with KD", "o", "0.6", 16),
        (controls, "no KD", "D", ORANGE, 22),
        (best, f"top {named} by Harmonic", "^", BLUE, 46),
        (worst, f"bottom {named}", "v", RED, 46),
    ]
    with _canvas() as (figure, axes):
        for table, label, marker, colour, size in groups:
            if table.empty:
                continue
            axes.scatter(
                table["ece"], 100 * table["acc"], size, label=label, marker=marker,
                color=colour, edgecolor="white", linewidth=0.4, zorder=3,
            )  # fmt: skip
        floor = cells["ece_floor"].mean()
        axes.axvline(floor, color="0.4", ls="--", lw=0.8, label="mean ECE floor", zorder=2)
        _plane(axes, title)
        figure.legend(loc="outside lower center", ncols=5, fontsize=LABEL)
        figure.draw_without_rendering()  # the layout decides where the labels may go
        label_column(axes, pd.concat([best, worst]), [BLUE] * named + [RED] * named)
    return figure


def teacher_student_means(means: pd.DataFrame, title: str) -> Figure:
    """The means over KD methods in the plane of ECE and accuracy, coloured by Harmonic score.

    means: of `kdlib.report.teacher_student_means`. Discs: without mixup, squares: with.
    """
    norm = mpl.colors.Normalize(0, 1)
    with _canvas(size=(8.0, 5.4)) as (figure, axes):
        for mixup, marker in ((False, "o"), (True, "s")):
            part = means[means["mixup"] == mixup]
            dots = axes.scatter(
                part["ece"], 100 * part["acc"], 36, part["harmonic"], marker=marker,
                norm=norm, cmap="viridis", edgecolor="0.3", linewidth=0.4, zorder=3,
                label="mixup" if mixup else "no mixup",
            )  # fmt: skip
        _plane(axes, title)
        figure.legend(loc="outside lower center", ncols=5, fontsize=LABEL)
        bar = figure.colorbar(dots, ax=axes, location="left", shrink=0.6, aspect=30)
        bar.set_label("Harmonic score of the grid", fontsize=8)
        figure.draw_without_rendering()
        label_column(axes, means, ["0.25"] * len(means))
    return figure


def _word(value: str | bool) -> str:
    return {"True": "on", "False": "off"}.get(str(value), str(value))


def learning_curves(rows: Sequence[Row], hue: str, style: str, title: str) -> Figure:
    """Validation accuracy (class-balanced) and training loss of each run over its epochs.

    hue, style: labels of the rows that colour and dash the lines. The loss is the weighted sum of a
    run's terms, the mean of an epoch. ValueError where no row has a history.
    """
    heads = {name: name.replace("_", " ") for name in (hue, style)}
    lines = [
        {head: _word(row["labels"][name]) for name, head in heads.items()}
        | {"run": row["id"], "epoch": entry["epoch"]}
        | {"validation accuracy, %": 100 * entry.get("val_acc", np.nan)}
        | {"training loss": sum(entry["train"].values())}
        for row in rows
        for entry in row["history"]
    ]
    if not lines:
        raise ValueError(f"rows: none of the {len(rows)} has a history to draw")
    table = pd.DataFrame(lines)
    with _canvas(columns=2, size=(8.0, 3.4)) as (figure, panels):
        for axes, y in zip(panels, ("validation accuracy, %", "training loss"), strict=True):
            sns.lineplot(
                table, x="epoch", y=y, hue=heads[hue], style=heads[style], units="run",
                estimator=None, palette="colorblind", lw=1.2, marker="o", markersize=3, ax=axes,
                legend=axes is panels[1],
            )  # fmt: skip
        handles = panels[1].get_legend_handles_labels()
        panels[1].get_legend().remove()
        figure.legend(*handles, loc="outside right center", fontsize=LABEL)
        figure.suptitle(title, fontsize=10)
    return figure
