"""Tables from stored rows: runs, cells, means over KD methods, published numbers.

`rows` are stored rows, of this grid or of more; `runs` are the runs the grid should have
(`kdlib.grid`). A run without a row is never averaged away: it leaves NaN in what it belongs to.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kdlib import metrics
from kdlib.config import Run
from kdlib.grid import NO_KD
from kdlib.report import literature
from kdlib.store import Row

METRICS = ["acc", "nll", "ece"]
PLAIN = ["ece_floor", "acc_selected", "ece_selected", "kd_share_first", "kd_share_last"]
NUMBERS = METRICS + PLAIN  # of a run; a cell has intervals of the metrics, plain means of the rest
# What an effect of a factor is measured against.
REFERENCE = {"kd_method": NO_KD, "teacher_loss": "ce", "student_loss": "ce", "mixup": False}
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
    found = {row["id"] for row in rows}
    return [run.id for run in runs if run.id not in found]


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
    """Mean over seeds, half-width of its 95 % t interval (NaN under two seeds, or where a value is
    infinite, as an NLL may be), number of seeds.

    >>> mean, half, n = over_seeds(pd.Series([1.0, 2.0, 3.0]))
    >>> mean, round(half, 3), n
    (2.0, 2.484, 3)
    """
    n = int(values.count())
    with np.errstate(invalid="ignore"):
        return float(values.mean()), float(_half_width(values.std(), n)), n


def _half_width(std: Any, n: Any) -> Any:
    """Of a 95 % t interval, from the standard deviation of n values."""
    return std * stats.t.ppf(0.975, n - 1) / np.sqrt(n)


def means(
    table: pd.DataFrame, by: Sequence[str], names: Sequence[str] = METRICS, suffix: str = ""
) -> pd.DataFrame:
    """One line a group, in the order in which groups come: the columns `by`; `seeds`, how many have
    the first of the names; the mean of each name + suffix with its half-width (`_ci95`) as in
    `over_seeds`. table: one line a group and seed."""
    groups = table.groupby(list(by), sort=False, observed=True)[list(names)]
    # Summed as in `over_seeds`: a groupby's own mean adds in another way, which moves last digits.
    with np.errstate(invalid="ignore"):  # infinite values, an NLL's: see `over_seeds`
        n, mean = groups.count(), groups.agg(lambda column: column.mean())
    half = _half_width(groups.std(), n)
    columns = {"seeds": n[names[0]]}
    for name in names:
        columns |= {name + suffix: mean[name], f"{name}{suffix}_ci95": half[name]}
    return pd.DataFrame(columns).reset_index()


def in_seed(table: pd.DataFrame, by: Sequence[str], names: Sequence[str] = METRICS) -> pd.DataFrame:
    """One line a group, of which the seed is a part: its means over runs; NaN where a run is
    missing, for a mean over other runs does not compare."""
    groups = table.groupby(list(by), observed=True)[list(names)]
    return groups.agg(lambda column: column.mean(skipna=False)).reset_index()


def paired(
    level: pd.DataFrame, versus: pd.DataFrame, on: Sequence[str], names: Sequence[str] = METRICS
) -> pd.DataFrame:
    """The lines of `level` that have a partner, the line of `versus` that agrees in `on`: their
    numbers less the partner's."""
    theirs = versus[[*on, *names]]
    pairs = level.merge(theirs, on=list(on), suffixes=("", "_versus"), validate="many_to_one")
    gaps = {name: pairs[name] - pairs[f"{name}_versus"] for name in names}
    return pairs.assign(**gaps)[list(level)]


def cell_table(
    table: pd.DataFrame,
    by: Sequence[str],
    names: Sequence[str] = METRICS,
    plain: Sequence[str] = (),
) -> pd.DataFrame:
    """One line a group of runs: `means` of the names, then means alone of the `plain` ones, the
    `flags` of any of them, the `runs`: their ids, as `load_student` takes them."""
    groups = table.groupby(list(by), sort=False, observed=True)
    rest = groups[list(plain)].mean()
    rest["flags"] = groups["flags"].agg(
        lambda flags: "; ".join(dict.fromkeys(itertools.chain(*flags)))
    )
    rest["runs"] = groups["id"].agg("; ".join)
    return means(table, by, names).merge(rest.reset_index(), on=list(by))


def cells(rows: Sequence[Row], runs: Sequence[Run]) -> pd.DataFrame:
    """One line a cell: means over seeds (fractions, nats) with half-widths of 95 % t intervals.

    harmonic: over the cells with KD that have all their seeds (`kdlib.metrics.harmonic_score`), NaN
    elsewhere. flags: of any of its seeds, missing ones too. runs: the ids, as `load_student` takes
    them.
    """
    table, names = run_table(rows, runs), axes(runs)
    twins = table.loc[table.duplicated([*names, "seed"], keep=False), [*names, "seed", "id"]]
    if len(twins):
        first, second = twins.sort_values([*names, "seed"])["id"].head(2)
        raise ValueError(
            f"runs: {first} and {second} have the same seed and labels, so they are no two "
            "seeds of one cell; make a variant in `options` ({kd_T2: {of: kd, temperature: 2}})"
        )
    result = cell_table(table, names, plain=PLAIN).sort_values(names, ignore_index=True)
    result = result.astype(dict.fromkeys(names, object)).infer_objects()
    result.insert(result.columns.get_loc(PLAIN[0]), "harmonic", np.nan)
    result.insert(0, "cell", [cell_label(labels) for labels in result[names].to_dict("records")])
    if "kd_method" in names:
        whole = result["seeds"] == table["seed"].nunique()
        scored = whole & (result["kd_method"] != NO_KD)
        if scored.any():
            part = result[scored]
            result.loc[scored, "harmonic"] = metrics.harmonic_score(part["acc"], part["ece"])
    return result


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


def published(cells: pd.DataFrame, data: str, imbalance_factor: float | None) -> pd.DataFrame:
    """The cells with `acc_published` and `ece_published`, what the original study published.

    NaN where it has no such cell, or where its table, a file of the repository, is not at hand. Its
    ECE is a mean over mini-batches, which lies above the ECE of the whole test set.
    """
    theirs = ["acc_published", "ece_published"]
    table = literature.at_hand("kd_calibration").rename(columns={"ece": "ece_published"})
    if table.empty:
        return cells.assign(**dict.fromkeys(theirs, np.nan))
    table = table[(table["data"] == data) & (table["imbalance_factor"] == imbalance_factor)]
    table = table.assign(acc_published=table["acc_percent"] / 100)
    return cells.merge(table[[*CELL, *theirs]], on=CELL, how="left")


def csv(table: pd.DataFrame) -> bytes:
    """The bytes of a table: the same for the same rows."""
    return table.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode()
