"""Two results folders side by side: which rows differ, and by how much."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdlib.quantities import QUANTITIES
from kdlib.store import Row, differences, is_number, read_row

SHOWN = ("acc", "nll", "ece")  # of the test split, where two runs differ in their params


@dataclass
class Comparison:
    """Ids of the runs that both folders have, or one alone, and the rows that differ, in words;
    `changed`: of runs in one folder alone, those of one place (folder, labels, seed), which differ
    in their params: in which, and by how much in the metrics."""

    both: list[str] = field(default_factory=list)
    only: dict[str, list[str]] = field(default_factory=dict)
    differing: dict[str, list[str]] = field(default_factory=dict)
    changed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """The same runs with the same rows."""
        return not (self.differing or self.changed or any(self.only.values()))

    def lines(self) -> list[str]:
        """For people, the verdict last."""
        lines = [f"only in {place}: {run}" for place, runs in self.only.items() for run in runs]
        for run, texts in (self.changed | self.differing).items():
            lines += [run, *(f"  {text}" for text in texts)]
        alone, changed = sum(map(len, self.only.values())), len(self.changed)
        verdict = f"{len(self.both)} rows in both, {len(self.differing)} differ"
        verdict += f"; {changed} of other params" if changed else ""
        return [*lines, verdict + (f"; {alone} rows in one folder only" if alone else "")]


def compare(first: str | Path, second: str | Path, tolerance: float = 0.0) -> Comparison:
    """Compare the metrics, and the data they come from, of all rows under two folders, by run id;
    runs of other params by their folder, labels and seed.

    tolerance: the largest absolute difference of two numbers that counts as none. Where and when a
    row was made is not compared. FileNotFoundError for a folder without rows, ValueError for a
    negative tolerance, DamagedError for a damaged row.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    here, there = _rows(first), _rows(second)
    found = Comparison(both=sorted(here.keys() & there.keys()))
    alone, others = (sorted(own.keys() - found.both) for own in (here, there))
    places = {_place(here[run]): run for run in alone}
    paired = set()
    for run in others:
        if one := places.get(_place(there[run])):
            found.changed[f"{one} and {run}"] = _change(here[one], there[run])
            paired |= {one, run}
    found.only = {
        str(place): [run for run in runs if run not in paired]
        for place, runs in ((first, alone), (second, others))
    }
    for run in found.both:
        texts = [
            text
            for part in ("metrics", "data", "evaluation")
            for text in _in_words(here[run][part], there[run][part], tolerance, part)
        ]
        if texts:
            found.differing[run] = texts
    return found


def _place(row: Row) -> str:
    """What a run is, whatever its params: a run's own id where its row does not say."""
    known = row.get("folder"), row.get("labels"), row.get("run", {}).get("seed")
    return row["id"] if None in known else repr(known)


def _change(one: Row, other: Row) -> list[str]:
    tests = [row["metrics"]["test"] for row in (one, other)]
    return [
        *_in_words(one["run"], other["run"], 0.0, "run"),
        *(f"test {QUANTITIES[name].word} {QUANTITIES[name].amount(tests[1][name] - tests[0][name])}"
          for name in SHOWN),
    ]  # fmt: skip


def _rows(folder: str | Path) -> dict[str, Row]:
    paths = sorted(Path(folder).rglob("rows/*.json"))
    if not paths:
        raise FileNotFoundError(f"no rows under {folder}")
    return {path.stem: read_row(path) for path in paths}


def _in_words(one: Any, other: Any, tolerance: float, part: str) -> list[str]:
    """Where two nested values differ, and numbers by how much."""
    return [
        f"{where}: {a:.10g} and {b:.10g}, by {abs(a - b):.3g}"
        if is_number(a) and is_number(b)
        else f"{where}: {a} and {b}"
        for where, a, b in differences(one, other, tolerance, part)
    ]
