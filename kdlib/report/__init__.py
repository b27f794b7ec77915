"""Tables and the report of the KD x calibration study, from stored rows only: nothing trains."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from filelock import FileLock

from kdlib import grid, plots
from kdlib.config import Params
from kdlib.report import page
from kdlib.report.tables import Study, cells, csv, published, summary, teacher_student_means
from kdlib.report.text import readable, terminal, title
from kdlib.store import Row, write_atomic

__all__ = [
    "cells",
    "published",
    "readable",
    "summary",
    "teacher_student_means",
    "title",
    "write",
]

# What each grid leaves, what it becomes part of, and how.
PARTS = (("summary.txt", "summary.txt", "\n".join), ("section.html", "index.html", page.page))


def write(rows: Sequence[Row], params: Params, out_dir: str | Path) -> Path:
    """Write a grid's tables and figures, and the report of all grids there are; the page's path.

    rows: stored rows of students and teachers, of other params too (they are left out). Under
    out_dir, `03_calibration_study/[<setting>/]` gets cells.csv, summary.csv, teachers.csv,
    timings.csv and figures/; `report/` gets index.html and summary.txt. The same rows give the same
    bytes, but for timings.csv. ValueError where there is no row of a student of these params.
    """
    out_dir, study = Path(out_dir), Study.of(rows, params)
    folder = out_dir / grid.STUDY / params.setting
    tables = {
        "cells": study.cells,
        "summary": study.summary,
        "teachers": study.teacher_cells,
        "timings": _timings(study, out_dir),
    }
    for name, table in tables.items():
        write_atomic(folder / f"{name}.csv", csv(table))
    images = {
        caption: plots.save(figure, folder / "figures", name)
        for name, (caption, figure) in _figures(study).items()
    }
    write_atomic(folder / "summary.txt", terminal(study).encode())
    write_atomic(folder / "section.html", page.section(study, images, list(tables)).encode())
    return _compose(out_dir)


def _timings(study: Study, out_dir: Path) -> pd.DataFrame:
    """How long each run took; a run whose timing is not there has no line."""
    rows = study.students + study.teachers
    paths = (out_dir / row["folder"] / "timings" / f"{row['id']}.json" for row in rows)
    lines = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    return pd.DataFrame(lines, columns=["id", "seconds", "peak_memory_mb"]).sort_values("id")


def _figures(study: Study) -> dict[str, tuple]:
    """What the rows allow to draw: file name -> caption and figure."""
    drawn, name = {}, title(study.params)
    means = teacher_student_means(study.cells)
    if len(study.top):
        drawn["acc_vs_ece"] = (
            "Every cell: accuracy and ECE",
            plots.acc_vs_ece(study.cells, name),
        )
    if len(means):
        drawn["teacher_student_means"] = (
            "Every teacher and student, means over the KD methods",
            plots.teacher_student_means(means, f"{name}: means over KD methods"),
        )
    if study.controls:
        drawn["learning_curves"] = (
            "Learning curves of the students without KD: has training levelled off?",
            plots.learning_curves(study.controls, "student_loss", "mixup", "students without KD"),
        )
    return drawn


def _compose(out_dir: Path) -> Path:
    """Join the sections of all grids; with one writer at a time, the last has read them all."""
    report = out_dir / "report"
    report.mkdir(parents=True, exist_ok=True)
    with FileLock(report / ".lock"):
        for part, whole, join in PARTS:
            paths = sorted((out_dir / grid.STUDY).rglob(part))
            parts = [path.read_text(encoding="utf-8") for path in paths]
            write_atomic(report / whole, join(parts).encode())
    return report / "index.html"
