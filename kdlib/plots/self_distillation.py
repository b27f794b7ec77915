"""Figures of the self-distillation study: what a method costs and gives, effects of its parts."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kdlib.plots.canvas import BLUE, GREY, LABEL, RED, canvas

AXES = {
    "top1_error": ("top-1 error, points", 100),
    "nll": ("NLL", 1),
    "ece": ("ECE", 1),
    "ece_after": ("ECE after T", 1),
}


def error_vs_seconds(table: pd.DataFrame, title: str) -> Figure:
    """Top-1 error over the seconds that an epoch takes, a panel for each model.

    table: model, method (as it is to be written), seconds_an_epoch, top1_error and, for bars,
    top1_error_ci95.
    """
    models, methods = list(table["model"].unique()), list(table["method"].unique())
    palette = sns.color_palette("colorblind")
    styles = {name: ("os^vDP*X"[at % 8], palette[at % 10]) for at, name in enumerate(methods)}
    with canvas(len(models), (max(5.0, 4.0 * len(models)), 4.0), squeeze=False) as (figure, (row,)):
        for axes, model in zip(row, models, strict=True):
            part = table[table["model"] == model]
            for line in part.to_dict("records"):
                marker, colour = styles[line["method"]]
                at = line["seconds_an_epoch"], 100 * line["top1_error"]
                half = 100 * np.nan_to_num(line["top1_error_ci95"])
                axes.errorbar(*at, yerr=half, fmt=marker, color=colour, capsize=2, ms=6,
                              label=line["method"])  # fmt: skip
            axes.set(xlabel="seconds an epoch", ylabel="top-1 error, %", title=model)
            axes.margins(x=0.1, y=0.15)
        handles = {}
        for axes in row:
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4,
                      fontsize=LABEL)  # fmt: skip
        figure.suptitle(title, fontsize=10)
    return figure


def factor_effects(table: pd.DataFrame, title: str) -> Figure:
    """Effects on error, NLL and ECE before and after one temperature, with 95 % intervals where
    there are any; an effect whose interval holds 0 is grey.

    table: `name` of each effect and, for each metric of AXES, <metric>_effect and its _ci95.
    """
    heights = np.arange(len(table))[::-1]
    size = (9.0, 1.0 + 0.26 * len(table))
    with canvas(len(AXES), size, sharey=True) as (figure, panels):
        for axes, (metric, (name, scale)) in zip(panels, AXES.items(), strict=True):
            values, halves = (scale * table[f"{metric}_effect{end}"] for end in ("", "_ci95"))
            for height, value, half in zip(heights, values, halves.fillna(0), strict=True):
                colour = BLUE if value < -half else RED if value > half else GREY
                axes.errorbar(value, height, xerr=half, fmt="o", color=colour, capsize=2, ms=4.5)
            axes.axvline(0, color="0.4", ls="--", lw=0.8)
            axes.set_xlabel(f"effect on {name}", fontsize=8)
            axes.set_yticks(heights, table["name"], fontsize=LABEL)
            axes.tick_params(axis="x", labelsize=LABEL)
        figure.suptitle(f"{title} (blue: better, red: worse)", fontsize=10)
    return figure
