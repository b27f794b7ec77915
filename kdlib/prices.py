"""What of a plan was run and how long it took, and what is left and would take.

Hours spent are those of the timings beside the rows. Hours to go are those of `PRICES`, which
`scripts/prices.py` writes: measured once, on one machine, so that a reader learns what a run costs
without running anything; for another machine `./run_all.sh PROFILE --dry-run` measures there.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kdlib.config import Run
from kdlib.plan import ROOT, Plan
from kdlib.studies.training_length import STEM as PILOT

PRICES = ROOT / "docs" / "results" / "prices.json"


def stored(path: Path = PRICES) -> dict[str, float]:
    """Seconds of one core of every run that was priced, by its id."""
    return json.loads(path.read_text())["seconds"]


class Line(NamedTuple):
    """A part of a profile: runs planned and done, hours that passed while they were made and
    hours of a free core to go (of the runs that have a price), runs to go that have none."""

    profile: str
    part: str
    runs: int
    done: int
    spent: float
    left: float
    unpriced: int

    @property
    def missing(self) -> int:
        """Runs that were not made."""
        return self.runs - self.done


def ledger(plan: Plan, stems: Sequence[str], seconds: Mapping[str, float]) -> list[Line]:
    """One line a setting of the notebooks of these stems; the pilot stands alone. seconds: prices
    of runs by id."""
    parts: dict[str, dict[str, Run]] = defaultdict(dict)
    for part in plan.parts:
        if part.stem.startswith(tuple(stems)):
            name = "training length" if part.stem == PILOT else part.params.setting
            taken = {run for runs in parts.values() for run in runs}
            trained = (run for run in part.runs if run.recipe and run.id not in taken)
            parts[name] |= {run.id: run for run in trained}
    return [
        Line(plan.profile, name, *_line(list(runs.values()), plan.out_dir, seconds))
        for name, runs in parts.items()
        if runs
    ]


def _line(
    runs: Sequence[Run], out_dir: Path, seconds: Mapping[str, float]
) -> tuple[int, int, float, float, int]:
    done = [run for run in runs if _stored(out_dir, run, "rows").exists()]
    spent = sum(map(_timed, (_stored(out_dir, run, "timings") for run in done)))
    left = {run.id for run in runs} - {run.id for run in done}
    prices = [seconds.get(one, math.nan) for one in left]
    to_go = math.fsum(price for price in prices if not math.isnan(price))
    return len(runs), len(done), spent / 3600, to_go / 3600, sum(map(math.isnan, prices))


def _stored(out_dir: Path, run: Run, part: str) -> Path:
    return out_dir / run.folder / part / f"{run.id}.json"


def _timed(path: Path) -> float:
    return json.loads(path.read_text())["seconds"] if path.exists() else 0.0
