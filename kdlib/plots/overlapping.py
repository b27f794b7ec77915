"""Figures of teachers with overlapping class sets."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from kdlib.plots.canvas import BLUE, LABEL, PALETTE, RED, canvas

Sets = Mapping[str, Sequence[str]]


def responsibility(
    sets: Sets, classes: Sequence[str], title: str = "Who knows which class"
) -> Figure:
    """Which teacher (row) knows which of the student's classes (column), as the task says."""
    owned = np.array([[name in known for name in classes] for known in sets.values()])
    with canvas(size=(8.0, 1.3 + 0.35 * len(sets))) as (figure, axes):
        axes.imshow(owned, cmap=ListedColormap(["white", BLUE]), aspect="auto", vmin=0, vmax=1)
        for row, column in np.argwhere(owned):
            axes.text(column, row, "✓", ha="center", va="center", color="white")
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=LABEL)
        axes.set_yticks(range(len(sets)), sets)
        axes.set_xticks(np.arange(len(classes)) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(sets)) - 0.5, minor=True)
        axes.grid(visible=False)
        axes.grid(which="minor", color="0.85", lw=0.8)
        axes.set_title(title)
    return figure


def confusion(counts: Any, classes: Sequence[str], sets: Sets, title: str) -> Figure:
    """Of the images of a class (row), the percentage taken for each class (column).

    counts: (K, K) of `classes`, which some of the teachers know. Classes are grouped by the
    teachers that know them, those of one teacher first; lines part the groups.
    """
    owners = {
        name: tuple(at for at, known in enumerate(sets.values()) if name in known)
        for name in classes
    }
    ordered = sorted(classes, key=lambda name: (len(owners[name]), owners[name]))
    groups = [list(group) for _, group in itertools.groupby(ordered, key=owners.get)]
    order = [list(classes).index(name) for name in ordered]
    shares = np.asarray(counts, dtype=float)[np.ix_(order, order)]
    shares = 100 * shares / shares.sum(axis=1, keepdims=True).clip(min=1)
    texts = np.where(shares >= 0.5, shares.round().astype(int).astype(str), "")
    with canvas(size=(7.8, 6.2)) as (figure, axes):
        sns.heatmap(
            shares, vmin=0, vmax=100, cmap="Blues", annot=texts, fmt="",
            annot_kws={"fontsize": LABEL - 1}, square=True, cbar=False, ax=axes,
            xticklabels=ordered, yticklabels=ordered,
        )  # fmt: skip
        edges = np.cumsum([0, *map(len, groups)])
        for low, high, group in zip(edges, edges[1:], groups, strict=False):
            axes.axhline(high, color="0.3", lw=0.9)
            axes.axvline(high, color="0.3", lw=0.9)
            known_by = "\n+ ".join(list(sets)[at] for at in owners[group[0]])
            axes.text(len(order) + 0.2, (low + high) / 2, known_by, va="center", fontsize=LABEL)
        axes.tick_params(labelsize=LABEL, length=0)
        axes.set_yticklabels(ordered, rotation=0)
        axes.set_xticklabels(ordered, rotation=45, ha="right")
        axes.set(xlabel="taken for, % (blank: under half of one)", ylabel="is", title=title)
    return figure


def heatmap(table: pd.DataFrame, title: str, claimed: tuple[float, float] | None = None) -> Figure:
    """Validation accuracy by alpha and temperature.

    table: columns alpha, temperature, val_acc, of one model and method. claimed: the (alpha,
    temperature) that was published as the best, outlined where it is among them.
    """
    values = 100 * table.pivot(index="alpha", columns="temperature", values="val_acc")
    with canvas(size=(4.6, 3.4)) as (figure, axes):
        sns.heatmap(
            values, annot=True, fmt=".1f", annot_kws={"fontsize": LABEL}, cmap="viridis", ax=axes,
            cbar_kws={"label": "validation accuracy, %"}, linewidths=0.5,
        )  # fmt: skip
        axes.invert_yaxis()
        axes.set_xticklabels([f"{temperature:g}" for temperature in values.columns])
        if claimed and claimed[0] in values.index and claimed[1] in values.columns:
            corner = values.columns.get_loc(claimed[1]), values.index.get_loc(claimed[0])
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec=RED, lw=2, clip_on=False))
            title += "\noutlined: published as the best"
        axes.tick_params(rotation=0, length=0)
        axes.set(xlabel="temperature", ylabel="alpha, weight of the teachers", title=title)
    return figure


def learning_curves(table: pd.DataFrame, title: str) -> Figure:
    """Training loss and validation accuracy over epochs, a line a cell, the mean of its seeds; the
    legend says where a cell has fewer of them than others.

    table: of `kdlib.report.overlapping.curves`.
    """
    axis = {"loss": "training loss (each rule has its own)", "val_acc": "validation accuracy, %"}
    table = table.assign(val_acc=100 * table["val_acc"])
    groups = list(table.groupby("cell", sort=False))
    most = table["seed"].nunique()
    with canvas(1, 2, (8.8, 3.9), title) as (figure, panels):
        for axes, (column, label) in zip(panels, axis.items(), strict=True):
            for (cell, part), colour in zip(groups, itertools.cycle(PALETTE), strict=False):
                means = part.groupby("epoch")[column].mean()
                seeds = part["seed"].nunique()
                name = cell if seeds == most else f"{cell} ({seeds} of {most} seeds)"
                axes.plot(means.index, means, "-" if seeds == most else "--", color=colour, lw=1.1,
                          label=name)  # fmt: skip
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = panels[1].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2)
    return figure


def samples(shown: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """The images that were predicted, with truth, its teachers and the prediction; green: right.

    shown: of `kdlib.report.overlapping.samples`; images (H, W, C) uint8 as they are in the set.
    """
    columns = (len(shown) + 1) // 2
    with canvas(2, columns, (1.75 * columns, 4.9), title, squeeze=False) as (figure, panels):
        for axes in panels.flat:
            axes.axis("off")
        for axes, one in zip(panels.flat, shown, strict=False):
            gray = one["image"].shape[-1] == 1
            axes.imshow(one["image"].squeeze(), cmap="gray" if gray else None, vmin=0, vmax=255)
            right = one["predicted"] == one["true"]
            text = (
                f"true: {one['true']}\nknown by {one['teachers']}\n"
                f"predicted: {one['predicted']} {'✓' if right else '✗'}"
            )
            axes.set_title(text, fontsize=LABEL, color="green" if right else RED)
    return figure
