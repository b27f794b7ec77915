"""The report of the overlapping-teachers study, from stored rows; nothing trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdlib import seeding
from kdlib.pipeline import Lab
from kdlib.plots import overlapping as plots
from kdlib.report import html
from kdlib.report.compose import Section
from kdlib.report.images import predictions
from kdlib.report.overlapping_tables import Overlap, cell_label, published
from kdlib.report.text import DIGITS, readable, seeds_note
from kdlib.store import Row
from kdlib.studies import overlapping as study
from kdlib.studies.overlapping import ENSEMBLE, RESTRICTED, STUDENT, OverlappingTeachers

__all__ = [
    "Overlap",
    "cell_label",
    "deterministic_tables",
    "headline",
    "published",
    "samples",
    "write",
]

SHOWN = 10  # sample images
QUESTION = (
    "Several teachers, each trained on some of the classes; one student that learns all of them. "
    "Rules that read labels ask the teachers that know the true class; the others ask all of them. "
    "restricted_kd matches each teacher by the student's distribution among that teacher's classes "
    "(cf. Vongkulbhisal et al., CVPR 2019) and so asserts nothing about classes a teacher has not "
    "seen. With alpha 1 and a rule without labels no label is read in training."
)
COLUMNS = [
    "cell", "seeds", "acc", "acc_ci95", "acc_effect", "acc_effect_ci95", "nll", "nll_ci95", "ece",
    "ece_ci95", "ece_floor", "inside", "between", "parameters", "MFLOP", "acc_published", "flags",
    "runs",
]  # fmt: skip


def write(rows: Sequence[Row], params: OverlappingTeachers, out_dir: str | Path) -> Path:
    """Write a task's tables, figures and its section of the report; the page's path.

    rows: stored rows, of other params too (they are left out). The sample images and nothing else
    need predictions and data; where these are not at hand the page says so. ValueError where there
    is no row of these params.
    """
    found = Overlap.of(rows, params)
    section = Section(Path(out_dir), study.STEM, params.setting)
    section.tables(deterministic_tables(rows, params, out_dir))
    drawn = {name: section.figure(name, *one) for name, one in _figures(found).items()}
    row = headline(found)
    try:
        images = samples(row, params, Lab.of(params, out_dir))
        title = f"Test images and what {row['id']} takes them for"
        drawn["samples"] = section.figure("samples", title, plots.samples(images, title))
    except (OSError, LookupError) as error:
        drawn["samples"] = html.note(f"No sample images: {error}")
    return section.write(_title(params), [*_parts(found, drawn), section.files()], _terminal(found))


def deterministic_tables(
    rows: Sequence[Row], params: OverlappingTeachers, out_dir: str | Path
) -> dict[str, pd.DataFrame]:
    """Every table, a function of the rows alone, by its file's stem."""
    found = Overlap.of(rows, params)
    return {
        "cells": found.cells, "teachers": found.teachers, "groups": found.groups,
        "classes": found.by_class, "alpha_temperature": found.scan,
    }  # fmt: skip


def samples(row: Row, params: OverlappingTeachers, lab: Lab) -> list[dict[str, Any]]:
    """SHOWN test images, drawn with a fixed seed and sorted by class, with what a run takes each
    for: the image itself, `true`, `predicted`, `teachers` that know the true class.

    FileNotFoundError where the run's predictions are not at hand, and what `kdlib.data.load` raises
    where its data are not.
    """
    (run,) = (run for run in study.runs(params) if run.id == row["id"])
    found = predictions([row], lab.store.root).get(run.id)
    if found is None:
        raise FileNotFoundError(f"the predictions of {run.id} are not here")
    record = lab.record(run)
    drawn = seeding.numpy_generator(0, "samples").permutation(len(record.test_labels))[:SHOWN]
    places = sorted(drawn.tolist(), key=lambda place: (record.test_labels[place], place))
    sets = study.class_sets(params)
    shown = []
    for place in places:
        true = record.classes[record.test_labels[place]]
        taken = record.classes[int(np.argmax(found["test_logits"][place]))]
        owners = ", ".join(teacher for teacher, known in sets.items() if true in known)
        image = record.test_images[place]
        shown.append({"image": image, "true": true, "predicted": taken, "teachers": owners})
    return shown


def headline(found: Overlap) -> Row:
    """Whose confusions and images are shown: the label-free headline, else the last student, else
    the last run."""
    students = [row for row in found.rows if row["labels"]["role"] == STUDENT]
    first = [row for row in students if row["labels"]["method"] == RESTRICTED]
    return (first[:1] or students[-1:] or found.rows[-1:])[0]


def _figures(found: Overlap) -> dict[str, tuple[str, Figure]]:
    """File name -> caption and figure."""
    sets, row = found.sets, headline(found)
    title = "Who knows which class"
    drawn = {"responsibility": (title, plots.responsibility(sets, found.classes, title))}
    for role, name in ((study.TEACHER, "teacher_curves"), (STUDENT, "learning_curves")):
        curves = found.curves(role)
        if len(curves):
            title = f"{role}s over epochs, means of seeds; accuracy on validation"
            drawn[name] = (title, plots.learning_curves(curves, title))
    title = f"Confusions of {row['id']} on test"
    drawn["confusion"] = (title, plots.confusion(row["confusion"], row["classes"], sets, title))
    for (model, method), part in found.scan.groupby(["model", "method"], sort=False):
        seeds = int(part["seeds"].min())
        title = f"{model} {method} on validation, at least {seeds} seed(s) a cell"
        drawn[f"alpha_temperature_{model}_{method}"] = (title, plots.heatmap(part, title))
    return drawn


def _title(params: OverlappingTeachers) -> str:
    return f"Teachers with overlapping class sets on {params.data}: {', '.join(params.teachers)}"


def _parts(found: Overlap, drawn: dict[str, str]) -> list[str]:
    folders = {row["id"]: row["folder"] for row in found.rows}
    note = seeds_note(max(found.cells["seeds"], default=1))
    scan = "".join(part for name, part in drawn.items() if name.startswith("alpha_temperature"))
    return [
        html.note(QUESTION),
        html.items(answer(found), "answer"),
        html.items([DIGITS] * (found.params.data == "digits") + _lacking(found)),
        drawn["responsibility"],
        html.heading("Teachers"),
        html.table(found.teachers, f"On the test images of their own classes; {note}", folders),
        drawn.get("teacher_curves", ""),
        html.heading("Students and ensembles of the teachers"),
        html.table(
            found.cells[COLUMNS],
            f"On test, all classes; {note}. The effect is against the student without KD of the "
            "same model, inside each seed. inside: errors among the classes of a teacher that "
            "knows the true one; between: errors beyond them. FLOPs of one forward pass, two a "
            "multiply-add.",
            folders,
        ),
        drawn.get("learning_curves", ""),
        html.heading("By teacher and class"),
        html.table(found.groups, "On the test images of each teacher's classes"),
        html.folded("Every class", html.table(_percent(found.by_class), "ACC %, means of seeds")),
        drawn["confusion"],
        drawn["samples"],
        *([html.heading("Alpha and temperature")] if scan else []),
        scan,
        html.items([html.made_with(found.rows)]),
    ]


def _percent(table: pd.DataFrame) -> pd.DataFrame:
    numbers = table.select_dtypes("number").columns
    shown = table.assign(**{name: (100 * table[name]).map("{:.1f}".format) for name in numbers})
    kept = table["acc_published"].notna().any()
    shown = shown.rename(columns={"acc_published": "published"})
    return shown if kept else shown.drop(columns="published")


def answer(found: Overlap) -> list[str]:
    """What was found, in sentences: every number of a main cell stands in them or in `cells`."""
    cells = found.cells
    shown = readable(cells)
    effects, texts = cells["acc_effect"].notna(), []
    if effects.any():
        best = cells.loc[effects, "val_acc"].fillna(0).idxmax()
        texts.append(
            f"Of the students with teachers, validation prefers {cells['cell'][best]}: "
            f"{shown['ACC %'][best]} % on test, {shown['ACC effect, points'][best]} points "
            "against the student without KD."
        )
    for alpha, text in ((1.0, "Without any label"), (found.params.alpha, "Beside the labels")):
        own = effects & (cells["method"] == RESTRICTED) & (cells["alpha"] == alpha)
        for at in cells.index[own]:
            texts.append(
                f"{text}, {cells['cell'][at]} reaches {shown['ACC %'][at]} % "
                f"({shown['ACC effect, points'][at]} points)."
            )
    pooled = cells.index[cells["role"] == ENSEMBLE]
    if len(pooled):
        values = ", ".join(f"{shown['method'][at]} {shown['ACC %'][at]} %" for at in pooled)
        texts.append(f"The teachers themselves, by who is asked: {values}.")
    note = seeds_note(max(cells["seeds"], default=1)).split(":")[0]
    return [*texts, f"{note[0].upper()}{note[1:]}."]


def _lacking(found: Overlap) -> list[str]:
    if not found.lacking:
        return []
    return [f"{len(found.lacking)} runs are missing, {found.lacking[0]} the first of them."]


def _terminal(found: Overlap) -> str:
    table = readable(found.cells[["cell", "seeds", "acc", "acc_ci95", "ece", "ece_ci95"]])
    lines = [_title(found.params), *answer(found), table.to_string(index=False), *_lacking(found)]
    return "\n".join(lines) + "\n"
