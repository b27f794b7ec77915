"""The small grids beside the main one: what happens when one choice of a method changes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kdlib.cautions import uncalibrated
from kdlib.config import Params
from kdlib.grid import NO_KD, control_runs, student_runs
from kdlib.report.tables import CELL, METRICS, cell_label, means, present
from kdlib.store import Row

WEIGHT, PLAIN = "weight ", "plain_val_acc"


def control_grids(rows: Sequence[Row], params: Params) -> pd.DataFrame:
    """One line a cell of the control grids, each group after the cell of the main grid it varies.

    change: the options that differ from it; calibrated KD of a teacher without a fitted temperature
    is plain KD, and no line of it. Means over the seeds that a group has in common, with
    intervals, on test and (`val_`) validation; plain_val_acc: of the students without KD of the
    same loss. Where only the KD term's weight differs the question is one of choice, so it is shown
    on validation alone.
    """
    runs = control_runs(params)
    bases = list(dict.fromkeys(_base(params, run.labels) for run in runs))
    students = student_runs(params)
    main = [run for run in students if tuple(run.labels.values()) in bases]
    without = [run for run in students if run.labels["kd_method"] == NO_KD]
    plain = {_learnt(row): row["metrics"].get("val", {}) for row in present(rows, without)}
    every = {run.id: run for run in main + runs}.values()
    ordered = sorted(every, key=lambda run: bases.index(_base(params, run.labels)))
    teachers = {row["id"]: row for row in rows}
    lines = [
        _line(row, params) | {PLAIN: plain.get(_learnt(row), {}).get("acc", np.nan)}
        for row in present(rows, ordered)
        if _is_itself(row, teachers)
    ]
    if not lines:
        return pd.DataFrame()
    keys = [*CELL, "change"]
    table = _common_seeds(pd.DataFrame(lines), keys)
    numbers = [PLAIN, *(prefix + name for prefix in ("", "val_") for name in METRICS)]
    seeds = table.groupby(keys, sort=False).size().to_numpy()
    result = means(table, keys, numbers).assign(seeds=seeds)
    result.insert(0, "cell", [cell_label(labels) for labels in result[CELL].to_dict("records")])
    return result


def _learnt(row: Row) -> tuple:
    """What a student shares with the one without KD: its loss, its images, its seed."""
    return *(row["labels"][name] for name in CELL[2:]), row["run"]["seed"]


def _is_itself(row: Row, teachers: Mapping[str, Row]) -> bool:
    """Whether a run did what its options say: all but calibrated KD without a temperature."""
    known = [teachers[name] for name in row["run"]["teachers"] if name in teachers]
    return not uncalibrated(row["run"]["objective"], known)


def _common_seeds(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The lines of each group (`base`) whose seed all its cells have: a control of one seed is not
    to be read against five of the cell it varies."""
    named = table.assign(cell=table[keys].apply(tuple, axis=1))
    of_seed = named.groupby(["base", "seed"])["cell"].transform("nunique")
    of_group = named.groupby("base")["cell"].transform("nunique")
    return table[of_seed == of_group].drop(columns=["base", "seed"])


def _base(params: Params, labels: dict) -> tuple:
    """The cell of the main grid that a cell varies, or the cell itself."""
    method = labels["kd_method"]
    return params.options.get(method, {}).get("of", method), *(labels[name] for name in CELL[1:])


def _line(row: Row, params: Params) -> dict:
    labels = {name: row["labels"][name] for name in CELL}
    options = params.options.get(labels["kd_method"], {})
    given = params.options.get(options.get("of", labels["kd_method"]), {})
    own = options.items() if "of" in options else ()
    changed = {key: value for key, value in own if key != "of" and given.get(key) != value}
    test = {} if changed.keys() == {"weight"} else row["metrics"]["test"]
    val = row["metrics"].get("val", {})
    return {
        "base": _base(params, labels),
        "seed": row["run"]["seed"],
        **labels,
        "change": ", ".join(f"{key} {value}" for key, value in changed.items()) or "none",
        **{name: test.get(name, np.nan) for name in METRICS},
        **{f"val_{name}": val.get(name, np.nan) for name in METRICS},
    }
