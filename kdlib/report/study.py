"""One grid's rows and everything that is counted from them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from kdlib.config import Params
from kdlib.grid import NO_KD, control_runs, student_runs, teacher_runs
from kdlib.report.choice import best, certainty, objections
from kdlib.report.controls import control_grids
from kdlib.report.effects import interactions, summary
from kdlib.report.images import Predictions, predictions, rank_stability
from kdlib.report.posthoc import adjusted_runs, contests, posthoc
from kdlib.report.tables import cells, missing, present
from kdlib.store import Row


@dataclass(frozen=True)
class Study:
    """What the rows say about a grid. lacking: ids of runs without a row; found: predictions."""

    params: Params
    students: list[Row]
    teachers: list[Row]
    lacking: list[str]
    cells: pd.DataFrame
    summary: pd.DataFrame
    interactions: pd.DataFrame
    teacher_cells: pd.DataFrame
    control_grids: pd.DataFrame
    found: Predictions = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Row], params: Params, out_dir: Path | None = None) -> "Study":
        """ValueError where there is no row of a student of these params. out_dir: the profile's
        folder, where predictions may lie."""
        students, teachers = student_runs(params), teacher_runs(params)
        wanted = students + teachers + control_runs(params)
        found = present(rows, students)
        if not found:
            raise ValueError(f"rows: none of the {len(rows)} is a student of these params")
        return cls(
            params, found, present(rows, teachers), missing(rows, wanted),
            cells(rows, students), summary(rows, students), interactions(rows, students),
            cells(rows, teachers), control_grids(rows, params),
            predictions(present(rows, students + teachers), out_dir) if out_dir else {},
        )  # fmt: skip

    @property
    def seeds(self) -> int:
        """Of how many seeds there are students."""
        return len({row["run"]["seed"] for row in self.students})

    @property
    def controls(self) -> list[Row]:
        """The students without a teacher."""
        return [row for row in self.students if row["labels"]["kd_method"] == NO_KD]

    @cached_property
    def posthoc(self) -> pd.DataFrame:
        """Every cell before and after each post-hoc adjustment."""
        return posthoc(adjusted_runs(self.students))

    @cached_property
    def contests(self) -> pd.DataFrame:
        """The cells against the plain student after each adjustment."""
        return contests(adjusted_runs(self.students))

    @cached_property
    def stability(self) -> pd.DataFrame:
        """How stable the top 5 is; empty where a cell with a score lacks predictions."""
        runs = self.cells.dropna(subset="harmonic")["runs"].str.split("; ").explode()
        whole = len(runs) and not self.unread(runs)
        return rank_stability(self.cells, self.found) if whole else pd.DataFrame()

    @cached_property
    def best(self) -> pd.DataFrame:
        """The cell that validation chooses; empty where validation is too small to choose."""
        if objections(self.students):
            return pd.DataFrame()
        return best(self.cells, {row["id"]: row for row in self.students})

    @cached_property
    def certainty(self) -> pd.DataFrame:
        """How sure that choice and its rank are; empty where predictions are missing."""
        if self.best.empty:
            return pd.DataFrame()
        return certainty(self.cells, self.best["cell"].iloc[0], self.stability, self.found)

    def unread(self, runs: Iterable[str]) -> list[str]:
        """Those of the runs whose predictions are not at hand."""
        return [run for run in runs if run not in self.found]

    @property
    def top(self) -> pd.DataFrame:
        """The five cells of the highest Harmonic score, ties in the order of the grid."""
        return self.cells.dropna(subset="harmonic").nlargest(5, "harmonic")
