"""Tables and the report of the KD x calibration study, from stored rows only: nothing trains."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kdlib import grid, plots
from kdlib.config import Params
from kdlib.grid import NO_KD
from kdlib.report import page
from kdlib.report.compose import REPORT, Section, notes
from kdlib.report.figures import figures
from kdlib.report.images import batch_ece
from kdlib.report.study import Study
from kdlib.report.text import terminal, title
from kdlib.store import Row


def write(rows: Sequence[Row], params: Params, out_dir: str | Path) -> Path:
    """Write a grid's tables and figures, and its section of the report; the page's path.

    rows: stored rows of students and teachers, of other params too (they are left out). Under
    out_dir, `03_calibration_study/[<setting>/]` gets the tables as CSV files and figures/;
    `report/` gets index.html and summary.txt. The same rows give the same bytes, but for
    timings.csv. What needs predictions is left out, and the page says so, where some are missing.
    ValueError where there is no row of a student of these params.
    """
    out_dir = Path(out_dir)
    study = Study.of(rows, params, out_dir)
    known = notes(study.students + study.teachers)
    section = Section(out_dir, grid.STUDY, params.setting, study.lacking, known)
    section.tables(tables(study) | {"timings": _timings(study, out_dir)})
    drawn = {
        part: [section.figure(name, *found) for name, found in own.items()]
        for part, own in figures(study).items()
    }
    appendix, demo = Section(out_dir, REPORT), batch_ece()
    shown = appendix.figure("batch_ece", page.BATCH, plots.batch_ece(demo, page.BATCH))
    appendix.write(page.BATCH, page.demonstration(demo, shown))
    parts = [*page.section(study, drawn), section.files()]
    head = title(params) + f" ({params.setting})" * bool(params.setting)
    return section.write(head, parts, terminal(study))


def deterministic_tables(
    rows: Sequence[Row], params: Params, out_dir: str | Path
) -> dict[str, pd.DataFrame]:
    """Every table that is a function of the rows (and predictions) alone, by its file's stem."""
    return tables(Study.of(rows, params, out_dir))


def tables(study: Study) -> dict[str, pd.DataFrame]:
    """The same of a study that is at hand."""
    return {
        "cells": study.cells,
        "summary": study.summary,
        "interactions": study.interactions,
        "teachers": study.teacher_cells,
        "posthoc": study.posthoc,
        "controls": study.posthoc[study.posthoc["kd_method"] == NO_KD],
        "contests": study.contests,
        "control_grids": study.control_grids,
        "rank_stability": study.stability,
        "best": study.best,
        "best_certainty": study.certainty,
    }


def _timings(study: Study, out_dir: Path) -> pd.DataFrame:
    """How long each run took; a run whose timing is not there has no line."""
    rows = study.students + study.teachers
    paths = (out_dir / row["folder"] / "timings" / f"{row['id']}.json" for row in rows)
    lines = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    return pd.DataFrame(lines, columns=["id", "seconds", "peak_memory_mb"]).sort_values("id")
