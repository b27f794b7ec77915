"""Tables and the report of each study, from stored rows only: nothing trains.

What stands here is the KD x calibration study's; the others' are modules of their own. Each has
`write(rows, params, out_dir)` and `deterministic_tables(rows, params, out_dir)`.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from kdlib.config import StudyParams
from kdlib.registry import STUDIES
from kdlib.report.effects import summary
from kdlib.report.images import batch_ece
from kdlib.report.kd_calibration import write
from kdlib.report.study import Study
from kdlib.report.tables import cells, csv, published, teacher_student_means
from kdlib.report.text import readable, title
from kdlib.store import Row

__all__ = [
    "Study",
    "batch_ece",
    "cells",
    "differing_tables",
    "of",
    "published",
    "readable",
    "summary",
    "teacher_student_means",
    "title",
    "write",
]


def of(stem: str) -> ModuleType | None:
    """The module that writes a notebook's section, by the notebook's stem; None where it has
    none."""
    section = STUDIES[stem].facts.section
    return import_module(f"kdlib.report.{section}") if section else None


def differing_tables(
    stem: str, rows: Sequence[Row], params: StudyParams, out_dir: str | Path
) -> list[str]:
    """The files of a section's tables that are not what the rows give, or are not there; a table
    that cannot be made from what is here (rank stability without predictions) is not judged."""
    folder = Path(out_dir) / stem / params.setting
    made = of(stem).deterministic_tables(rows, params, out_dir)
    files = {folder / f"{name}.csv": csv(table) for name, table in made.items() if len(table)}
    return [
        str(path)
        for path, content in files.items()
        if not path.exists() or path.read_bytes() != content
    ]
