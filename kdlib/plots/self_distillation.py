"""Figures of the self-distillation study: what a method costs and gives, effects of its parts.

A filled marker is a mean over seeds with its 95 % t interval, a hollow one a single seed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdlib.evaluate import ENSEMBLE
from kdlib.plots.canvas import (
    BLUE,
    GREY,
    LABEL,
    RED,
    STYLE,
    Looks,
    canvas,
    legend,
    looks,
    panel_grid,
)
from kdlib.quantities import QUANTITIES
from kdlib.train import FINAL

EFFECTS = ("top1_error", "nll", "ece", "ece_after")
HEADS = ("acc", "ece")
PLAIN = {"color": "0.4", "ls": "--", "lw": 0.8}
SIZE = 5.5  # of a marker, in points
FRAMELESS = STYLE | {"legend.frameon": False}


def error_vs_seconds(table: pd.DataFrame, methods: Sequence[str], title: str) -> Figure:
    """Top-1 error over the seconds that an epoch takes, a panel for each model.

    table: model, method (as it is to be written), clock, seconds_an_epoch, top1_error and, for
    bars, top1_error_ci95. methods: all there are, so that each looks the same in every figure.
    """
    models, drawn = list(table["model"].unique()), _looks(methods, table["method"])
    with panel_grid(len(models), 3.1, title, FRAMELESS, margin=0.9) as (figure, panels):
        for axes, model in zip(panels, models, strict=True):
            part = table[table["model"] == model]
            for line in part.to_dict("records"):
                at = line["seconds_an_epoch"], 100 * line["top1_error"]
                _point(axes, *at, drawn[line["method"]], yerr=100 * line["top1_error_ci95"])
            axes.set(ylabel="top-1 error, %", title=model if len(models) > 1 else "")
            axes.set_xlabel(f"{part['clock'].iloc[0]} seconds an epoch")
            axes.margins(x=0.1, y=0.15)
        legend(figure, drawn | _alone(table["top1_error_ci95"]), 4, ms=SIZE)
    return figure


def factor_effects(table: pd.DataFrame, title: str) -> Figure:
    """Effects on error, NLL and ECE before and after one temperature, with 95 % intervals: a better
    one is blue, a worse one red, one whose interval holds 0 grey, one without interval hollow.

    table: `name` of each effect and, for each metric of EFFECTS, <metric>_effect and its _ci95.
    """
    found: dict[str, Any] = {}
    heights = np.arange(len(table))[::-1]
    size = (9.0, 1.4 + 0.26 * len(table))
    with canvas(1, len(EFFECTS), size, title, FRAMELESS, sharey=True) as (figure, panels):
        for axes, metric in zip(panels, EFFECTS, strict=True):
            written = QUANTITIES[metric]
            values, halves = (
                written.scale * table[f"{metric}_effect{end}"] for end in ("", "_ci95")
            )
            for height, value, half in zip(heights, values, halves, strict=True):
                verdict = _verdict(value, half)
                found[verdict] = VERDICTS[verdict]
                _point(axes, value, height, VERDICTS[verdict], xerr=half)
            axes.axvline(0, color="0.4", ls="--", lw=0.8)
            axes.set_xlabel(f"change of {written.change_axis}", fontsize=LABEL)
            axes.set_yticks(heights, table["name"], fontsize=LABEL)
            axes.margins(x=0.08, y=0.6 / (len(table) + 1))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(axis="x", labelsize=LABEL)
        legend(figure, {name: found[name] for name in VERDICTS if name in found}, 4, ms=SIZE)
    return figure


def by_head(
    table: pd.DataFrame, plain: Mapping[str, float], methods: Sequence[str], title: str
) -> Figure:
    """Accuracy and ECE of each head from input to output and of their ensemble, a line a method;
    dashed, those of the plain network.

    table: of one model, with method (as it is to be written), head, acc, ece and their _ci95.
    plain: acc and ece of the plain network, empty for none. methods: as in `error_vs_seconds`.
    """
    drawn, last = _looks(methods, table["method"]), [FINAL, ENSEMBLE]
    order = [*sorted(set(table["head"]) - set(last)), *last]
    shifts = np.linspace(-0.18, 0.18, len(drawn)) if len(drawn) > 1 else [0.0]
    with canvas(1, len(HEADS), (8.0, 3.7), title, FRAMELESS) as (figure, panels):
        for axes, metric in zip(panels, HEADS, strict=True):
            scale = QUANTITIES[metric].scale
            for shift, (method, look) in zip(shifts, drawn.items(), strict=True):
                part = table[table["method"] == method]
                at = part["head"].map(order.index) + shift
                values, halves = scale * part[metric], scale * part[f"{metric}_ci95"]
                for x, value, half in zip(at, values, halves, strict=True):
                    _point(axes, x, value, look, yerr=half)
                heads = part["head"] != ENSEMBLE  # is no stage further on
                axes.plot(at[heads], values[heads], color=look["color"], lw=0.8, alpha=0.6)
            if plain:
                axes.axhline(scale * plain[metric], **PLAIN)
            axes.set_xticks(range(len(order)), order)
            axes.set_ylabel(QUANTITIES[metric].axis)
            axes.grid(visible=False, axis="x")
        dashed = {"plain network": PLAIN} if plain else {}
        alone = _alone(table[[f"{metric}_ci95" for metric in HEADS]])
        legend(figure, drawn | dashed | alone, 4, ms=SIZE)
    return figure


ALONE = "1 seed: no interval"
VERDICTS: Looks = {
    "interval below 0: better": {"color": BLUE, "marker": "<"},
    "interval above 0: worse": {"color": RED, "marker": ">"},
    "interval holds 0: undecided": {"color": GREY, "marker": "o"},
    ALONE: {"color": GREY, "marker": "o", "mfc": "white"},
}


def _verdict(value: float, half: float) -> str:
    better, worse, undecided, alone = VERDICTS
    if np.isnan(half):
        return alone
    return better if value < -half else worse if value > half else undecided


def _looks(names: Sequence[str], shown: Iterable[str]) -> Looks:
    """A colour and a marker for each name that is shown, by its place among all names."""
    wanted = set(shown)
    return {name: look for name, look in looks(names).items() if name in wanted}


def _alone(halves: pd.Series | pd.DataFrame) -> Looks:
    """The legend's word for hollow markers, where there are any."""
    return {ALONE: VERDICTS[ALONE]} if np.isnan(halves).to_numpy().any() else {}


def _point(axes: Axes, x: float, y: float, look: Mapping[str, Any], **half: float) -> None:
    """A mean with its half-width `xerr` or `yerr`, hollow where there is none."""
    ((_, width),) = half.items()
    hollow = {"mfc": "white"} if np.isnan(width) else {}
    bars = {name: np.nan_to_num(value) for name, value in half.items()}
    axes.errorbar(x, y, ls="none", capsize=2, ms=SIZE, elinewidth=1.1, **{**look, **hollow}, **bars)
