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
from kdlib.report import overlapping_text as text
from kdlib.report.compose import Section, notes
from kdlib.report.images import predictions
from kdlib.report.overlapping_tables import Overlap, cell_label, published
from kdlib.report.overlapping_text import answer
from kdlib.report.text import DIGITS, number, seeds_note
from kdlib.store import Row
from kdlib.studies import overlapping as study
from kdlib.studies.overlapping import RESTRICTED, STUDENT, OverlappingTeachers

__all__ = [
    "Overlap",
    "answer",
    "cell_label",
    "deterministic_tables",
    "headline",
    "published",
    "samples",
    "write",
]

SHOWN = 10  # sample images
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
    own = (found.lacking, notes(found.rows))
    section = Section(Path(out_dir), study.STEM, params.setting, *own)
    section.tables(deterministic_tables(rows, params, out_dir))
    drawn = {name: section.figure(name, *one) for name, one in _figures(found).items()}
    row = headline(found)
    try:
        images = samples(row, params, Lab.of(params, out_dir))
        right = sum(one["true"] == one["predicted"] for one in images)
        title = (
            f"{len(images)} test images drawn at random, {right} of them right; all: "
            f"{100 * row['metrics']['test']['acc']:.1f} % ({row['id']})"
        )
        drawn["samples"] = section.figure("samples", title, plots.samples(images, title))
    except (OSError, LookupError) as error:
        drawn["samples"] = html.note(f"No sample images: {error}")
    return section.write(
        text.title(params), [*_parts(found, drawn), section.files()], text.terminal(found)
    )


def deterministic_tables(
    rows: Sequence[Row], params: OverlappingTeachers, out_dir: str | Path
) -> dict[str, pd.DataFrame]:
    """Every table, a function of the rows alone, by its file's stem."""
    found = Overlap.of(rows, params)
    return {
        "cells": found.cells, "teachers": found.teachers, "groups": found.groups,
        "classes": found.by_class, "effects": found.effects,
        "owner_confusion": found.owner_confusion, "alpha_temperature": found.scan,
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
    same = [one for one in found.rows if one["labels"] == row["labels"]]
    counts = np.sum([one["confusion"] for one in same], axis=0)
    seeds = "1 seed" if len(same) == 1 else f"{len(same)} seeds together"
    title = f"Confusions of {cell_label(row['labels'])} on test, {seeds}"
    drawn["confusion"] = (title, plots.confusion(counts, row["classes"], sets, title))
    for (model, method), part in found.scan.groupby(["model", "method"], sort=False):
        seeds = int(part["seeds"].max())
        title = f"{model} {method}, {f'mean of {seeds} seeds' if seeds > 1 else '1 seed'}"
        if part["alpha"].nunique() < 2 or part["temperature"].nunique() < 2:
            continue  # no map
        figure = plots.heatmap(part, title, study.PUBLISHED_BEST)
        name = f"alpha_temperature_{model}_{method}".replace(" (ImageNet)", "_imagenet")
        drawn[name] = (f"Validation accuracy, {title}", figure)
    return drawn


def _parts(found: Overlap, drawn: dict[str, str]) -> list[str]:
    folders = {row["id"]: row["folder"] for row in found.rows}
    note = seeds_note(max(found.cells["seeds"], default=1))
    scan = "".join(part for name, part in drawn.items() if name.startswith("alpha_temperature"))
    return [
        html.note(text.QUESTION),
        html.items(answer(found), "answer"),
        html.items(
            [DIGITS] * (found.params.data == "digits") + text.leaks(found) + [text.SAME_START]
        ),
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
        html.table(
            found.effects,
            "Each student minus what it is compared with, inside each seed; a negative effect on "
            "NLL or ECE is an improvement",
        ),
        drawn.get("learning_curves", ""),
        html.heading("By teacher and class"),
        html.table(found.groups, "On the test images of each teacher's classes"),
        html.folded("Every class", html.table(_percent(found.by_class), "ACC %, means of seeds")),
        html.folded(
            "Confusion between groups of classes",
            html.table(
                _percent(found.owner_confusion),
                "Classes grouped by the teachers that know them: of the images of a group, the % "
                "taken for classes of each group, right ones included; all seeds together",
            ),
        ),
        drawn["confusion"],
        drawn["samples"],
        *([html.heading("Alpha and temperature")] if scan else []),
        scan,
        html.items([html.made_with(found.rows)]),
    ]


def _percent(table: pd.DataFrame) -> pd.DataFrame:
    numbers = table.select_dtypes("number").columns
    shown = table.assign(**{
        name: [number(value, np.nan, 100, 1, False) for value in table[name]] for name in numbers
    })  # fmt: skip
    shown = shown.rename(columns={"acc_published": "published"})
    kept = "published" in shown and table["acc_published"].notna().any()
    return shown if kept else shown.drop(columns="published", errors="ignore")
