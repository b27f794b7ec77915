"""Tables and the report of the multi-teacher study, from stored rows only: nothing trains."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from kdlib.files import write_atomic
from kdlib.plots import multi_teacher
from kdlib.report import html
from kdlib.report import multi_teacher_text as words
from kdlib.report.compose import Section, notes
from kdlib.report.multi_teacher_tables import (
    TOGETHER,
    architectures,
    by_teacher,
    cells,
    contrasts,
    effects,
    epochs,
    networks,
    owners,
    pairs,
    published,
    students,
    teachers,
    timed,
)
from kdlib.report.tables import csv, missing, present
from kdlib.store import Row
from kdlib.studies.multi_teacher import STEM, MultiTeacher, runs, student_runs

Tables = Mapping[str, pd.DataFrame]
METHOD = "method_"  # of the figures of one method
LATENCY = "latency.csv"

__all__ = [
    "METHOD",
    "TOGETHER",
    "architectures",
    "cells",
    "deterministic_tables",
    "figures",
    "has_latency",
    "pairs",
    "published",
    "students",
    "teachers",
    "write",
    "write_latency",
]


def deterministic_tables(
    rows: Sequence[Row], params: MultiTeacher, out_dir: str | Path = ""
) -> dict[str, pd.DataFrame]:
    """Every table that is a function of the rows alone, by its file's stem. ValueError where there
    is no row of a student of these params."""
    if not present(rows, student_runs(params)):
        raise ValueError(f"no row of a student of {STEM}/{params.setting}")
    makers: dict[str, Callable] = {
        "cells": cells, "effects": effects, "contrasts": contrasts, "teachers": teachers,
        "pairs": pairs, "by_teacher": by_teacher, "networks": networks, "epochs": epochs,
    }  # fmt: skip
    return {name: make(rows, params) for name, make in makers.items()}


def figures(tables: Tables, params: MultiTeacher, chance: float) -> dict[str, tuple[str, Figure]]:
    """What the tables allow to draw: file name -> caption and figure. chance: of an agreement."""
    name, drawn, cells = words.title(params), {}, tables["cells"]
    asked, two = f"Does following help? {name}", "lambda" in cells and cells["lambda"].nunique() < 3
    if "lambda" in cells and not two:
        figure = multi_teacher.lambda_sweep(cells, name)
        drawn["lambda_sweep"] = "Over the teachers' weight lambda, a symlog axis", figure
    if not two:  # of two lambdas the effects say all
        figure = multi_teacher.fidelity_vs_generalisation(cells, tables["teachers"], asked)
        drawn["fidelity_vs_generalisation"] = words.FOLLOWING, figure
    if len(tables["effects"]) and (two or len(params.seeds) > 1):  # one seed has no intervals
        figure = multi_teacher.effects(tables["effects"], cells, asked)
        drawn["effects"] = words.EFFECTS, figure
    if "lambda" in cells or "centroid_probs" not in tables["epochs"]:
        return drawn
    for student, table in tables["epochs"].groupby("student", sort=False):
        head, own = f"{student}, {name}", (params.teacher_models, chance)
        figure = multi_teacher.comparison(tables, student, *own, head)
        drawn[f"comparison_{student}"] = f"{student}: the methods side by side", figure
        for method, part in table.groupby("method", sort=False):
            figure = multi_teacher.method_panels(part, *own, f"{method}, {head}")
            drawn[f"{METHOD}{student}_{method}"] = f"{student}, {method}: over the epochs", figure
    return drawn


def write(rows: Sequence[Row], params: MultiTeacher, out_dir: str | Path) -> Path:
    """Write the study's tables, figures and its section of the report; the page's path.

    rows: stored rows, of other params too (they are left out). ValueError where there is no row of
    a student of these params.
    """
    tables = deterministic_tables(rows, params, out_dir)
    own, lacking = present(rows, runs(params)), missing(rows, runs(params))
    section = Section(Path(out_dir), STEM, params.setting, lacking, notes(own))
    section.tables(tables)
    chance = 1 / len(own[0]["classes"])
    drawn = {
        name: section.figure(name, caption, figure)
        for name, (caption, figure) in figures(tables, params, chance).items()
    }
    methods = [name for name in drawn if name.startswith(METHOD)]
    folders = {row["id"]: row["folder"] for row in own}
    parts = [
        html.note(words.QUESTION),
        html.items(words.answer(tables, params), "answer"),
        html.items(words.facts(params, tables)),
        html.heading("Students"),
        html.table(tables["cells"], words.caption(params), folders),
        html.folded("Effects", html.table(tables["effects"], words.EFFECTS)),
        html.table(tables["contrasts"], words.CONTRASTS) if len(tables["contrasts"]) else "",
        *(shown for name, shown in drawn.items() if name not in methods),
        html.folded("Method by method", *(drawn[name] for name in methods)) if methods else "",
        html.heading("Teachers"),
        html.table(tables["teachers"], words.TEACHERS),
        html.table(
            timed(tables["networks"], _latency(rows, params, out_dir), params), words.NETWORKS
        ),
        html.folded("Pairs of teachers", html.table(tables["pairs"], words.PAIRS)),
        html.folded("Students and teachers", html.table(tables["by_teacher"], words.WEIGHTS)),
        html.items([html.made_with(own)]),
        section.files(),
    ]
    return section.write(words.title(params), parts, words.summary(tables, params))


def has_latency(rows: Sequence[Row], params: MultiTeacher, out_dir: str | Path) -> bool:
    """Whether `write_latency` has stored the time of all networks."""
    return set(_latency(rows, params, out_dir)["network"]) >= set(owners(rows, params))


def write_latency(
    found: Mapping[str, Mapping[int, float]],
    rows: Sequence[Row],
    params: MultiTeacher,
    out_dir: str | Path,
) -> None:
    """Store the milliseconds of a forward by network and batch size (`kdlib.train.latency_ms`), as
    latency.csv: a timing, outside every comparison of results. rows: who has the networks."""
    of = owners(rows, params)
    lines = (
        {"run": of[name]["id"], "network": name}
        | {f"latency_{size}": value for size, value in times.items()}
        for name, times in found.items()
    )
    write_atomic(_latency_file(params, out_dir), csv(pd.DataFrame(lines)))


def _latency(rows: Sequence[Row], params: MultiTeacher, out_dir: str | Path) -> pd.DataFrame:
    """What `write_latency` stored of these networks, as they are in these params."""
    path = _latency_file(params, out_dir)
    table = pd.read_csv(path) if path.exists() else pd.DataFrame()
    if "run" not in table:
        return pd.DataFrame(columns=["network"])
    known = [row["id"] for row in owners(rows, params).values()]
    return table[table["run"].isin(known)].drop(columns="run")


def _latency_file(params: MultiTeacher, out_dir: str | Path) -> Path:
    return Section(Path(out_dir), STEM, params.setting).folder / LATENCY
