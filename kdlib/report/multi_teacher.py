"""Tables and the report of the multi-teacher study, from stored rows only: nothing trains."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdlib import models
from kdlib.config import Run
from kdlib.plots import multi_teacher
from kdlib.report import html
from kdlib.report import multi_teacher_text as words
from kdlib.report.compose import Section
from kdlib.report.tables import missing, over_seeds, present
from kdlib.store import Row
from kdlib.studies.multi_teacher import CONTROL, STEM, MultiTeacher, runs
from kdlib.verify import mixtures

Tables = Mapping[str, pd.DataFrame]
TEST = ["acc", "nll", "ece"]  # with intervals
FIDELITY = ["mean_individual", "centroid_probs", "centroid_logits", "agreement"]  # with intervals
PLAIN = ["ece_floor", "acc_selected", "kd_share_first", "kd_share_last"]
METHOD = "method_"  # of the figures of one method
PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "multi_teacher.csv"
TEACHER_NUMBERS = [*TEST, "ece_floor", "val_nll", "diversity"]


def whole(params: MultiTeacher) -> bool:
    """Whether the params ask for teachers and students, as a job of a batch does not."""
    return {"teacher", "student"} <= set(params.roles)


def runs_of(params: MultiTeacher, role: str) -> list[Run]:
    """The params' runs of teachers or of students."""
    return runs(params.model_copy(update={"roles": (role,)}))


def students(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a student's run, with all its numbers; NaN where its row is missing."""
    found = {row["id"]: row for row in rows}
    lines = [
        {"id": run.id, **run.labels, "seed": run.seed} | _numbers(found.get(run.id), run)
        for run in runs_of(params, "student")
    ]
    return pd.DataFrame(lines)


def _numbers(row: Row | None, run: Run) -> dict[str, Any]:
    if row is None:
        missing = dict.fromkeys([*TEST, *FIDELITY, *PLAIN], np.nan)
        return missing | {"teacher_views": None, "flags": [f"no row of seed {run.seed}"]}
    test, share = row["metrics"]["test"], row["kd_share"]
    numbers = {name: test[name] for name in (*TEST, "ece_floor")}
    numbers["acc_selected"] = row["metrics"].get("selected", test)["acc"]
    numbers |= {f"kd_share_{moment}": share.get(moment, np.nan) for moment in ("first", "last")}
    found = row["metrics"].get("fidelity", dict.fromkeys(FIDELITY, np.nan))  # one teacher has none
    numbers |= {name: np.mean(found[name]) for name in FIDELITY}
    return numbers | {"teacher_views": row["teacher_views"], "flags": row["flags"]}


def cells(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a student's cell (student x method x lambda): means over seeds with half-widths of
    95 % t intervals, fidelity on test at temperature 4, the published accuracy beside it."""
    table = students(rows, params)
    if table.empty:
        return table
    lines = []
    for key, group in table.groupby(_cell(table), sort=False):
        line = dict(zip(_cell(table), key, strict=True)) | {"seeds": int(group["acc"].count())}
        line |= _means(group, [*TEST, *FIDELITY]) | group[PLAIN].mean().to_dict()
        line["teacher_views"] = "; ".join(group["teacher_views"].dropna().unique())
        line["flags"] = "; ".join(dict.fromkeys(group["flags"].explode().dropna()))
        lines.append(line | {"runs": "; ".join(group["id"])})
    return _beside_published(pd.DataFrame(lines), params)


def _cell(table: pd.DataFrame) -> list[str]:
    return [name for name in ("student", "method", "lambda") if name in table]


def _means(group: pd.DataFrame, names: Sequence[str], suffix: str = "") -> dict[str, float]:
    line = {}
    for name in names:
        line[name + suffix], line[f"{name}{suffix}_ci95"], _ = over_seeds(group[name])
    return line


def effects(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """Each cell minus the student without teachers (in a sweep: lambda 0), inside each seed."""
    table = students(rows, params)
    if table.empty:
        return table
    alone = table["lambda"] == 0 if "lambda" in table else table["method"] == CONTROL
    names, lines = [*TEST, "mean_individual", "centroid_probs", "centroid_logits"], []
    pairs = table[~alone].merge(table[alone], on=["student", "seed"], suffixes=("", "_alone"))
    for name in names:
        pairs[name] -= pairs[f"{name}_alone"]
    for key, group in pairs.groupby(_cell(table), sort=False):
        line = dict(zip(_cell(table), key, strict=True))
        line["seeds"] = int(group["acc"].count())
        lines.append(line | _means(group, names, "_effect"))
    return pd.DataFrame(lines)


def teachers(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a teacher, then their ensembles by what is averaged, on test: means over seeds.

    diversity: KL(teacher || mean of the teachers' probabilities) at temperature 4.
    """
    own = present(rows, runs_of(params, "teacher"))
    together = _of_teachers(rows, params)
    lines = []
    for place, model in enumerate(params.teacher_models):
        of_model = [row for row in own if row["run"]["model"] == model]
        if not of_model:
            continue
        line = {"teacher": model, "seeds": len(of_model)} | _cost(of_model[0])
        values = pd.DataFrame(
            row["metrics"]["test"] | {"val_nll": row["metrics"].get("val", {}).get("nll", np.nan)}
            for row in of_model
        )
        values["diversity"] = pd.Series([found["diversity"][place] for found in together])
        lines.append(line | _means(values, TEACHER_NUMBERS))
    lines += _ensembles(together, lines, len(params.teacher_models))
    table = pd.DataFrame(lines)
    if table.empty:
        return table
    theirs = published(params, "teachers", "test_acc_best", "subject")
    theirs |= published(params, "teachers", "test_acc_best_inferred", "subject")
    return table.assign(acc_published=table["teacher"].map(theirs) / 100)


def _ensembles(
    together: Sequence[dict[str, Any]], lines: Sequence[dict[str, Any]], count: int
) -> list[dict[str, Any]]:
    """A line for each way of averaging the teachers; it costs what theirs, `lines`, do together."""
    found = []
    for pool in ("probs", "logits") if together else ():
        line = {"teacher": f"ensemble of {pool}", "seeds": len(together)}
        if len(lines) == count:
            line |= {name: sum(one[name] for one in lines) for name in ("parameters", "MFLOP")}
        values = pd.DataFrame(one["ensemble"][pool] for one in together)
        found.append(line | _means(values, [*TEST, "ece_floor"]))
    return found


def _cost(row: Row) -> dict[str, float]:
    """Parameters, and a million floating-point operations of one forward of one image."""
    network = models.build(**row["network"])
    shape = (row["network"]["in_channels"], *[row["network"]["image_size"]] * 2)
    flops = models.flops(network, shape)
    return {"parameters": models.num_parameters(network), "MFLOP": flops / 1e6}


def _of_teachers(rows: Sequence[Row], params: MultiTeacher) -> list[dict[str, Any]]:
    """What a seed's students all say of their teachers, one a seed, in the order of the seeds."""
    own = present(rows, runs_of(params, "student"))
    by_seed = {row["run"]["seed"]: row["metrics"].get("teachers") for row in own[::-1]}
    return [by_seed[seed] for seed in params.seeds if by_seed.get(seed)]


def pairs(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a pair of teachers: KL in both directions and Jensen-Shannon, seed means on test."""
    found, names = _of_teachers(rows, params), params.teacher_models
    if not found:
        return pd.DataFrame()
    kl, js = (np.mean([one[name] for one in found], axis=0) for name in ("kl", "jensen_shannon"))
    theirs = published(params, "teachers", "pairwise_KL_T4", "subject")
    order = [f"teacher_{name}" for name in ("cnn1", "cnn2", "resnet", "vgg", "densenet")]
    lines = []
    for i, j in zip(*np.triu_indices(len(names), 1), strict=True):
        line = {"teacher": names[i], "other": names[j], "kl": kl[i, j], "kl_back": kl[j, i]}
        line["jensen_shannon"] = js[i, j]
        key = "_".join(f"T{order.index(name)}" for name in (names[i], names[j]) if name in order)
        lines.append(line | {"kl_published": theirs.get(key, np.nan)})
    return pd.DataFrame(lines)


def by_teacher(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a student's cell and teacher: individual fidelity and agreement on test, and what
    the teacher counted in the first and the last epoch where it was weighted; seed means."""
    lines = []
    for row in present(rows, runs_of(params, "student")):
        for place, teacher in enumerate(params.teacher_models):
            line = row["labels"] | {"teacher": teacher}
            if found := row["metrics"].get("fidelity"):
                line["individual"] = found["individual"][place]
                line["agreement"] = found["agreement"][place]
            for term in ("multi_kd", "hints"):
                for moment, entry in (("first", 0), ("last", -1)):
                    noted = row["history"][entry].get("notes", {}).get(term)
                    if noted:
                        line[f"{term}_{moment}"] = noted["teacher_weights"][place]
            lines.append(line)
    table = pd.DataFrame(lines)
    if table.empty:
        return table
    return table.groupby([*_cell(table), "teacher"], sort=False).mean().reset_index()


def epochs(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a student's run and evaluated epoch: validation accuracy and NLL, the training loss
    on the labels, fidelity to the pools and to each teacher, the teachers' weights."""
    lines = []
    for row in present(rows, runs_of(params, "student")):
        for entry in row["history"]:
            line = row["labels"] | {"seed": row["run"]["seed"], "epoch": entry["epoch"]}
            line |= {name: entry[name] for name in ("val_acc", "val_nll") if name in entry}
            line["label_loss"] = entry["train"]["label"] / row["weights"]["label"]
            for name, value in entry.get("fidelity", {}).items():
                line |= _spread(name, value, params)
            for term, noted in entry.get("notes", {}).items():
                line |= _spread(f"weight_{term}", noted["teacher_weights"], params)
            lines.append(line)
    return pd.DataFrame(lines)


def _spread(name: str, value: float | list[float], params: MultiTeacher) -> dict[str, float]:
    """A number under its name, one value a teacher under `name_teacher`."""
    if not isinstance(value, list):
        return {name: value}
    return {f"{name}_{one}": v for one, v in zip(params.teacher_models, value, strict=True)}


def published(
    params: MultiTeacher, experiment: str, metric: str, by: str, student: str = ""
) -> dict[Any, float]:
    """The published values of a metric by one of the columns; nothing for other data than theirs,
    or where the table, a file of the repository, is not at hand."""
    if params.data != "fashion_mnist" or not PUBLISHED.exists():
        return {}
    table = pd.read_csv(PUBLISHED)
    table = table[(table["experiment"] == experiment) & (table["metric"] == metric)]
    table = table[table["student"] == student] if student else table
    return dict(zip(table[by], table["value"], strict=True))


def _beside_published(table: pd.DataFrame, params: MultiTeacher) -> pd.DataFrame:
    """The cells with what was published of them: single runs of 20 epochs with 5 teachers."""
    if len(params.teacher_models) != 5:
        return table
    sweep = "lambda" in table
    experiment, metric = ("exp3", "test_acc_final") if sweep else ("4methods", "test_acc_final")
    columns = {"acc_published": metric}
    columns["centroid_logits_published" if sweep else "centroid_probs_published"] = (
        "F_cent" if sweep else "centroid_fidelity_final"
    )
    for column, name in columns.items():
        values = {
            (student, key): value
            for student in params.student_models
            for key, value in published(
                params, experiment, name, "lambda" if sweep else "method", student
            ).items()
        }
        keys = zip(table["student"], table["lambda" if sweep else "method"], strict=True)
        scale = 100 if column.startswith("acc") else 1
        table[column] = [values.get(key, np.nan) / scale for key in keys]
    return table


def deterministic_tables(
    rows: Sequence[Row], params: MultiTeacher, out_dir: str | Path = ""
) -> dict[str, pd.DataFrame]:
    """Every table that is a function of the rows alone, by its file's stem. ValueError where there
    is no row of a student of these params."""
    if not present(rows, runs_of(params, "student")):
        raise ValueError(f"no row of a student of {STEM}/{params.setting}")
    makers: dict[str, Callable] = {
        "cells": cells, "effects": effects, "teachers": teachers, "pairs": pairs,
        "by_teacher": by_teacher, "epochs": epochs,
    }  # fmt: skip
    return {name: make(rows, params) for name, make in makers.items()}


def figures(tables: Tables, params: MultiTeacher, chance: float) -> dict[str, tuple[str, Figure]]:
    """What the tables allow to draw: file name -> caption and figure. chance: of an agreement."""
    name, drawn, cells = words.title(params), {}, tables["cells"]
    if "lambda" in cells:
        figure = multi_teacher.lambda_sweep(cells, name)
        drawn["lambda_sweep"] = "Over the teachers' weight lambda, a symlog axis", figure
    figure = multi_teacher.fidelity_vs_generalisation(cells, f"Does following help? {name}")
    drawn["fidelity_vs_generalisation"] = "Accuracy and NLL over fidelity, a point a cell", figure
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
    section = Section(Path(out_dir), STEM, params.setting, lacking, mixtures(own))
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
        *(shown for name, shown in drawn.items() if name not in methods),
        html.folded("Method by method", *(drawn[name] for name in methods)) if methods else "",
        html.heading("Teachers"),
        html.table(tables["teachers"], words.TEACHERS),
        html.folded("Pairs of teachers", html.table(tables["pairs"], words.PAIRS)),
        html.folded("Students and teachers", html.table(tables["by_teacher"], words.WEIGHTS)),
        html.items([html.made_with(own)]),
        section.files(),
    ]
    return section.write(words.title(params), parts, words.summary(tables, params))
