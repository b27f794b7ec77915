"""Tables from stored rows: cells, means of a factor's levels, paired effects.

`rows` are stored rows, of this grid or of more; `runs` are the runs the grid should have
(`kdlib.grid`). A run without a row is never averaged away: it leaves NaN in what it belongs to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kdlib import metrics
from kdlib.config import Params, Run
from kdlib.grid import NO_KD, student_runs, teacher_runs
from kdlib.store import Row

METRICS = ["acc", "nll", "ece"]
PLAIN = ["ece_floor", "acc_selected", "ece_selected", "kd_share_first", "kd_share_last"]
NUMBERS = METRICS + PLAIN  # of a run; a cell has intervals of the metrics, plain means of the rest
# What an effect of a factor is measured against.
REFERENCE = {"kd_method": NO_KD, "teacher_loss": "ce", "student_loss": "ce", "mixup": False}
PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "kd_calibration.csv"
CELL = list(REFERENCE)
PAIR = CELL[1:]


def cell_label(labels: Mapping[str, Any]) -> str:
    """A cell's name in figures and tables.

    >>> cell_label({"kd_method": "crd", "teacher_loss": "bs", "student_loss": "ce", "mixup": True})
    'CRD T:BS S:CE +mixup'
    >>> cell_label({"kd_method": "none", "teacher_loss": "none", "student_loss": "ce"})
    'no KD S:CE'
    """
    method, teacher = labels.get("kd_method"), labels.get("teacher_loss", NO_KD)
    parts = [] if method is None else ["no KD" if method == NO_KD else method.upper()]
    parts += [] if teacher == NO_KD else [f"T:{teacher.upper()}"]
    parts += [f"S:{labels['student_loss'].upper()}"] if "student_loss" in labels else []
    return " ".join(parts + ["+mixup"] * bool(labels.get("mixup")))


def axes(runs: Sequence[Run]) -> list[str]:
    """The labels that make a cell: all but the role."""
    if not runs:
        raise ValueError("runs is empty: the grid of these params has none")
    return [label for label in runs[0].labels if label != "role"]


def present(rows: Sequence[Row], runs: Sequence[Run]) -> list[Row]:
    """The rows of the runs, in their order; rows of other params are left out."""
    found = {row["id"]: row for row in rows}
    return [found[run.id] for run in runs if run.id in found]


def missing(rows: Sequence[Row], runs: Sequence[Run]) -> list[str]:
    """The ids of the runs that have no row."""
    return [run.id for run in runs if run.id not in {row["id"] for row in rows}]


def run_table(rows: Sequence[Row], runs: Sequence[Run]) -> pd.DataFrame:
    """One line a run, its labels as ordered categories; NaN where its row is missing."""
    names, found = axes(runs), {row["id"]: row for row in rows}
    table = pd.DataFrame([_line(run, found.get(run.id)) for run in runs])
    for name in names:  # groups then come in the order of the params, not of the alphabet
        table[name] = pd.Categorical(table[name], table[name].unique(), ordered=True)
    return table


def _line(run: Run, row: Row | None) -> dict[str, Any]:
    line = {"id": run.id, **run.labels, "seed": run.seed}
    line.pop("role", None)
    if row is None:
        return line | dict.fromkeys(NUMBERS, np.nan) | {"flags": [f"no row of seed {run.seed}"]}
    test, share = row["metrics"]["test"], row["kd_share"]
    # There is a selected epoch of its own only where it is not the last.
    chosen = row["metrics"].get("selected", test)
    found = test | {f"{name}_selected": chosen[name] for name in ("acc", "ece")}
    found |= {f"kd_share_{moment}": share.get(moment) for moment in ("first", "last")}
    numbers = {name: np.nan if found[name] is None else found[name] for name in NUMBERS}
    return line | numbers | {"flags": row["flags"]}


def over_seeds(values: pd.Series) -> tuple[float, float, int]:
    """Mean over seeds, half-width of its 95 % t interval (NaN under two seeds), number of seeds.

    >>> mean, half, n = over_seeds(pd.Series([1.0, 2.0, 3.0]))
    >>> mean, round(half, 3), n
    (2.0, 2.484, 3)
    """
    values = values.dropna()
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std() / np.sqrt(n) if n > 1 else np.nan
    return float(values.mean()), float(half), n


def _means(by_seed: pd.DataFrame, suffix: str = "") -> dict[str, float]:
    """Each metric's mean over seeds with its interval; by_seed has one line a seed."""
    line = {}
    for name in METRICS:
        line[name + suffix], line[f"{name}{suffix}_ci95"], _ = over_seeds(by_seed[name])
    return line


def _by_seed(values: pd.DataFrame, seeds: pd.Series) -> pd.DataFrame:
    """Means inside each seed; NaN where a run of the seed is missing, for a mean over other cells
    does not compare."""
    return values[METRICS].groupby(seeds).agg(lambda column: column.mean(skipna=False))


def cells(rows: Sequence[Row], runs: Sequence[Run]) -> pd.DataFrame:
    """One line a cell: means over seeds (fractions, nats) with half-widths of 95 % t intervals.

    harmonic: over the cells with KD that have all their seeds (`kdlib.metrics.harmonic_score`), NaN
    elsewhere. flags: of any of its seeds, missing ones too. runs: the ids, as `load_student` takes
    them.
    """
    table, names = run_table(rows, runs), axes(runs)
    lines = []
    for key, group in table.groupby(names, observed=True):
        labels = dict(zip(names, key, strict=True))
        line = {"cell": cell_label(labels), **labels, "seeds": int(group["acc"].count())}
        line |= _means(group) | {"harmonic": np.nan} | group[PLAIN].mean().to_dict()
        flags = dict.fromkeys(group["flags"].explode().dropna())
        lines.append(line | {"flags": "; ".join(flags), "runs": "; ".join(group["id"])})
    result = pd.DataFrame(lines)
    if "kd_method" in names:
        whole = result["seeds"] == table["seed"].nunique()
        scored = whole & (result["kd_method"] != NO_KD)
        if scored.any():
            part = result[scored]
            result.loc[scored, "harmonic"] = metrics.harmonic_score(part["acc"], part["ece"])
    return result


def summary(rows: Sequence[Row], runs: Sequence[Run]) -> pd.DataFrame:
    """One line a level of a factor: its means, and its effect against the factor's reference.

    Means are over the cells with KD, but for `kd_method`, where "none" are the controls. An effect
    is the mean difference of pairs equal in everything else (a student with KD pairs with the
    control of its loss, mixup and seed), inside each seed, then over seeds. A seed that lacks one
    of the runs does not count; `seeds` and `effect_seeds` say how many do.
    """
    table = run_table(rows, runs)
    taught = table[table["kd_method"] != NO_KD]
    lines = []
    for factor, reference in REFERENCE.items():
        pool = table if factor == "kd_method" else taught
        base = pool[pool[factor] == reference]
        for level, members in pool.groupby(factor, observed=True):
            by_seed = _by_seed(members, members["seed"])
            line = {"factor": factor, "level": level, "cells": len(members) // len(by_seed)}
            line |= {"seeds": int(by_seed["acc"].count()), **_means(by_seed)}
            lines.append(line | _effect(factor, members, base, reference))
    return pd.DataFrame(lines)


def _effect(
    factor: str, members: pd.DataFrame, base: pd.DataFrame, reference: Any
) -> dict[str, Any]:
    """The paired difference of a level and the reference; no numbers for the reference itself."""
    same = [name for name in (*CELL, "seed") if name != factor]
    if factor == "kd_method":
        same.remove("teacher_loss")  # a control has no teacher
    pairs = members[members[factor] != reference].merge(base, on=same, suffixes=("", "_base"))
    difference = pairs[METRICS] - pairs[[f"{name}_base" for name in METRICS]].to_numpy()
    by_seed = _by_seed(difference, pairs["seed"])
    number = len(pairs) // max(1, len(by_seed))
    line = {"versus": reference if number else "", "pairs": number}
    line["effect_seeds"] = int(by_seed["acc"].count())
    return line | _means(by_seed, "_effect")


def teacher_student_means(cells: pd.DataFrame) -> pd.DataFrame:
    """Means over the KD methods of each teacher, student and mixup, where no method is missing.

    harmonic: of the mean point, on the scale of the grid's cells.
    """
    scored = cells[cells["harmonic"].notna()]
    groups = scored.groupby(PAIR, sort=False)
    means = groups[["acc", "ece"]].mean()[groups.size() == scored["kd_method"].nunique()]
    means = means.reset_index()
    # Means lie inside the cells' range, so joining them does not move its scale.
    joined = pd.concat([scored[["acc", "ece"]], means[["acc", "ece"]]])
    scores = metrics.harmonic_score(joined["acc"], joined["ece"]) if len(joined) else np.array([])
    labels = [cell_label(labels) for labels in means[PAIR].to_dict("records")]
    means.insert(0, "cell", labels)
    return means.assign(harmonic=scores[len(scored) :])


def published(
    cells: pd.DataFrame, data: str, imbalance_factor: float | None, path: Path = PUBLISHED
) -> pd.DataFrame:
    """The cells with `acc_published` and `ece_published`, what the original study published.

    NaN where it has no such cell, or where its table, a file of the repository, is not at hand. Its
    ECE is a mean over mini-batches, which lies above the ECE of the whole test set.
    """
    theirs = ["acc_published", "ece_published"]
    if not path.exists():
        return cells.assign(**dict.fromkeys(theirs, np.nan))
    table = pd.read_csv(path).rename(columns={"ece": "ece_published"})
    table = table[(table["data"] == data) & (table["imbalance_factor"] == imbalance_factor)]
    table = table.assign(acc_published=table["acc_percent"] / 100)
    return cells.merge(table[[*CELL, *theirs]], on=CELL, how="left")


@dataclass(frozen=True)
class Study:
    """What the rows say about a grid. lacking: ids of runs without a row."""

    params: Params
    students: list[Row]
    teachers: list[Row]
    lacking: list[str]
    cells: pd.DataFrame
    summary: pd.DataFrame
    teacher_cells: pd.DataFrame

    @classmethod
    def of(cls, rows: Sequence[Row], params: Params) -> "Study":
        """ValueError where there is no row of a student of these params."""
        students, teachers = student_runs(params), teacher_runs(params)
        found = present(rows, students)
        if not found:
            raise ValueError(f"rows: none of the {len(rows)} is a student of these params")
        return cls(
            params, found, present(rows, teachers), missing(rows, students + teachers),
            cells(rows, students), summary(rows, students), cells(rows, teachers),
        )  # fmt: skip

    @property
    def controls(self) -> list[Row]:
        """The students without a teacher."""
        return [row for row in self.students if row["labels"]["kd_method"] == NO_KD]

    @property
    def top(self) -> pd.DataFrame:
        """The five cells of the highest Harmonic score, ties in the order of the grid."""
        return self.cells.dropna(subset="harmonic").nlargest(5, "harmonic")


def csv(table: pd.DataFrame) -> bytes:
    """The bytes of a table: the same for the same rows."""
    return table.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode()
