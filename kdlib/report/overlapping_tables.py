"""Tables of the overlapping-teachers study, from stored rows alone."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kdlib import models
from kdlib.config import Run
from kdlib.report import literature
from kdlib.report.tables import METRICS, cell_table, means, missing, paired, present
from kdlib.store import Row
from kdlib.studies import overlapping as study
from kdlib.studies.overlapping import ENSEMBLE, STUDENT, TEACHER, OverlappingTeachers

ERRORS = ("inside", "between")
ALONE, ORACLE, UNTOLD = "no KD", "teachers, oracle", "teachers, label_free"
# What a student is compared with inside each seed: its name, role and method.
AGAINST = {
    ALONE: (STUDENT, "none"), ORACLE: (ENSEMBLE, "oracle"), UNTOLD: (ENSEMBLE, "label_free"),
}  # fmt: skip
CELLS = [
    "cell", *study.LABELS, "seeds", "acc", "acc_ci95", "acc_effect", "acc_effect_ci95", "nll",
    "nll_ci95", "ece", "ece_ci95", "ece_floor", *ERRORS, "val_acc", "parameters",
    "MFLOP", "acc_published", "flags", "runs",
]  # fmt: skip
EFFECTS = ["cell", *study.LABELS, "against", "seeds", *(
    f"{metric}_effect{end}" for metric in METRICS for end in ("", "_ci95")
)]  # fmt: skip


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
        acc_effect: of `effects`, against the student without KD; parameters and MFLOP of one
        forward pass, of all teachers for an ensemble; inside, between: the share of images taken
        for a class that some teacher of the true one knows, and for one that none does."""
        own = self._runs[self._runs["role"] != TEACHER]
        table = cell_table(own, ["cell"], plain=["ece_floor", "val_acc"])
        counted = [
            {"cell": cell} | self._errors(rows, self.classes) | self._size(rows[0])
            for cell, rows in self.of_role(ENSEMBLE, STUDENT).items()
        ]
        counted = pd.DataFrame(counted, columns=["cell", *ERRORS, "parameters", "MFLOP"])
        effects = self.effects[self.effects["against"] == ALONE]
        effects = effects[["cell", "acc_effect", "acc_effect_ci95"]]
        table = self._labels.merge(table, on="cell").merge(counted, on="cell")
        table = table.merge(effects, on="cell", how="left").reindex(columns=CELLS)
        theirs = published("student", self.classes)
        return table.assign(acc_published=table["method"].map({study.PUBLISHED_RULE: theirs}))

    @functools.cached_property
    def _runs(self) -> pd.DataFrame:
        """One line a row: its cell, labels, seed and what it measured."""
        return pd.DataFrame([
            {"id": row["id"], "cell": cell_label(row["labels"]), **_labels(row["labels"])}
            | {"seed": row["run"]["seed"], "flags": row["flags"]}
            | {name: row["metrics"]["test"][name] for name in [*METRICS, "ece_floor"]}
            | {"val_acc": row["metrics"].get("val", {}).get("acc")}
            for row in self.rows
        ]).astype(dict.fromkeys(METRICS, float))  # fmt: skip

    @property
    def _labels(self) -> pd.DataFrame:
        """The labels of each cell, in the order of the runs."""
        return self._runs[["cell", *study.LABELS]].drop_duplicates("cell")

    @functools.cached_property
    def effects(self) -> pd.DataFrame:
        """One line a student and what it is compared with (AGAINST): its metrics minus the other's
        inside each seed, mean over seeds and half-width of the 95 % t interval."""
        table, found = self._runs, []
        for name, (role, method) in AGAINST.items():
            versus = (table["role"] == role) & (table["method"] == method)
            level = table[(table["role"] == STUDENT) & ~versus]
            on = ["model", "seed"] if role == STUDENT else ["seed"]
            found.append(paired(level, table[versus], on).assign(against=name))
        effects = means(pd.concat(found), ["cell", "against"], suffix="_effect")
        return self._labels.merge(effects, on="cell")[EFFECTS]

    @functools.cached_property
    def teachers(self) -> pd.DataFrame:
        """One line a teacher: how it does on the test images of its own classes."""
        table = cell_table(self._runs[self._runs["role"] == TEACHER], ["cell"])
        known = [self.sets[name] for name in table["cell"]]
        sizes = [self._size(rows[0]) for rows in self.of_role(TEACHER).values()]
        table = table.assign(acc_published=[published("teacher", classes) for classes in known])
        table = table.join(pd.DataFrame(sizes)).drop(columns="flags")
        table.insert(1, "classes", [", ".join(classes) for classes in known])
        table["runs"] = table.pop("runs")  # to the end
        return table.rename(columns={"cell": "teacher"})

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
    def owner_confusion(self) -> pd.DataFrame:
        """One line a cell and set of owners, the teachers that know a class: of the images of such
        classes, the share taken for classes of each set of owners; a line sums to 1."""
        teachers = list(self.sets)
        sets = {tuple(map(teachers.index, self.owners(name))) for name in self.classes}
        kinds = [
            " + ".join(teachers[at] for at in one)
            for one in sorted(sets, key=lambda one: (len(one), one))
        ]
        owned = [" + ".join(self.owners(name)) for name in self.classes]
        member = np.array([[kind == one for one in owned] for kind in kinds], dtype=float)
        lines = []
        for cell, rows in self.of_role(ENSEMBLE, STUDENT).items():
            counts = member @ np.sum([row["confusion"] for row in rows], axis=0) @ member.T
            shares = counts / counts.sum(axis=1, keepdims=True)
            for kind, part in zip(kinds, shares, strict=True):
                lines.append(
                    {"cell": cell, "images of": kind} | dict(zip(kinds, part, strict=True))
                )
        return pd.DataFrame(lines, columns=["cell", "images of", *kinds])

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
        """Accuracy on validation (and on test) by alpha and temperature, of each model, method and
        alpha that has more than one temperature; none without validation images. Means over those
        seeds alone that have most cells of the model and method: each seed has a validation split
        of its own."""
        keys = ["model", "method", "alpha", "temperature"]
        lines = pd.DataFrame([
            _labels(row["labels"]) | {"seed": row["run"]["seed"]}
            | {"val_acc": row["metrics"]["val"]["acc"], "acc": row["metrics"]["test"]["acc"]}
            for row in self.rows
            if "alpha" in row["labels"] and "val" in row["metrics"]
        ], columns=[*study.LABELS, "seed", "val_acc", "acc"])  # fmt: skip
        lines = lines[lines.groupby(keys[:3])["temperature"].transform("nunique") > 1]
        cells = lines.groupby([*keys[:2], "seed"])["temperature"].transform("size")
        most = cells.groupby([lines["model"], lines["method"]]).transform("max")
        shared = lines[cells == most].groupby(keys, sort=False)
        means = {
            "seeds": ("seed", "nunique"),
            "val_acc": ("val_acc", "mean"),
            "acc": ("acc", "mean"),
        }
        return shared.agg(**means).reset_index()

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
        if len(networks) < len(ids):  # of an ensemble, some of whose teachers have no row
            return {"parameters": np.nan, "MFLOP": np.nan}
        sizes = [models.size(**network) for network in networks]
        return {"parameters": sum(a for a, _ in sizes), "MFLOP": sum(b for _, b in sizes) / 1e6}


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
        return f"{_student(labels)} no KD"
    knobs = f"alpha {labels['alpha']:g}, T {labels['temperature']:g}"
    rule = "rule as coded" if labels["method"] == "published" else labels["method"]
    return f"{_student(labels)} {rule}, {knobs}"


def _student(labels: Mapping[str, Any]) -> str | None:
    """What a student was before it learnt: its model, and whether its weights were pretrained."""
    return f"{labels['model']} (ImageNet)" if labels.get("pretrained") else labels.get("model")


def published(role: str, classes: Sequence[str]) -> float:
    """The published accuracy of a teacher or student of these classes, or on one class; NaN where
    there is none."""
    table = literature.at_hand("overlapping_teachers")
    if table.empty:
        return np.nan
    same = table["classes"].map(lambda text: set(text.split()) == set(classes))
    found = table.loc[same & (table["role"] == role), "acc_percent"]
    return found.iloc[0] / 100 if len(found) else np.nan


def _labels(labels: Mapping[str, Any]) -> dict[str, Any]:
    return {key: labels.get(key) for key in study.LABELS} | {"model": _student(labels)}


def _hits(row: Row) -> np.ndarray:
    counts = np.asarray(row["confusion"])
    return counts.diagonal() / counts.sum(axis=1)
