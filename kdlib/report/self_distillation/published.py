"""What the original study published, beside ours and read by itself.

Its DMFL had no gradient (the losses were detached by rebuilding their tensor), so a published "X"
and "X + DMFL" are two runs of one training: what they differ by is noise.
"""

import math

import pandas as pd

from kdlib.grid import NO_KD
from kdlib.report import literature
from kdlib.report.self_distillation.tables import CELL
from kdlib.studies.self_distillation import PARTS, SUBSETS

THEIRS = ["top1_error", "top5_error", "nll", "ece_10", "aurc"]
SMALLEST = "resnet18"
READ = {
    "top1_error": ("top-1 error, points", 100),
    "nll": ("NLL", 1),
    "ece_10": ("ECE, points", 100),
}


def published_cells() -> pd.DataFrame:
    """The published cells (CIFAR-100, 300 epochs, one seed) in our names and units: fractions, ECE
    of 10 bins, AURC x1000; empty where the file of the repository is not at hand."""
    table = literature.at_hand("self_distillation")
    if table.empty:
        return pd.DataFrame(columns=["data", *CELL, *THEIRS])
    fractions = {
        "top1_error": "top1_error_percent",
        "top5_error": "top5_error_percent",
        "ece_10": "ece_percent",
    }
    table = table.assign(**{name: table[column] / 100 for name, column in fractions.items()})
    return table[["data", *CELL, *THEIRS]]


def beside(
    cells: pd.DataFrame, effects: pd.DataFrame, theirs: pd.DataFrame, data: str
) -> pd.DataFrame:
    """Our cells with the published ones of the same data and method: values, and what they differ
    from their own baseline by (`_effect`), which compares better than values where the scale
    differs: ours paired inside seeds (effects: `tables.versus_baseline`), theirs of single runs. A
    network that has no published number stands beside the smallest that has."""
    lines = []
    theirs = theirs[theirs["data"] == data].set_index(CELL)
    paired = {tuple(line[name] for name in CELL): line for line in effects.to_dict("records")}
    for cell in cells.to_dict("records"):
        model, method = (cell[name] for name in CELL)
        of = model if (model, method) in theirs.index else SMALLEST
        if (of, method) not in theirs.index:
            continue
        ours = cell | paired.get((model, method), {})
        line = {"model": model, "published model": of, "method": method, "seeds": ours["seeds"]}
        for name in THEIRS:
            value, base = theirs.loc[(of, method), name], theirs.loc[(of, NO_KD), name]
            found = {name: cell[name], f"{name}_published": value}
            if method != NO_KD:
                found |= {f"{name}_effect": ours.get(f"{name}_effect", math.nan)}
                found |= {f"{name}_effect_published": value - base}
            ends = {
                f"{key}_ci95": ours.get(f"{key}_ci95", math.nan) for key in found if key in ours
            }
            line |= found | ends
        lines.append(line)
    return pd.DataFrame(lines)


def pairs(theirs: pd.DataFrame) -> pd.DataFrame:
    """The published table read in pairs of cells that differ in one part: a line a part and metric.

    lower: in how many of the `pairs` the part lowers the metric; mean_gap: of with - without;
    gap_size, largest_gap: mean and largest size of it.
    """
    lines = []
    cells = theirs.set_index(CELL)
    for part in PARTS if len(cells) else ():
        with_part = [
            (model, method)
            for model in cells.index.unique("model")
            for method in SUBSETS
            if part in method.split("+")
        ]
        without = [(model, _without(method, part)) for model, method in with_part]
        for name, (words, scale) in READ.items():
            gaps = cells.loc[with_part, name].to_numpy() - cells.loc[without, name].to_numpy()
            line = {"part": part, "metric": words, "pairs": len(gaps)}
            line |= {"lower": int((gaps < 0).sum()), "mean_gap": scale * gaps.mean()}
            size = scale * abs(gaps)
            lines.append(line | {"gap_size": size.mean(), "largest_gap": size.max()})
    return pd.DataFrame(lines)


def _without(method: str, part: str) -> str:
    return "+".join(other for other in method.split("+") if other != part) or NO_KD
