"""What an epoch of each method costs: measured by the notebook, kept beside the rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib.config import Run
from kdlib.files import write_atomic
from kdlib.grid import NO_KD
from kdlib.report.compose import Section
from kdlib.report.self_distillation.tables import CELL
from kdlib.report.tables import csv
from kdlib.studies.self_distillation import STEM, SelfDistillation, runs

FILE = "seconds.csv"
COLUMNS = [
    "run",
    *CELL,
    "clock",
    "rounds",
    "seconds_an_epoch",
    "slower",
    "slower_low",
    "slower_high",
]


def write_seconds(
    made: Sequence[Run],
    found: Mapping[str, Sequence[float]],
    clock: str,
    params: SelfDistillation,
    out_dir: str | Path,
) -> None:
    """Store what `kdlib.train.seconds_an_epoch` found of these runs as seconds.csv, a line a run: a
    timing, outside every comparison of results.

    clock: what the seconds are (`kdlib.train.clock_of`). seconds_an_epoch: of the fastest round.
    slower: how many times that of the plain network of the same model, the median of the rounds;
    slower_low and slower_high: the range of the rounds.
    """
    plain = {run.labels["model"]: found[run.id] for run in made if run.labels["method"] == NO_KD}
    lines = []
    for run in made:
        times = np.asarray(found[run.id])
        ratios = times / plain.get(run.labels["model"], np.nan)
        line = {"run": run.id, **run.labels, "clock": clock, "rounds": len(times)}
        ends = {"slower_low": ratios.min(), "slower_high": ratios.max()}
        took = {"seconds_an_epoch": times.min(), "slower": np.median(ratios)}
        lines.append(line | took | ends)
    write_atomic(_file(params, out_dir), csv(pd.DataFrame(lines)[COLUMNS]))


def has_seconds(made: Sequence[Run], params: SelfDistillation, out_dir: str | Path) -> bool:
    """Whether `write_seconds` has stored the time of all these runs."""
    return set(stored_seconds(params, out_dir)["run"]) >= {run.id for run in made}


def stored_seconds(params: SelfDistillation, out_dir: str | Path) -> pd.DataFrame:
    """What `write_seconds` stored of runs of these params; empty where it did not, or in another
    form."""
    path = _file(params, out_dir)
    table = pd.read_csv(path) if path.exists() else pd.DataFrame()
    if list(table) != COLUMNS:
        return pd.DataFrame(columns=COLUMNS)
    return table[table["run"].isin([run.id for run in runs(params)])]


def timed(cells: pd.DataFrame, clocked: pd.DataFrame) -> pd.DataFrame:
    """The times (`stored_seconds`) of the cells that have one, with their errors."""
    errors = cells[[*CELL, "seeds", "top1_error", "top1_error_ci95"]]
    return errors.merge(clocked.drop(columns="run"), on=CELL)


def _file(params: SelfDistillation, out_dir: str | Path) -> Path:
    return Section(Path(out_dir), STEM, params.setting).folder / FILE
