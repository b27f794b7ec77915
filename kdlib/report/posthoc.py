"""The post-hoc answer: what a few numbers fitted after training give, and which cells beat that."""

from collections.abc import Sequence

import pandas as pd

from kdlib.grid import NO_KD
from kdlib.registry import LABEL_LOSSES
from kdlib.report.tables import CELL, METRICS, REFERENCE, cell_label, means, paired
from kdlib.store import Row

# Adjustment in a row's metrics -> its name for readers, and the metrics that decide a contest.
ADJUSTMENTS = {
    "test": ("as trained", ()),
    "temperature": ("one temperature", ("nll", "ece")),
    "logit_adjustment": ("logit adjustment", ("acc", "nll")),
    "menon": ("logit adjustment, tau = 1 unfitted", ("acc", "nll")),
    "balanced_temperature": ("one temperature, optimistic bound", ("nll", "ece")),
    "balanced_logit_adjustment": ("logit adjustment, optimistic bound", ("acc", "nll")),
}
GAINS = {"acc": 1, "nll": -1, "ece": -1}  # the sign of a better number


def adjusted_runs(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a run and adjustment: labels, seed, ACC, NLL, ECE and its floor, T, tau, at_bound.

    An adjustment that a row does not have is left out, and so is tau = 1 (Menon et al. 2021) for a
    run with KD or balanced softmax, whose prior is not that of its label loss alone.
    """
    lines = [
        {**row["labels"], "seed": row["run"]["seed"], "adjustment": kind, "at_bound": False}
        | row["metrics"][kind]
        for row in rows
        for kind in ADJUSTMENTS
        if kind in row["metrics"] and (kind != "menon" or _menon_applies(row))
    ]
    columns = [*CELL, "seed", "adjustment", *METRICS, "ece_floor", "T", "tau", "at_bound"]
    table = pd.DataFrame(lines).reindex(columns=columns)
    for name in (*CELL, "adjustment"):  # groups come in the order of the grid
        table[name] = pd.Categorical(table[name], table[name].unique(), ordered=True)
    return table


def _menon_applies(row: Row) -> bool:
    loss = row["run"]["objective"]["label"]["loss"]
    if row["labels"]["kd_method"] != NO_KD or loss not in LABEL_LOSSES:  # of a plugin not at hand
        return False
    return not LABEL_LOSSES[loss].facts.holds_prior


def posthoc(runs: pd.DataFrame) -> pd.DataFrame:
    """One line a cell and adjustment: means over seeds with intervals, medians of T and tau.

    runs: of `adjusted_runs`. at_bound: how many fits ended at the end of their interval.
    """
    keys = [*CELL, "adjustment"]
    plain = runs.groupby(keys, observed=True).agg(
        ece_floor=("ece_floor", "mean"),
        T=("T", "median"),
        tau=("tau", "median"),
        at_bound=("at_bound", "sum"),
    )
    table = means(runs, keys).merge(plain.reset_index(), on=keys).sort_values(keys)
    table["seeds"] = table.pop("seeds")  # to the end
    table.insert(0, "cell", [cell_label(labels) for labels in table[CELL].to_dict("records")])
    return table.assign(adjustment=[ADJUSTMENTS[kind][0] for kind in table["adjustment"]])


def contests(runs: pd.DataFrame) -> pd.DataFrame:
    """Each cell against the plain student (no KD, cross-entropy, no mixup) after each adjustment,
    with the cells as trained and, to be fair to them, after the same adjustment.

    One line a contest and group of cells (with KD, or without): `cells` in it, `better` of them in
    both `metrics`, `clear` of them with both 95 % intervals over seeds beyond 0 (empty where no
    cell has both: one seed, an infinite NLL), the median difference of each metric (cell - plain,
    inside a seed), and the cell of the lowest NLL;
    `at_bound`: in how many seeds the plain student's fit ended at the end of its interval.
    """
    reference = REFERENCE | {"teacher_loss": NO_KD}
    plain = (runs[CELL].astype(object) == list(reference.values())).all(axis=1)
    lines = []
    for kind, (_, deciding) in ADJUSTMENTS.items():
        fitted = runs[plain & (runs["adjustment"] == kind)]
        if not deciding or fitted.empty:
            continue
        for own in dict.fromkeys(("test", "test" if kind == "menon" else kind)):
            others = runs[~plain & (runs["adjustment"] == own)]
            others = others[others["seed"].isin(fitted["seed"])]  # a pair takes both
            for group in ("KD", "no KD"):
                part = others[(others["kd_method"] == NO_KD) == (group == "no KD")]
                if len(part):
                    line = {"against plain with": ADJUSTMENTS[kind][0], "cells are": group}
                    line |= {"cells adjusted": ADJUSTMENTS[own][0]}
                    line |= {"at_bound": int(fitted["at_bound"].sum())}
                    lines.append(line | _contest(part, fitted, deciding))
    table = pd.DataFrame(lines)
    return table.astype({"clear": "Int64"}) if lines else table


def _contest(others: pd.DataFrame, fitted: pd.DataFrame, deciding: tuple[str, ...]) -> dict:
    """The cells of one group against the reference, paired inside each seed."""
    gaps = paired(others, fitted, ["seed"])
    # A fit to few images can leave a label no probability at all; two infinite NLLs are equal.
    table = means(gaps.fillna(dict.fromkeys(METRICS, 0.0)), CELL).sort_values(CELL)
    gains = table[list(deciding)] * [GAINS[name] for name in deciding]
    halves = table[[f"{name}_ci95" for name in deciding]]
    judged = halves.notna().all(axis=1)  # an infinite NLL has none
    clear = int((gains > halves.to_numpy()).all(axis=1).sum())
    best = table.loc[table["nll"].idxmin()]  # of equal ones, the first of the grid
    return {
        "seeds": int(table["seeds"].max()),
        "metrics": " and ".join(name.upper() for name in deciding),
        "cells": len(table),
        "better": int((gains > 0).all(axis=1).sum()),
        "clear": clear if judged.any() else None,  # nor has one seed
        **{f"{name}_median": table[name].median() for name in METRICS},
        "best by NLL": cell_label(best),
        **{f"{name}_best{end}": best[name + end] for end in ("", "_ci95") for name in METRICS},
    }
