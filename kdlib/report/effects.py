"""Effects of the factors: paired main effects and two-way interactions, inside each seed."""

import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdlib.config import Run
from kdlib.grid import NO_KD
from kdlib.report.tables import CELL, REFERENCE, in_seed, means, paired, run_table
from kdlib.store import Row


def reference(pool: pd.DataFrame, factor: str) -> Any:
    """What a factor's effects are measured against: the usual level, or the first that is there;
    of teacher losses one of a teacher, for a method without any is no level of it."""
    levels = [level for level in pool[factor].unique()
              if factor != "teacher_loss" or level != NO_KD]  # fmt: skip
    return REFERENCE[factor] if REFERENCE[factor] in levels else next(iter(levels), None)


def summary(rows: Sequence[Row], runs: Sequence[Run]) -> pd.DataFrame:
    """One line a level of a factor: its means, and its effect against the factor's reference.

    Means are over the cells with KD, but for `kd_method`, where "none" are the controls of the
    losses that students with KD have, too. An effect is the mean difference to the `reference`, of
    pairs equal in everything else (a student with KD pairs with the control of its loss, mixup and
    seed), inside each seed, then over seeds. A seed that lacks one of the runs does not count;
    `seeds` and `effect_seeds` say how many do.
    """
    table = run_table(rows, runs)
    taught = table[table["kd_method"] != NO_KD]
    if len(taught):
        table = table[table["student_loss"].isin(taught["student_loss"])]
    found = []
    for factor in REFERENCE:
        pool = table if factor == "kd_method" else taught
        versus = reference(pool, factor)
        same = [name for name in (*CELL, "seed") if name != factor]
        if versus == NO_KD:
            same.remove("teacher_loss")  # a control has no teacher
        pairs = paired(pool[pool[factor] != versus], pool[pool[factor] == versus], same)
        effects = _of_levels(pairs, factor, "pairs", "_effect")
        effects.insert(2, "versus", versus)
        effects = effects.rename(columns={"seeds": "effect_seeds"})
        found.append(
            _of_levels(pool, factor, "cells").merge(effects, on=["factor", "level"], how="left")
        )
    table = pd.concat(found, ignore_index=True)
    counts = dict.fromkeys(["pairs", "effect_seeds"], 0)
    return table.fillna({"versus": "", **counts}).astype(dict.fromkeys(counts, int))


def _of_levels(runs: pd.DataFrame, factor: str, count: str, suffix: str = "") -> pd.DataFrame:
    """One line a `level` of a factor: how many runs (or pairs of them) it has in a seed, as column
    `count`, and their means inside each seed, then over seeds."""
    by_seed = in_seed(runs, [factor, "seed"])
    table = means(by_seed, [factor], suffix=suffix).rename(columns={factor: "level"})
    number = runs.groupby(factor, observed=True).size().to_numpy()
    table.insert(1, count, number // max(1, runs["seed"].nunique()))
    table.insert(0, "factor", factor)
    return table.astype({"level": object})


def interactions(rows: Sequence[Row], runs: Sequence[Run]) -> pd.DataFrame:
    """One line a pair of levels of two factors: does the effect of one depend on the other?

    (y[a, b] - y[a0, b]) - (y[a, b0] - y[a0, b0]), means over the other factors, inside each seed,
    then over seeds as in `summary`. `versus`, `other_versus`: a0 and b0, of `reference`; KD method
    x teacher loss is among the cells with KD, against the first method: without KD there is no
    teacher.
    """
    table = run_table(rows, runs)
    taught = table[table["kd_method"] != NO_KD]
    if len(taught):  # controls of other losses have nothing to be compared with
        table = table[table["student_loss"].isin(taught["student_loss"])]
    by = ["factor", "level", "versus", "other_factor", "other_level", "other_versus"]
    found = []
    for one, other in itertools.combinations(REFERENCE, 2):
        pool = table if one == "kd_method" and other != "teacher_loss" else taught
        named = pool.astype({one: object, other: object})
        values = in_seed(named, [one, other, "seed"]).set_index([one, other, "seed"])
        base, other_base = reference(pool, one), reference(pool, other)
        for a, b in itertools.product(pool[one].unique(), pool[other].unique()):
            corners = [(a, b), (base, b), (a, other_base), (base, other_base)]
            if a == base or b == other_base or not {*corners} <= {*values.index.droplevel(2)}:
                continue
            both, second, first, neither = (values.loc[corner] for corner in corners)
            gaps = both - second - first + neither
            labels = (one, a, base, other, b, other_base)
            found.append(gaps.assign(**dict(zip(by, labels, strict=True))))
    if not found:
        return pd.DataFrame()
    return means(pd.concat(found).astype(dict.fromkeys(by, object)), by, suffix="_effect")
