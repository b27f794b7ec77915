"""Figures of the grid: its cells in the plane, their scores, effects of the factors."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdlib.metrics import frequency_groups
from kdlib.plots.canvas import (
    BLUE,
    GREY,
    LABEL,
    ORANGE,
    PALETTE,
    PERFECT,
    RED,
    Looks,
    canvas,
    label_column,
    legend,
    log_scale,
)
from kdlib.quantities import QUANTITIES
from kdlib.store import Row

AXES = ("kd_method", "teacher_loss", "student_loss", "mixup")
FREQUENCY = {"many": "frequent", "medium": "medium", "few": "rare"}
KD_MARKERS = "os^vPX<>"  # diamonds are students without KD


def _plane(axes: Axes, title: str) -> None:
    axes.set(xlabel="ECE, 15 bins (lower is better)", ylabel="accuracy, %", title=title)


def acc_vs_ece(cells: pd.DataFrame, title: str, named: int = 5) -> Figure:
    """Every cell in the plane of ECE and accuracy; the best and the worst by Harmonic are named.

    cells: of `kdlib.report.cells`. The controls without KD are diamonds beside the name of their
    loss; bars are the 95 % intervals of these and of the best. The band is where perfectly
    calibrated networks of these confidences would lie on average, from cell to cell.
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
    with canvas() as (figure, axes):
        for table, label, marker, colour, size in groups:
            if table.empty:
                continue
            axes.scatter(
                table["ece"], 100 * table["acc"], size, label=label, marker=marker,
                color=colour, edgecolor="white", linewidth=0.4, zorder=3,
            )  # fmt: skip
        for table, colour in ((controls, ORANGE), (best, BLUE)):
            axes.errorbar(
                table["ece"], 100 * table["acc"], 100 * table["acc_ci95"], table["ece_ci95"],
                fmt="none", color=colour, lw=0.8, alpha=0.45, zorder=2,
            )  # fmt: skip
        for line in controls.to_dict("records"):
            name = _code(line["student_loss"]) + " +mixup" * line["mixup"]
            axes.annotate(name, (line["ece"], 100 * line["acc"]), (4, 4), fontsize=LABEL - 1,
                          textcoords="offset points", color="0.35")  # fmt: skip
        floors = cells["ece_floor"]
        axes.axvspan(floors.min(), floors.max(), color="0.88", label=PERFECT, zorder=0)
        _plane(axes, title)
        _near(axes, cells)
        figure.legend(loc="outside lower center", ncols=5)
        figure.draw_without_rendering()  # the layout decides where the labels may go
        label_column(axes, pd.concat([best, worst]), [BLUE] * named + [RED] * named)
    return figure


def _near(axes: Axes, cells: pd.DataFrame) -> None:
    """Stay near the points where bars are far wider than all of them, as those of two seeds."""
    for which, values in (("x", cells["ece"]), ("y", 100 * cells["acc"])):
        low, high = values.min(), values.max()
        reach = max(high - low, 1e-3)
        (left, right), limit = getattr(axes, f"get_{which}lim")(), getattr(axes, f"set_{which}lim")
        limit(max(left, low - reach), min(right, high + reach))


def teacher_student_means(means: pd.DataFrame, title: str) -> Figure:
    """The means over KD methods in the plane of ECE and accuracy, coloured by Harmonic score.

    means: of `kdlib.report.teacher_student_means`. Discs: without mixup, squares: with.
    """
    norm = mpl.colors.Normalize(0, 1)
    with canvas(size=(8.0, 5.4)) as (figure, axes):
        for mixup, marker in ((False, "o"), (True, "s")):
            part = means[means["mixup"] == mixup]
            if part.empty:
                continue
            dots = axes.scatter(
                part["ece"], 100 * part["acc"], 36, part["harmonic"], marker=marker,
                norm=norm, cmap="viridis", edgecolor="0.3", linewidth=0.4, zorder=3,
                label="mixup" if mixup else "no mixup",
            )  # fmt: skip
        _plane(axes, title)
        figure.legend(loc="outside lower center", ncols=5)
        bar = figure.colorbar(dots, ax=axes, location="left", shrink=0.6, aspect=30)
        bar.set_label("Harmonic score of the grid", fontsize=8)
        figure.draw_without_rendering()
        label_column(axes, means, ["0.25"] * len(means))
    return figure


def before_after(
    posthoc: pd.DataFrame, names: Sequence[str], title: str, published: pd.DataFrame | None = None
) -> Figure:
    """Every cell in the plane of ECE and accuracy, a panel for each adjustment after training.

    posthoc: of `kdlib.report`'s `posthoc`; names: of its adjustments to show. Colour: the student
    loss, that of the edge the teacher's; shape: the KD method; diamonds: no KD; the star is the
    plain student; hollow: a fit ended at its bound. published: of `kdlib.report.published`; its
    numbers, where there are any, are crosses in the first panel.
    """
    theirs = pd.DataFrame() if published is None else published.dropna(subset="ece_published")
    colours = dict(zip(posthoc["student_loss"].unique(), PALETTE, strict=False))
    methods = [name for name in posthoc["kd_method"].unique() if name != "none"]
    shapes = dict(zip(methods, itertools.cycle(KD_MARKERS), strict=False)) | {"none": "D"}
    size = (1.2 + 3.1 * len(names), 4.4)
    with canvas(1, len(names), size, title, sharex=True, sharey=True) as (figure, panels):
        for axes, name in zip(panels, names, strict=True):
            for cell in posthoc[posthoc["adjustment"] == name].to_dict("records"):
                untaught = cell["kd_method"] == "none"
                plain = untaught and cell["student_loss"] == "ce" and not cell["mixup"]
                colour = colours[cell["student_loss"]]
                axes.scatter(
                    cell["ece"], 100 * cell["acc"], 160 if plain else 20 + 12 * untaught,
                    marker="*" if plain else shapes[cell["kd_method"]],
                    edgecolor=colours.get(cell["teacher_loss"], colour), linewidth=1.3,
                    color="none" if cell["at_bound"] else [(*colour, 0.75)],
                    zorder=3 + plain,
                )  # fmt: skip
            _plane(axes, name)
            axes.set_xlabel("ECE, 15 bins, log scale")
            axes.set_ylabel("accuracy, %" * (axes is panels[0]))
        looks = _looks(colours, shapes, bool(posthoc["at_bound"].any()))
        if len(theirs):
            panels[0].scatter(
                theirs["ece_published"], 100 * theirs["acc_published"], 14, color="0.55",
                marker="x", linewidth=0.7, zorder=2,
            )  # fmt: skip
            crosses = {"color": "0.55", "marker": "x", "ms": 14**0.5, "mew": 0.7}
            looks["published (ECE: mean of mini-batches)"] = crosses
        log_scale(panels[0], "x")  # a fit leaves a few hundredths of what was tenths
        legend(figure, looks, max(len(colours), len(shapes) + 1), marker="o", ms=5)
    return figure


def _looks(colours: Mapping[str, Any], shapes: Mapping[str, str], bound: bool) -> Looks:
    """The legend of `before_after`."""
    looks = {f"student {_code(name)}": {"color": colour} for name, colour in colours.items()}
    looks |= {_code(name): {"marker": shape, "color": "0.4"} for name, shape in shapes.items()}
    looks["edge: teacher's loss"] = {"color": "white", "mec": "0.4", "mew": 1.3}
    looks["plain student (no KD, CE)"] = {"marker": "*", "color": "0.4", "ms": 9}
    if bound:
        looks["fit at its bound"] = {"color": "0.4", "mfc": "none"}
    return looks


def harmonic_heatmap(cells: pd.DataFrame, title: str) -> Figure:
    """The Harmonic score by teacher and student loss, a map for each KD method and mixup. It is
    scaled within one grid: 0 is worst of it in accuracy or in ECE, 1 best in both."""
    scored = cells[cells["harmonic"].notna()]
    title = f"{title}: Harmonic score, scaled within this grid"
    methods, teachers, students, switches = (list(scored[name].unique()) for name in AXES)
    size = (1.2 + 1.75 * len(methods), 1.2 + 1.6 * len(switches))
    with canvas(len(switches), len(methods), size, title, squeeze=False) as (figure, panels):
        for (row, mixup), (column, method) in itertools.product(
            enumerate(switches), enumerate(methods)
        ):
            part = scored[(scored["kd_method"] == method) & (scored["mixup"] == mixup)]
            table = part.pivot(index="teacher_loss", columns="student_loss", values="harmonic")
            axes = panels[row, column]
            table = table.reindex(teachers, columns=students).rename(_code, axis=0)
            sns.heatmap(
                table.rename(_code, axis=1), vmin=0, vmax=1, cmap="viridis",
                annot=True, fmt=".2f", annot_kws={"fontsize": LABEL}, ax=axes, cbar=False,
                square=True, linewidths=0.5,
            )  # fmt: skip
            axes.set_title(_code(method) + ", mixup" * bool(mixup), fontsize=8.5)
            axes.set_xlabel("student loss" * (row == len(switches) - 1), fontsize=8)
            axes.set_ylabel("teacher loss" * (column == 0), fontsize=8)
            axes.tick_params(labelsize=LABEL, rotation=0, length=0)
        figure.get_layout_engine().set(hspace=0.08)
    return figure


def effects(summary: pd.DataFrame, title: str) -> Figure:
    """The paired effect of each level on accuracy and ECE, with 95 % intervals where there are any.

    summary: of `kdlib.report.summary`. The dashed line is no effect; an effect whose interval
    holds 0 is grey. One without an interval, as of a single seed, has the colour of its sign.
    """
    part = summary[summary["pairs"] > 0]
    heights = np.arange(len(part))[::-1]
    labels = [
        f"{_word(line['factor'])}: {_word(line['level'])} - {_word(line['versus'])}"
        for line in part.to_dict("records")
    ]
    unclear = ", grey: unclear" * bool(part["acc_effect_ci95"].notna().any())
    title = f"{title}\nblue: better, red-orange: worse{unclear}"
    with canvas(1, 2, (8.0, 1.1 + 0.26 * len(part)), title, sharey=True) as (figure, panels):
        for axes, metric in zip(panels, ("acc", "ece"), strict=True):
            written = QUANTITIES[metric]
            scale, sign = written.scale, written.better
            values, halves = (scale * part[f"{metric}_effect{end}"] for end in ("", "_ci95"))
            for height, value, half in zip(heights, values, halves.fillna(0), strict=True):
                colour = BLUE if sign * value > half else RED if sign * value < -half else GREY
                axes.errorbar(value, height, xerr=half, fmt="o", color=colour, capsize=2, ms=4.5)
            axes.axvline(0, color="0.4", ls="--", lw=0.8)
            axes.set(xlabel=f"effect on {written.change_axis}")
            axes.set_yticks(heights, labels, fontsize=LABEL)
            axes.set_ylim(-0.6, len(part) - 0.4)
    return figure


def class_frequency(rows: Sequence[Row], title: str) -> Figure:
    """Accuracy on frequent, medium and rare classes by student loss; a dot is a run, its shape the
    loss of its teacher, whose prior a student of plain KD (hollow) takes over; bars are medians.

    rows: with `acc_many`, `acc_medium`, `acc_few` among their test metrics; where no test image is
    of one of them, it has no place.
    """
    there = set.intersection(*(set(row["metrics"]["test"]) for row in rows))
    counts = np.array(rows[0]["data"]["class_counts"])
    groups = {name: f"{FREQUENCY[name]}\n{counts[own].min()} to {counts[own].max()} images"
              for name, own in frequency_groups(len(counts), counts).items()
              if f"acc_{name}" in there}  # fmt: skip
    labels = pd.DataFrame([row["labels"] for row in rows])
    percent = 100 * np.array([[row["metrics"]["test"][f"acc_{group}"] for group in groups]
                              for row in rows])  # fmt: skip
    _, teachers, losses, switches = (list(labels[name].unique()) for name in AXES)
    shapes = dict(zip(teachers, itertools.cycle("Dos^vPX"), strict=False))
    step = 0.8 / len(losses)
    jitter = 0.6 * step * (np.arange(len(rows)) * 0.618 % 1 - 0.5)  # spread evenly, none random
    shared = {"sharey": True, "squeeze": False}
    with canvas(1, len(switches), (8.0, 3.8), title, **shared) as (figure, (panels,)):
        for (axes, mixup), (at, loss) in itertools.product(
            zip(panels, switches, strict=True), enumerate(losses)
        ):
            places = np.arange(len(groups)) + (at - (len(losses) - 1) / 2) * step
            own = (labels["student_loss"] == loss) & (labels["mixup"] == mixup)
            for (teacher, shape), hollow in itertools.product(shapes.items(), (False, True)):
                part = np.flatnonzero(own & (labels["teacher_loss"] == teacher)
                                      & ((labels["kd_method"] == "kd") == hollow))  # fmt: skip
                axes.scatter(places + jitter[part, None], percent[part], 13, alpha=0.45,
                             linewidth=0.9 * hollow, edgecolor=[PALETTE[at]], marker=shape,
                             facecolor="none" if hollow else [PALETTE[at]])  # fmt: skip
            if own.any():
                axes.hlines(np.median(percent[own], axis=0), places - step / 2.2,
                            places + step / 2.2, color=PALETTE[at], lw=2.5)  # fmt: skip
            axes.set_xticks(range(len(groups)), list(groups.values()))
            axes.set(title="mixup" if mixup else "no mixup", xlabel="classes")
        panels[0].set_ylabel("accuracy, %")
        looks = {f"student {_code(loss)}": {"color": PALETTE[at]} for at, loss in enumerate(losses)}
        looks |= {f"teacher {_code(name)}" if name != "none" else "no KD":
                  {"marker": shape, "color": "0.4"} for name, shape in shapes.items()}  # fmt: skip
        if (labels["kd_method"] == "kd").any():
            looks["plain KD"] = {"marker": "o", "color": "0.4", "mfc": "none", "mew": 1}
        legend(figure, looks, 1, "outside right center", marker="_", mew=2)
    return figure


def _code(level: str) -> str:
    """A method or a loss as in the names of cells.

    >>> _code("none"), _code("bs"), _code("kd_adjusted")
    ('no KD', 'BS', 'KD adjusted')
    """
    head, *rest = level.split("_")
    return "no KD" if level == "none" else " ".join([head.upper(), *rest])


def _word(value: str | bool) -> str:
    """A level or a factor as readers know it."""
    known = {"True": "on", "False": "off", "kd_method": "KD method"}
    text = str(value)
    return known.get(text) or (text.replace("_", " ") if text in AXES else _code(text))


def learning_curves(rows: Sequence[Row], hue: str, style: str, title: str) -> Figure:
    """Validation accuracy (class-balanced) and training loss over the epochs.

    hue, style: labels of the rows that colour and dash the lines; a line is the mean of the runs
    that share them, as those of several seeds, in the band of their range. The loss is the weighted
    sum of a run's terms, the mean of an epoch. ValueError where no row has a history.
    """
    known = set(rows[0]["labels"]).intersection(*(row["labels"] for row in rows)) if rows else set()
    if unknown := {hue, style} - known:
        raise ValueError(f"rows: not all have the label {min(unknown)!r}, but {sorted(known)}")
    heads = {name: name.replace("_", " ") for name in (hue, style)}
    lines = [
        {head: _word(row["labels"][name]) for name, head in heads.items()}
        | {"epoch": entry["epoch"]}
        | {"validation accuracy, %": 100 * entry.get("val_acc", np.nan)}
        | {"training loss": sum(entry["train"].values())}
        for row in rows
        for entry in row["history"]
    ]
    if not lines:
        raise ValueError(f"rows: none of the {len(rows)} has a history to draw")
    table = pd.DataFrame(lines)
    with canvas(1, 2, (8.0, 3.4), title) as (figure, panels):
        for axes, y in zip(panels, ("validation accuracy, %", "training loss"), strict=True):
            sns.lineplot(
                table, x="epoch", y=y, hue=heads[hue], style=heads[style], errorbar=("pi", 100),
                palette="colorblind", lw=1.2, err_kws={"alpha": 0.12, "linewidth": 0}, ax=axes,
                legend=axes is panels[1],
            )  # fmt: skip
        handles = panels[1].get_legend_handles_labels()
        panels[1].get_legend().remove()
        figure.legend(*handles, loc="outside right center")
    return figure
