"""Figures of the multi-teacher study, from its tables (`kdlib.report.multi_teacher`).

tables: name -> DataFrame; `epochs` has one line a run and epoch, `cells` one a cell. Fidelity is a
KL divergence at temperature 4, lower is closer. The curves are means over seeds.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdlib.plots.canvas import GREY, LABEL, canvas

Tables = Mapping[str, pd.DataFrame]
Panel = Callable[[Axes], None]
Looks = Mapping[str, dict[str, Any]]
EPOCH = "epoch"
KL = "KL, lower is closer"
GENERALISATION = {"acc": "test accuracy, %", "nll": "test NLL"}


def method_panels(
    epochs: pd.DataFrame, teachers: Sequence[str], chance: float, name: str
) -> Figure:
    """One method over its epochs: accuracy, losses, gap, fidelity to each teacher and to the
    centroids, weights, agreement; 9 panels with 3 teachers. epochs: of one student and method."""
    lines = epochs.groupby("epoch").mean(numeric_only=True)
    panels: dict[str, dict[str, str]] = {
        "validation accuracy": {"val_acc": "student"},
        "losses": {"label_loss": "training, labels", "val_nll": "validation NLL"},
        "gap: validation NLL - training loss": {"gap": "gap"},
        **{f"fidelity to {short(one)}": {f"individual_{one}": KL} for one in teachers},
        "fidelity to the centroid": {
            "centroid_probs": "of probabilities", "centroid_logits": "of logits",
        },
        "teacher weights": {
            f"weight_{term}_{one}": f"{short(one)}, {term}"
            for term in ("multi_kd", "hints")
            for one in teachers
        },
        "top-1 agreement": {f"agreement_{one}": short(one) for one in teachers},
    }  # fmt: skip
    lines["gap"] = lines["val_nll"] - lines["label_loss"]
    with grid(len(panels)) as (figure, axes):
        for ax, (title, columns) in zip(axes, panels.items(), strict=True):
            for column, label in columns.items():
                if column in lines and lines[column].notna().any():
                    ax.plot(lines.index, lines[column], label=label, marker=".")
            _finish(ax, title, EPOCH)
        axes[-1].axhline(chance, color=GREY, ls="--", label="chance")
        axes[-1].legend(fontsize=LABEL)
        figure.suptitle(name)
    return figure


def comparison(
    tables: Tables, student: str, teachers: Sequence[str], chance: float, name: str
) -> Figure:
    """The methods of one student side by side, 9 panels and one a teacher: curves over the epochs,
    then the final numbers on test, and in words."""
    table, cells = (tables[one][tables[one]["student"] == student] for one in ("epochs", "cells"))
    looks = {method: _line(place) for place, method in enumerate(cells["method"])}
    means = table.groupby(["method", "epoch"], sort=False).mean(numeric_only=True).reset_index()
    agreement = [f"agreement_{one}" for one in teachers if f"agreement_{one}" in means]
    means["agreement"] = means[agreement].mean(axis=1)
    curves = {
        "validation accuracy": "val_acc",
        "validation NLL": "val_nll",
        **{f"fidelity to {short(one)}": f"individual_{one}" for one in teachers},
        "fidelity to the centroid of probabilities": "centroid_probs",
        "mean individual fidelity": "mean_individual",
    }
    panels: dict[str, Panel] = {
        title: lambda ax, column=column: _curves(ax, means, column, looks)
        for title, column in curves.items()
    }
    by_teacher = tables["by_teacher"]
    own = by_teacher[by_teacher["student"] == student]
    panels |= {
        "last teacher weights (hints, else logits)": lambda ax: _weights(ax, own, looks),
        "final accuracy on test, %": lambda ax: _bars(ax, cells, looks),
        "final fidelity to each teacher, test": lambda ax: _strip(ax, own, looks),
        "top-1 agreement": lambda ax: _agreement(ax, means, looks, chance),
        "on test": lambda ax: _words(ax, cells),
    }
    with grid(len(panels)) as (figure, axes):
        for ax, (title, draw) in zip(axes, panels.items(), strict=True):
            draw(ax)
            over_epochs = title in curves or title == "top-1 agreement"
            _finish(ax, title, EPOCH if over_epochs else "", legend=False)
        handles = [axes[0].plot([], [], **look)[0] for look in looks.values()]
        figure.legend(handles, looks, loc="outside lower center", ncols=min(7, len(looks)))
        figure.suptitle(name)
    return figure


def lambda_sweep(cells: pd.DataFrame, name: str) -> Figure:
    """Accuracy, NLL and fidelity over the teachers' weight, one line a student; lambda on a symlog
    axis, so that 0 has its place; crosses are published. cells: with a column lambda."""
    shown = {
        "acc": "test accuracy, %", "nll": "test NLL",
        "centroid_logits": "fidelity to the centroid of logits",
        "centroid_probs": "fidelity to the centroid of probabilities",
        "mean_individual": "mean individual fidelity", "agreement": "top-1 agreement",
    }  # fmt: skip
    smallest = cells.loc[cells["lambda"] > 0, "lambda"].min()
    with canvas(3, (11, 6), rows=2) as (figure, axes):
        for ax, (column, title) in zip(axes.flat, shown.items(), strict=True):
            scale = 100 if column == "acc" else 1
            for student, line in cells.groupby("student", sort=False):
                half = scale * line[f"{column}_ci95"]
                ours, *_ = ax.errorbar(line["lambda"], scale * line[column], half, label=student,
                                       marker=".", capsize=2)  # fmt: skip
                if f"{column}_published" in line:
                    theirs = scale * line[f"{column}_published"]
                    ax.plot(line["lambda"], theirs, "x", color=ours.get_color(), ms=4)
            ax.set_xscale("symlog", linthresh=smallest, linscale=0.5)
            ax.set_xlim(left=0)
            _finish(ax, title, "lambda", legend=ax is axes.flat[0])
        figure.suptitle(name)
    return figure


def fidelity_vs_generalisation(cells: pd.DataFrame, name: str) -> Figure:
    """Does following help? Test accuracy and NLL over the fidelity to each centroid: a point a cell
    with its 95 % intervals where there are seeds. In a sweep a line joins a student's lambdas, and
    the ends are labelled."""
    sweep = "lambda" in cells
    students = list(cells["student"].unique())
    kinds = students if sweep else list(cells["method"].unique())
    looks = {kind: _look(place) for place, kind in enumerate(kinds)}
    with canvas(2, (10.5, 8), rows=2) as (figure, axes):
        for row, pool in zip(axes, ("probabilities", "logits"), strict=True):
            x = {"probabilities": "centroid_probs", "logits": "centroid_logits"}[pool]
            for ax, (y, title) in zip(row, GENERALISATION.items(), strict=True):
                for kind, line in cells.groupby("student" if sweep else "method", sort=False):
                    _points(ax, line, x, y, looks[kind], joined=sweep)
                _finish(ax, title, f"fidelity to the centroid of {pool} ({KL})", legend=False)
        handles = [axes[0, 0].plot([], [], **look)[0] for look in looks.values()]
        figure.legend(handles, kinds, loc="outside lower center", ncols=min(7, len(kinds)))
        figure.suptitle(name)
    return figure


def _line(place: int) -> dict[str, Any]:
    """Colours first, then dashes."""
    colours = sns.color_palette("colorblind")
    dashes = ("-", "--", ":")[place // len(colours) % 3]
    return {"color": colours[place % len(colours)], "ls": dashes, "lw": 1.2}


def _look(place: int) -> dict[str, Any]:
    """Colours first, then shapes: no two of the first forty are alike."""
    colours = sns.color_palette("colorblind")
    shape = "osD^"[place // len(colours) % 4]
    return {"color": colours[place % len(colours)], "marker": shape, "ms": 5, "ls": "none"}


def _points(
    ax: Axes, cells: pd.DataFrame, x: str, y: str, look: dict[str, Any], joined: bool
) -> None:
    scale = 100 if y == "acc" else 1
    heights, half = scale * cells[y], scale * cells[f"{y}_ci95"]
    look = look | {"ls": "-" if joined else "none"}
    ax.errorbar(cells[x], heights, half, cells[f"{x}_ci95"], lw=0.7, capsize=2, **look)
    for end in (0, -1) if joined else ():
        text, at = f"{cells['lambda'].iloc[end]:g}", (cells[x].iloc[end], heights.iloc[end])
        ax.annotate(text, at, (4, 3), textcoords="offset points", fontsize=LABEL)


@contextlib.contextmanager
def grid(panels: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with so many axes, three a row up to nine, else four; spare places are blank."""
    columns = 3 if panels <= 9 else 4
    rows = math.ceil(panels / columns)
    with canvas(columns, (3.4 * columns, 2.6 * rows), rows=rows) as (figure, axes):
        for spare in axes.flat[panels:]:
            spare.set_visible(False)
        yield figure, list(axes.flat[:panels])


def short(teacher: str) -> str:
    """A teacher's name without what all have in common."""
    return teacher.removeprefix("teacher_")


def _finish(ax: Axes, title: str, xlabel: str, legend: bool = True) -> None:
    ax.set_title(title)
    ax.set_xlabel(xlabel)
    if xlabel == EPOCH:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if legend and ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=LABEL)


def _curves(ax: Axes, means: pd.DataFrame, column: str, looks: Looks) -> None:
    if column in means:
        for method, line in means.groupby("method", sort=False):
            ax.plot(line["epoch"], line[column], **looks[method])


def _agreement(ax: Axes, means: pd.DataFrame, looks: Looks, chance: float) -> None:
    _curves(ax, means, "agreement", looks)
    ax.axhline(chance, color=GREY, ls="--")
    ax.annotate("chance", (0.98, chance), xycoords=("axes fraction", "data"), ha="right",
                va="bottom", fontsize=LABEL, color=GREY)  # fmt: skip


def _weights(ax: Axes, own: pd.DataFrame, looks: Looks) -> None:
    for method, line in own.groupby("method", sort=False):
        found = [line[name] for name in ("hints_last", "multi_kd_last") if name in line]
        weights = next((one for one in found if one.notna().any()), None)
        if weights is not None:
            ax.plot(line["teacher"].map(short), weights, **looks[method], marker=".")
    ax.axhline(1 / own["teacher"].nunique(), color=GREY, ls="--")
    ax.tick_params(axis="x", labelsize=LABEL)


def _strip(ax: Axes, own: pd.DataFrame, looks: Looks) -> None:
    for method, line in own.groupby("method", sort=False):
        if "individual" in line:
            names = line["teacher"].map(short)
            ax.plot(names, line["individual"], "o", color=looks[method]["color"], ms=4)
    ax.tick_params(axis="x", labelsize=LABEL)


def _bars(ax: Axes, cells: pd.DataFrame, looks: Looks) -> None:
    """Points with intervals: a bar of accuracy would have to begin at 0."""
    for place, line in enumerate(cells.to_dict("records")):
        half, colour = 100 * line["acc_ci95"], looks[line["method"]]["color"]
        ax.errorbar(100 * line["acc"], -place, xerr=half, fmt="o", color=colour,
                    capsize=2, ms=4)  # fmt: skip
    ax.set_yticks(range(0, -len(cells), -1), cells["method"], fontsize=LABEL)


def _words(ax: Axes, cells: pd.DataFrame) -> None:
    lines = [
        f"{line['method']}: {100 * line['acc']:.2f} %, centroid {line['centroid_probs']:.3f}"
        for line in cells.to_dict("records")
    ]
    ax.text(0, 1, "\n".join(lines), va="top", fontsize=LABEL, transform=ax.transAxes)
    ax.set_axis_off()
