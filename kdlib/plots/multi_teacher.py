"""Figures of the multi-teacher study, from its tables (`kdlib.report.multi_teacher`).

tables: name -> DataFrame; `epochs` has one line a run and epoch, `cells` one a cell. Fidelity is a
KL divergence at temperature 4, lower is closer. The curves are means over seeds.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdlib.plots.canvas import (
    GREY,
    LABEL,
    PALETTE,
    STYLE,
    Looks,
    canvas,
    legend,
    log_scale,
    looks,
    panel_grid,
)
from kdlib.quantities import QUANTITIES

Tables = Mapping[str, pd.DataFrame]
Panel = Callable[[Axes], None]
LARGE = STYLE | {"figure.titlesize": 10.8, "legend.fontsize": 9}  # of large figures
EPOCH = "epoch"
BLACK, GREYED = {"color": "black", "lw": 1.2}, {"color": GREY, "lw": 1.2, "ls": "--"}
GENERALISATION = ("acc", "nll")
ENSEMBLE, STAR = "the teachers' ensemble", {"marker": "*", "color": "black", "ms": 9, "ls": "none"}
WEIGHTS = "teacher weights in the loss"
POOLS = {"probs": "probabilities", "logits": "logits"}


def method_panels(
    epochs: pd.DataFrame, teachers: Sequence[str], chance: float, name: str
) -> Figure:
    """One method over its epochs: accuracy, losses, gap, fidelity to each teacher and to the
    centroids, weights, agreement; 9 panels with 3 teachers. A teacher has one colour in all of
    them. epochs: of one student and method."""
    lines = epochs.groupby("epoch").mean(numeric_only=True)
    lines["gap"], lines["val_acc"] = lines["val_nll"] - lines["label_loss"], 100 * lines["val_acc"]
    own = {one: _line(place) | {"ls": "-"} for place, one in enumerate(teachers)}
    panels: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
        "validation accuracy, %": {"val_acc": ("", BLACK)},
        "losses": {"label_loss": ("training, labels", GREYED), "val_nll": ("validation", BLACK)},
        "gap: validation NLL - training loss": {"gap": ("", BLACK)},
        **{f"KL to {short(one)}": {f"individual_{one}": ("", own[one])} for one in teachers},
        "KL to the teachers' mean": {
            "centroid_probs": ("of probabilities", BLACK),
            "centroid_logits": ("of logits", GREYED),
        },
        WEIGHTS: {
            f"weight_{term}_{one}": (kind * (one == teachers[0]), own[one] | {"ls": dash})
            for term, kind, dash in (("multi_kd", "on logits", ":"), ("hints", "of hints", "-"))
            for one in teachers
        },
        "top-1 agreement": {f"agreement_{one}": (short(one), own[one]) for one in teachers},
    }  # fmt: skip
    with panel_grid(len(panels), 2.6, name, LARGE) as (figure, axes):
        for ax, (title, columns) in zip(axes, panels.items(), strict=True):
            for column, (label, look) in columns.items():
                if column in lines and lines[column].notna().any():
                    ax.plot(lines.index, lines[column], label=label, marker=".", **look)
            _finish(ax, title, EPOCH)
            if title == WEIGHTS and ax.lines:  # a fifth of an equal share at least
                low, high = ax.get_ylim()
                ax.set_ylim(min(low, 0.8 / len(teachers)), max(high, 1.2 / len(teachers)))
        axes[-1].axhline(chance, color=GREY, ls="--", label="chance")
        axes[-1].legend(fontsize=LABEL)
    return figure


def comparison(
    tables: Tables, student: str, teachers: Sequence[str], chance: float, name: str
) -> Figure:
    """The methods of one student side by side, 9 panels and one a teacher: curves over the epochs,
    then the final numbers on test, and in words."""
    table, cells = (tables[one][tables[one]["student"] == student] for one in ("epochs", "cells"))
    drawn = {method: _line(place) for place, method in enumerate(cells["method"])}
    means = table.groupby(["method", "epoch"], sort=False).mean(numeric_only=True).reset_index()
    agreement = [f"agreement_{one}" for one in teachers if f"agreement_{one}" in means]
    means["agreement"] = means[agreement].mean(axis=1)
    means["val_acc"] *= 100
    curves = {
        "validation accuracy, %": "val_acc",
        "validation NLL": "val_nll",
        **{f"KL to {short(one)}": f"individual_{one}" for one in teachers},
        _kl("centroid_probs"): "centroid_probs",
        _kl("mean_individual"): "mean_individual",
    }
    panels: dict[str, Panel] = {
        title: lambda ax, column=column: _curves(ax, means, column, drawn)
        for title, column in curves.items()
    }
    by_teacher = tables["by_teacher"]
    own = by_teacher[by_teacher["student"] == student]
    panels |= {
        "last teacher weights (hints, else logits)": lambda ax: _weights(ax, own, drawn),
        f"test accuracy, %{_over(cells['seeds'])}": lambda ax: _bars(ax, cells, drawn),
        "final KL to each teacher, test": lambda ax: _strip(ax, own, drawn),
        f"top-1 agreement (chance: {chance:.2g})": lambda ax: _curves(
            ax, means, "agreement", drawn
        ),
        "on test": lambda ax: _words(ax, cells),
    }
    with panel_grid(len(panels), 2.6, name, LARGE) as (figure, axes):
        for ax, (title, draw) in zip(axes, panels.items(), strict=True):
            draw(ax)
            over_epochs = title in curves or title.startswith("top-1 agreement")
            _finish(ax, title, EPOCH if over_epochs else "", legend=False)
            if title in curves and curves[title] != "val_acc":
                log_scale(ax, "y")  # the last epochs are close to each other
        legend(figure, drawn, 7)
    return figure


def lambda_sweep(cells: pd.DataFrame, name: str) -> Figure:
    """Accuracy, NLL and fidelity over the teachers' weight, one line a student with its 95 %
    intervals; lambda on a symlog axis, so that 0 has its place; crosses are published. cells: with
    a column lambda."""
    shown = ("acc", "nll", "agreement", "centroid_logits", "centroid_probs", "mean_individual")
    smallest = cells.loc[cells["lambda"] > 0, "lambda"].min()
    drawn = {one: look | {"ls": "-"} for one, look in _hollow(cells["student"]).items()}
    with canvas(2, 3, (11, 6.4), name, LARGE) as (figure, axes):
        for ax, column in zip(axes.flat, shown, strict=True):
            scale = QUANTITIES[column].scale
            for student, line in cells.groupby("student", sort=False):
                look, half = drawn[student], scale * line[f"{column}_ci95"]
                ax.errorbar(line["lambda"], scale * line[column], half, capsize=2, lw=1, **look)
                if f"{column}_published" in line:
                    theirs = scale * line[f"{column}_published"]
                    ax.plot(line["lambda"], theirs, "x", color=look["color"], clip_on=False)
            ax.set_xscale("symlog", linthresh=smallest, linscale=0.5)
            ax.set_xlim(left=-smallest / 2)
            ax.xaxis.set_major_formatter("{x:g}")
            on_test = "test " * (column in GENERALISATION)
            _finish(ax, f"{on_test}{QUANTITIES[column].axis}", "lambda", legend=False)
        known = [
            name for name in cells if name.endswith("_published") and cells[name].notna().any()
        ]
        drawn |= {"published": {"color": "black", "marker": "x"}} if known else {}
        legend(figure, drawn, len(drawn))
    return figure


def fidelity_vs_generalisation(cells: pd.DataFrame, teachers: pd.DataFrame, name: str) -> Figure:
    """Does following help? Test accuracy and NLL over the fidelity to each centroid: a point a cell
    with its 95 % intervals where there are seeds. In a sweep a line joins a student's lambdas, and
    the ends are labelled. The star is what would follow perfectly: the ensemble of that centroid,
    of `teachers`."""
    with _over_fidelity(cells, cells, name) as axes:
        for row, pool in zip(axes, POOLS, strict=True):
            whole = teachers[teachers["teacher"] == f"ensemble of {pool}"]
            for ax, y in zip(row, GENERALISATION, strict=True):
                written = QUANTITIES[y]
                ax.plot(0 * whole[y], written.scale * whole[y], **STAR)
                _finish(ax, f"test {written.axis}", f"{_kl(f'centroid_{pool}')}, lower is closer",
                        legend=False)  # fmt: skip
    return axes[0, 0].figure


def effects(table: pd.DataFrame, cells: pd.DataFrame, name: str) -> Figure:
    """The same as differences from the student without teachers, inside each seed, with their 95 %
    intervals: to the left of 0 is closer, above 0 (NLL: below) is better. table: the effects;
    cells: for the same looks as there."""
    with _over_fidelity(table, cells, name, "_effect") as axes:
        for row, pool in zip(axes, POOLS, strict=True):
            for ax, y in zip(row, GENERALISATION, strict=True):
                for line in (ax.axhline, ax.axvline):
                    line(0, color=GREY, lw=1.2, zorder=1)
                where = f"change of the {_kl(f'centroid_{pool}')}, left is closer"
                _finish(ax, f"change of test {QUANTITIES[y].change_axis}", where, legend=False)
    return axes[0, 0].figure


@contextlib.contextmanager
def _over_fidelity(
    table: pd.DataFrame, cells: pd.DataFrame, name: str, end: str = ""
) -> Iterator[np.ndarray]:
    """Two by two axes, a pool a row and a measure of generalisation a column, with a point a line
    of the table; end: of the columns' names."""
    sweep = "lambda" in table
    kind = "student" if sweep else "method"
    drawn = _hollow(cells[kind])
    with canvas(2, 2, (10.5, 8), name, LARGE) as (figure, axes):
        for row, pool in zip(axes, POOLS, strict=True):
            for ax, y in zip(row, GENERALISATION, strict=True):
                for one, line in table.groupby(kind, sort=False):
                    columns = f"centroid_{pool}{end}", f"{y}{end}"
                    _points(ax, line, *columns, QUANTITIES[y].scale, drawn[one], joined=sweep)
        shown = {one: drawn[one] for one in table[kind].unique()}
        shown |= {ENSEMBLE: STAR} if not end else {}
        legend(figure, shown, 8)
        yield axes


def _line(place: int) -> dict[str, Any]:
    """Colours first, then dashes."""
    dashes = ("-", "--", ":")[place // len(PALETTE) % 3]
    return {"color": PALETTE[place % len(PALETTE)], "ls": dashes, "lw": 1.2}


def _hollow(names: pd.Series) -> Looks:
    """The looks of the names, hollow, so that points which coincide both show."""
    hollow = {"mfc": "none", "ms": 6, "ls": "none"}
    return {name: look | hollow for name, look in looks(names.unique()).items()}


def _points(
    ax: Axes, cells: pd.DataFrame, x: str, y: str, scale: float, look: dict[str, Any], joined: bool
) -> None:
    heights, half = scale * cells[y], scale * cells[f"{y}_ci95"]
    look = look | {"ls": "-" if joined else "none"}
    ax.errorbar(cells[x], heights, half, cells[f"{x}_ci95"], lw=0.7, capsize=2, **look)
    for end in (0, -1) if joined else ():
        text, at = f"{cells['lambda'].iloc[end]:g}", (cells[x].iloc[end], heights.iloc[end])
        own = {"fontsize": LABEL, "color": look["color"]}
        ax.annotate(text, at, (4, 3), textcoords="offset points", **own)


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


def _kl(column: str) -> str:
    """A KL as an axis calls it, less its unit."""
    return QUANTITIES[column].axis.split(",")[0]


def _over(seeds: pd.Series) -> str:
    return f", {seeds.max()} seeds, 95 % intervals" if seeds.max() > 1 else ", 1 seed"


def _weights(ax: Axes, own: pd.DataFrame, looks: Looks) -> None:
    for method, line in own.groupby("method", sort=False):
        found = [line[name] for name in ("hints_last", "multi_kd_last") if name in line]
        weights = next((one for one in found if one.notna().any()), None)
        if weights is not None:
            _beside(ax, weights, method, looks)
    ax.axhline(1 / own["teacher"].nunique(), color=GREY, ls="--")
    ax.set_ylim(-0.05, 1.05)  # or what rounding left of equal weights would fill the panel
    _name_teachers(ax, own)


def _strip(ax: Axes, own: pd.DataFrame, looks: Looks) -> None:
    for method, line in own.groupby("method", sort=False):
        if "individual" in line:
            _beside(ax, line["individual"], method, looks)
    log_scale(ax, "y")
    _name_teachers(ax, own)


def _beside(ax: Axes, values: pd.Series, method: str, looks: Looks) -> None:
    """A point a teacher, each method a little to the right of the one before."""
    place = list(looks).index(method) / max(1, len(looks) - 1) - 0.5
    filled = looks[method]["ls"] == "-"
    colour = looks[method]["color"]
    ax.plot(np.arange(len(values)) + 0.7 * place, values, "o", color=colour, ms=4,
            mfc=colour if filled else "none")  # fmt: skip


def _name_teachers(ax: Axes, own: pd.DataFrame) -> None:
    names = own["teacher"].unique()
    ax.set_xticks(range(len(names)), [short(one) for one in names], fontsize=LABEL)
    for edge in range(len(names) - 1):
        ax.axvline(edge + 0.5, color="0.85", lw=0.8)
    ax.grid(False, axis="x")


def _bars(ax: Axes, cells: pd.DataFrame, looks: Looks) -> None:
    """Points with intervals: a bar of accuracy would have to begin at 0."""
    for place, line in enumerate(cells.to_dict("records")):
        half, colour = 100 * line["acc_ci95"], looks[line["method"]]["color"]
        ax.errorbar(100 * line["acc"], -place, xerr=half, fmt="o", color=colour,
                    capsize=2, ms=4)  # fmt: skip
    ax.set_yticks(range(0, -len(cells), -1), cells["method"], fontsize=LABEL)


def _words(ax: Axes, cells: pd.DataFrame) -> None:
    lines = [
        f"{line['method']}: {100 * line['acc']:.2f} %, KL to mean {line['centroid_probs']:.3f}"
        for line in cells.to_dict("records")
    ]
    ax.text(0, 1, "\n".join(lines), va="top", fontsize=LABEL, transform=ax.transAxes)
    ax.set_axis_off()
