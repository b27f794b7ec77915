"""What of a plan was run and how long it took, and what is left and would take, by stored timings.

Nothing is measured here: `kdlib.costs` does that, on one machine. This tells readers what it
would cost to run what was not run, from the timings beside the rows: of runs of the same kind
(data, networks, terms, batch, precision), in proportion to the epochs; of others by operations at
the pace of the most similar network, which is an order of magnitude and no more.
"""

import functools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kdlib import models
from kdlib.config import Run
from kdlib.costs import SHAPES, Kind, kind
from kdlib.data import long_tail_counts
from kdlib.plan import Plan
from kdlib.studies.class_names import CLASS_NAMES
from kdlib.studies.training_length import STEM as PILOT

SAME, SIMILAR = "timings of the same kind", "operations, roughly"
UNKNOWN = "nothing to go by: its images are not known here"
BACKWARD = 3  # forward and backward passes together, in forward passes
DIGITS = (8, 1, 1078)  # side, channels, training images


class Timed(NamedTuple):
    """A stored run and its seconds; those of a cohort are shared alike."""

    run: Run
    seconds: float


def timed(plans: Iterable[Plan]) -> list[Timed]:
    """Every trained run of the plans that has a row and a timing."""
    found = {}
    for plan in plans:
        for run in plan.runs:
            paths = (
                plan.out_dir / run.folder / part / f"{run.id}.json" for part in ("rows", "timings")
            )
            row, timing = paths
            if run.recipe and row.exists() and timing.exists():
                found[run.id] = Timed(run, json.loads(timing.read_text())["seconds"])
    return list(found.values())


class Pace:
    """How long runs take, as far as stored timings tell."""

    def __init__(self, known: Sequence[Timed]):
        epochs: dict[Kind, list[float]] = defaultdict(list)
        operation: dict[tuple[str, float], list[float]] = defaultdict(list)
        for run, seconds in known:
            epochs[kind(run)].append(seconds / run.recipe.epochs)
            if (work := operations(run)) and run.data != "digits":
                operation[run.precision, forward(run)].append(seconds / work)
        self.epoch = {key: statistics.median(values) for key, values in epochs.items()}
        self.operation = {key: statistics.median(values) for key, values in operation.items()}

    def seconds(self, run: Run) -> tuple[float, str]:
        """Seconds of a run, and by what they are told; 0 of one that trains nothing."""
        if not run.recipe:
            return 0.0, SAME
        if an_epoch := self.epoch.get(kind(run)):
            return an_epoch * run.recipe.epochs, SAME
        work = operations(run)
        if not work or not self.operation:
            return math.nan, UNKNOWN
        nearest = min(self.operation, key=lambda key: _distance(key, run))
        return work * self.operation[nearest], SIMILAR


def _distance(known: tuple[str, float], run: Run) -> tuple[bool, float]:
    precision, passed = known
    return precision != run.precision, abs(math.log(passed / forward(run)))


def forward(run: Run) -> float:
    """Operations of one forward pass of one image."""
    side, channels, _ = _shape(run)
    classes = len(run.classes or CLASS_NAMES[run.data])
    return _flops(run.model, classes, channels, run.image_size or side)


@functools.cache
def _flops(model: str, classes: int, channels: int, side: int) -> float:
    return models.flops(models.build(model, classes, channels, side), (channels, side, side))


def operations(run: Run) -> float:
    """Operations of a whole training, teachers' forward passes included and terms left out; 0 for a
    set of unknown shape."""
    if run.data not in CLASS_NAMES:
        return 0.0
    image = BACKWARD * forward(run) + sum(forward(teacher) for teacher in run.teachers)
    return run.recipe.epochs * images(run) * image


def images(run: Run) -> float:
    """About how many images an epoch has."""
    total, every = _shape(run)[2], len(CLASS_NAMES[run.data])
    if run.imbalance_factor:
        total = sum(long_tail_counts(total // every, every, run.imbalance_factor))
    held_out = run.val_fraction
    if held_out is None:
        held_out = 0.2 if run.imbalance_factor else 0.1
    return total * (1 - held_out) * len(run.classes or CLASS_NAMES[run.data]) / every


def _shape(run: Run) -> tuple[int, int, int]:
    return SHAPES[run.data][:3] if run.data in SHAPES else DIGITS


class Line(NamedTuple):
    """A part of a profile: runs planned and done, hours of one core spent and to go (of the runs
    that timings can tell of), what the latter are told by."""

    profile: str
    part: str
    runs: int
    done: int
    spent: float
    left: float
    by: str

    @property
    def missing(self) -> int:
        """Runs that were not made."""
        return self.runs - self.done


def ledger(
    plan: Plan, stems: Sequence[str], pace: Pace, seconds: Mapping[str, float]
) -> list[Line]:
    """One line a setting of the notebooks of these stems; the pilot stands alone. seconds: of runs,
    by id."""
    parts: dict[str, dict[str, Run]] = defaultdict(dict)
    for part in plan.parts:
        if part.stem.startswith(tuple(stems)):
            name = "training length" if part.stem == PILOT else part.params.setting
            taken = {run for runs in parts.values() for run in runs}
            parts[name] |= {run.id: run for run in part.runs if run.id not in taken}
    return [
        Line(plan.profile, name, *_line(list(runs.values()), plan.out_dir, pace, seconds))
        for name, runs in parts.items()
        if runs
    ]


def _line(
    runs: Sequence[Run], out_dir: Path, pace: Pace, seconds: Mapping[str, float]
) -> tuple[int, int, float, float, str]:
    done = {run.id for run in runs if (out_dir / run.folder / "rows" / f"{run.id}.json").exists()}
    left = [pace.seconds(run) for run in runs if run.id not in done]
    by = next((one for one in (UNKNOWN, SIMILAR, SAME) if one in {by for _, by in left}), "")
    spent = sum(seconds.get(run, 0.0) for run in done)
    to_go = sum(price for price, _ in left if not math.isnan(price))
    return len(runs), len(done), spent / 3600, to_go / 3600, by
