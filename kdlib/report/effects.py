"""Effects of the factors: paired main effects and two-way interactions, inside each seed."""

import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdlib.config import Run
from kdlib.grid import NO_KD
from kdlib.report.tables import CELL, METRICS, REFERENCE, means, run_table
from kdlib.store import Row


def _by_seed(values: pd.DataFrame, seeds: pd.Series) -> pd.DataFrame:
    """Means inside each seed; NaN where a run of the seed is missing, for a mean over other cells
    does not compare."""
    return values[METRICS].groupby(seeds).agg(lambda column: column.mean(skipna=False))


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
    lines = []
    for factor in REFERENCE:
        pool = table if factor == "kd_method" else taught
        versus = reference(pool, factor)
        base = pool[pool[factor] == versus]
        for level, members in pool.groupby(factor, observed=True):
            by_seed = _by_seed(members, members["seed"])
            line = {"factor": factor, "level": level, "cells": len(members) // len(by_seed)}
            line |= {"seeds": int(by_seed["acc"].count()), **means(by_seed)}
            lines.append(line | _effect(factor, members, base, versus))
    return pd.DataFrame(lines)


def _effect(factor: str, members: pd.DataFrame, base: pd.DataFrame, versus: Any) -> dict[str, Any]:
    """The paired difference of a level and the reference; no numbers for the reference itself."""
    same = [name for name in (*CELL, "seed") if name != factor]
    if versus == NO_KD:
        same.remove("teacher_loss")  # a control has no teacher
    pairs = members[members[factor] != versus].merge(base, on=same, suffixes=("", "_base"))
    difference = pairs[METRICS] - pairs[[f"{name}_base" for name in METRICS]].to_numpy()
    by_seed = _by_seed(difference, pairs["seed"])
    number = len(pairs) // max(1, len(by_seed))
    line = {"versus": versus if number else "", "pairs": number}
    line["effect_seeds"] = int(by_seed["acc"].count())
    return line | means(by_seed, "_effect")


def interactions(rows: Sequence[Row], runs: Sequence[Run]) -> pd.DataFrame:
    """One line a pair of levels of two factors: does the effect of one depend on the other?

    (y[a, b] - y[a0, b]) - (y[a, b0] - y[a0, b0]), means over the other factors, inside each seed,
    then over seeds as in `summary`. `versus`, `other_versus`: a0 and b0, of `reference`; KD method
    x teacher loss is among the cells with KD, against the first method: without KD there is no
    teacher.
    """
    table = run_table(rows, runs)
    taught = table[table["kd_method"] != NO_KD]
    lines = []
    for one, other in itertools.combinations(REFERENCE, 2):
        pool = table if one == "kd_method" and other != "teacher_loss" else taught
        groups = [pool[name].astype(object) for name in (one, other, "seed")]
        values = pool[METRICS].groupby(groups).agg(lambda column: column.mean(skipna=False))
        base, other_base = reference(pool, one), reference(pool, other)
        for a, b in itertools.product(pool[one].unique(), pool[other].unique()):
            corners = [(a, b), (base, b), (a, other_base), (base, other_base)]
            if a == base or b == other_base or not {*corners} <= {*values.index.droplevel(2)}:
                continue
            both, second, first, neither = (values.loc[corner] for corner in corners)
            by_seed = both - second - first + neither
            line = {"factor": one, "level": a, "versus": base, "other_factor": other}
            line |= {"other_level": b, "other_versus": other_base}
            lines.append(line | {"seeds": int(by_seed["acc"].count())} | means(by_seed, "_effect"))
    return pd.DataFrame(lines)
