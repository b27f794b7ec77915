"""Tables of the overlapping-teachers study, from stored rows alone."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdlib import models
from kdlib.config import Run
from kdlib.report.tables import METRICS, means, missing, over_seeds, present
from kdlib.store import Row
from kdlib.studies import overlapping as study
from kdlib.studies.overlapping import ENSEMBLE, STUDENT, TEACHER, OverlappingTeachers

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "overlapping_teachers.csv"


ERRORS = ("inside", "between")
CELLS = [
    "cell", *study.LABELS, "seeds", "acc", "acc_ci95", "acc_effect", "acc_effect_ci95", "nll",
    "nll_ci95", "ece", "ece_ci95", "ece_floor", *ERRORS, "val_acc", "parameters",
    "MFLOP", "acc_published", "flags", "runs",
]  # fmt: skip


@dataclass(frozen=True)
class Overlap:
    """What the rows say about a task. rows: of its runs, in their order; lacking: ids of runs
    without one; sets: teacher -> its classes; classes: the student's, in the set's order."""

    params: OverlappingTeachers
    runs: list[Run]
    rows: list[Row]
    lacking: list[str]
    sets: dict[str, tuple[str, ...]]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Row], params: OverlappingTeachers) -> "Overlap":
        """ValueError where there is no row of these params."""
        runs = study.runs(params)
        found = present(rows, runs)
        if not found:
            raise ValueError(f"rows: none of the {len(rows)} is a run of these params")
        sets, classes = study.class_sets(params), study.union(params)
        return cls(params, runs, found, missing(rows, runs), sets, classes)

    def of_role(self, *roles: str) -> dict[str, list[Row]]:
        """Cell -> its rows, one a seed."""
        cells: dict[str, list[Row]] = {}
        for row in self.rows:
            if row["labels"]["role"] in roles:
                cells.setdefault(cell_label(row["labels"]), []).append(row)
        return cells

    @functools.cached_property
    def cells(self) -> pd.DataFrame:
        """One line an ensemble or a student: means over seeds with 95 % t intervals (`*_ci95`);
        acc_effect: against the student without KD of the same model and seed; parameters and MFLOP
        of one forward pass, of all teachers for an ensemble; inside, between: the share of images
        taken for a class that some teacher of the true one knows, and for one that none does."""
        plain = {
            (row["labels"]["model"], row["run"]["seed"]): row["metrics"]["test"]["acc"]
            for row in self.rows
            if row["labels"].get("role") == STUDENT and row["labels"]["method"] == "none"
        }
        lines = []
        for cell, rows in self.of_role(ENSEMBLE, STUDENT).items():
            labels, tests = rows[0]["labels"], [row["metrics"]["test"] for row in rows]
            table = pd.DataFrame([{key: test[key] for key in METRICS} for test in tests])
            keys = ((labels.get("model"), row["run"]["seed"]) for row in rows)
            before = np.array([plain.get(key, np.nan) for key in keys])
            control = labels["method"] == "none"
            effect = over_seeds(table["acc"] - (np.nan if control else before))
            line = {"cell": cell, **{key: labels.get(key) for key in study.LABELS}}
            line |= {"seeds": len(rows)} | self._errors(rows, self.classes) | means(table)
            line |= {"ece_floor": np.mean([test["ece_floor"] for test in tests])}
            line |= {"acc_effect": effect[0], "acc_effect_ci95": effect[1]}
            line |= self._size(rows[0])
            if "val" in rows[0]["metrics"]:
                line["val_acc"] = np.mean([row["metrics"]["val"]["acc"] for row in rows])
            flags = dict.fromkeys(flag for row in rows for flag in row["flags"])
            line["acc_published"] = published("student", self.classes)
            lines.append(line | {"flags": "; ".join(flags)} | _ids(rows))
        return pd.DataFrame(lines, columns=CELLS)

    @functools.cached_property
    def teachers(self) -> pd.DataFrame:
        """One line a teacher: how it does on the test images of its own classes."""
        lines = []
        for rows in self.of_role(TEACHER).values():
            name = rows[0]["labels"]["teacher"]
            table = pd.DataFrame([{k: row["metrics"]["test"][k] for k in METRICS} for row in rows])
            line = {"teacher": name, "classes": ", ".join(self.sets[name]), "seeds": len(rows)}
            line |= means(table) | {"acc_published": published("teacher", self.sets[name])}
            lines.append(line | self._size(rows[0]) | _ids(rows))
        return pd.DataFrame(lines)

    @functools.cached_property
    def groups(self) -> pd.DataFrame:
        """One line a cell and teacher: accuracy among all classes on the images of the teacher's
        classes (a shared class counts for each of its teachers), and the kinds of errors."""
        lines = [
            {"cell": cell, "images of": teacher, "seeds": len(rows)} | self._errors(rows, classes)
            for cell, rows in self.of_role(ENSEMBLE, STUDENT).items()
            for teacher, classes in self.sets.items()
        ]
        return pd.DataFrame(lines, columns=["cell", "images of", "seeds", "acc", *ERRORS])

    @functools.cached_property
    def by_class(self) -> pd.DataFrame:
        """One line a class, a column of accuracies for each cell, and what was published."""
        columns = {
            cell: np.mean([_hits(row) for row in rows], axis=0)
            for cell, rows in self.of_role(ENSEMBLE, STUDENT).items()
        }
        owners = [", ".join(self.owners(name)) for name in self.classes]
        theirs = [published("class", [name]) for name in self.classes]
        table = pd.DataFrame({"class": self.classes, "teachers": owners, **columns})
        return table.assign(acc_published=theirs)

    @functools.cached_property
    def scan(self) -> pd.DataFrame:
        """Validation accuracy by alpha and temperature, of each model and method that has more than
        one temperature."""
        keys = ["model", "method", "alpha", "temperature"]
        lines = self.cells[self.cells["alpha"].notna()]
        counts = lines.groupby(keys[:2])["temperature"].transform("nunique")
        return lines.loc[counts > 1, [*keys, "seeds", "val_acc", "acc"]]

    def curves(self, role: str) -> pd.DataFrame:
        """One line a cell of a role, seed and evaluated epoch: the training loss, all its terms
        added, and validation accuracy. Of the students, those of the params' alpha and T."""
        main = {"alpha": self.params.alpha, "temperature": self.params.temperature}
        lines = [
            {"cell": cell, "seed": row["run"]["seed"], "epoch": entry["epoch"]}
            | {"loss": sum(entry["train"].values()), "val_acc": entry.get("val_acc", np.nan)}
            for cell, rows in self.of_role(role).items()
            for row in rows
            if main | row["labels"] == row["labels"] | main
            for entry in row["history"]
        ]
        return pd.DataFrame(lines, columns=["cell", "seed", "epoch", "loss", "val_acc"])

    def owners(self, name: str) -> list[str]:
        """The teachers that know a class."""
        return [teacher for teacher, classes in self.sets.items() if name in classes]

    def _errors(self, rows: Sequence[Row], classes: Sequence[str]) -> dict[str, float]:
        """Of the test images of some classes: the share that is right (acc), wrong but inside the
        classes of a teacher that knows the true one, and wrong beyond them (between)."""
        counts = np.sum([row["confusion"] for row in rows], axis=0)
        akin = np.array([[bool({*self.owners(a)} & {*self.owners(b)}) for b in self.classes]
                         for a in self.classes])  # fmt: skip
        asked = [self.classes.index(name) for name in classes]
        part, akin = counts[asked], akin[asked]
        right, inside = counts[asked, asked].sum(), (part * akin).sum()
        shares = np.array([right, inside - right, part.sum() - inside]) / part.sum()
        return dict(zip(("acc", *ERRORS), shares, strict=True))

    def _size(self, row: Row) -> dict[str, float]:
        ids = row["run"]["teachers"] if row["network"] is None else [row["id"]]
        networks = [one["network"] for one in self.rows if one["id"] in ids]
        sizes = [_network_size(**network) for network in networks]
        return {"parameters": sum(a for a, _ in sizes), "MFLOP": sum(b for _, b in sizes) / 1e6}


@functools.cache
def _network_size(**network: Any) -> tuple[int, int]:
    with torch.device("meta"):
        built = models.build(**network)
    size = network["image_size"]
    return models.num_parameters(built), models.flops(built, (network["in_channels"], size, size))


def cell_label(labels: Mapping[str, Any]) -> str:
    """A cell's name in figures and tables.

    >>> cell_label({"role": "student", "model": "resnet8", "method": "mean", "alpha": 0.5,
    ...             "temperature": 4.0})
    'resnet8 mean, alpha 0.5, T 4'
    """
    if labels["role"] == TEACHER:
        return labels["teacher"]
    if labels["role"] == ENSEMBLE:
        return f"teachers, {labels['method']}"
    if "alpha" not in labels:
        return f"{labels['model']} no KD"
    knobs = f"alpha {labels['alpha']:g}, T {labels['temperature']:g}"
    return f"{labels['model']} {labels['method']}, {knobs}"


def published(role: str, classes: Sequence[str]) -> float:
    """The published accuracy of a teacher or student of these classes, or on one class; NaN where
    there is none."""
    if not PUBLISHED.exists():
        return np.nan
    table = pd.read_csv(PUBLISHED)
    same = table["classes"].map(lambda text: set(text.split()) == set(classes))
    found = table.loc[same & (table["role"] == role), "acc_percent"]
    return found.iloc[0] / 100 if len(found) else np.nan


def _hits(row: Row) -> np.ndarray:
    counts = np.asarray(row["confusion"])
    return counts.diagonal() / counts.sum(axis=1)


def _ids(rows: Sequence[Row]) -> dict[str, str]:
    return {"runs": "; ".join(row["id"] for row in rows)}
