"""Tables of the multi-teacher study: students, effects, contrasts, teachers, networks, epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from kdlib import models
from kdlib.config import Run
from kdlib.report import literature
from kdlib.report.tables import cell_table, means, paired, present
from kdlib.store import Row
from kdlib.studies.multi_teacher import CONTROL, MultiTeacher, student_runs, teacher_runs

TEST = ["acc", "nll", "ece"]  # with intervals
FIDELITY = ["mean_individual", "centroid_probs", "centroid_logits", "agreement"]  # with intervals
SCALED = ["nll_after", "ece_after"]  # one temperature, fitted on validation; with intervals
EFFECTS = [*TEST, *SCALED, *FIDELITY[:3]]
PLAIN = ["ece_floor", "acc_selected", "val_acc", "kd_share_first", "kd_share_last"]
TEACHER_NUMBERS = [*TEST, "ece_floor", "val_nll", "diversity"]
PUBLISHED_SWEEP = "exp3", {
    "acc": "test_acc_final", "nll": "R_S", "mean_individual": "F_avg", "centroid_logits": "F_cent",
}  # fmt: skip
PUBLISHED_METHODS = "4methods", {
    "acc": "test_acc_final", "nll": "test_loss_final", "agreement": "top1_agreement_mean_final",
    "mean_individual": "individual_fidelity_mean_final",
    "centroid_probs": "centroid_fidelity_final",
}  # fmt: skip
WEIGHTED = {"multi_kd": "multi_kd", "hints": "hints", "pooled_hints": "hints"}  # term: its column
ENSEMBLE = "ensemble of {}"  # in the table of teachers, by what is averaged
TOGETHER = "the teachers together"  # in the table of networks
# Two methods that differ in one thing, where there is such a pair, and the thing.
CONTRASTS = (
    ("camkd", "centroid", "hints and their weights"),
    ("camkd_equal", "centroid", "hints, weighted alike"),
    ("camkd", "camkd_equal", "the weights of the hints"),
    ("camkd", "camkd_hints", "KD from the mean of the logits"),
    ("camkd_pooled", "camkd", "maps no larger than the student's"),
    ("centroid", "best", "the mean of the logits, not the best teacher of a batch"),
    ("centroid", "median", "the mean of the logits, not the median teacher of a batch"),
    ("centroid_probs", "centroid", "the mean of probabilities, not of logits"),
    ("val_confident", "confident", "confidence on validation, not on the training batch"),
    ("ca_mkd", "ca_mkd_logits", "the paper's hints"),
    ("ca_mkd", "camkd", "the paper's method, not the study's"),
)


def students(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a student's run, with all its numbers; NaN where its row is missing."""
    found = {row["id"]: row for row in rows}
    lines = [
        {"id": run.id, **run.labels, "seed": run.seed} | _numbers(found.get(run.id), run)
        for run in student_runs(params)
    ]
    return pd.DataFrame(lines)


def _numbers(row: Row | None, run: Run) -> dict[str, Any]:
    if row is None:
        missing = dict.fromkeys([*TEST, *SCALED, *FIDELITY, *PLAIN], np.nan)
        return missing | {"teacher_views": None, "flags": [f"no row of seed {run.seed}"]}
    test, share = row["metrics"]["test"], row["kd_share"]
    numbers = {name: test[name] for name in (*TEST, "ece_floor")}
    scaled = row["metrics"].get("temperature", {})
    numbers |= {name: scaled.get(name.removesuffix("_after"), np.nan) for name in SCALED}
    numbers["acc_selected"] = row["metrics"].get("selected", test)["acc"]
    numbers["val_acc"] = row["metrics"].get("val", {}).get("acc", np.nan)
    numbers |= {f"kd_share_{moment}": share.get(moment, np.nan) for moment in ("first", "last")}
    found = row["metrics"].get("fidelity", dict.fromkeys(FIDELITY, np.nan))  # one teacher has none
    numbers |= {name: np.mean(found[name]) for name in FIDELITY}
    return numbers | {"teacher_views": row["teacher_views"], "flags": row["flags"]}


def cells(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a student's cell (student x method x lambda): means over seeds with half-widths of
    95 % t intervals, NLL and ECE also after one temperature, fidelity on test at temperature 4, the
    published accuracy beside it."""
    table = students(rows, params)
    if table.empty:
        return table
    by = _cell(table)
    averages = cell_table(table, by, [*TEST, *SCALED, *FIDELITY], PLAIN)
    views = table.groupby(by, sort=False)["teacher_views"].agg(
        lambda names: "; ".join(names.dropna().unique())
    )
    averages.insert(averages.columns.get_loc("flags"), "teacher_views", views.to_numpy())
    return _beside_published(averages, params)


def _cell(table: pd.DataFrame) -> list[str]:
    return [name for name in ("student", "method", "lambda") if name in table]


def effects(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """Each cell minus the student without teachers (in a sweep: lambda 0), inside each seed."""
    table = students(rows, params)
    if table.empty:
        return table
    alone = table["lambda"] == 0 if "lambda" in table else table["method"] == CONTROL
    on = ["student", "seed"] + ["method"] * ("lambda" in table)
    gaps = paired(table[~alone], table[alone], on, EFFECTS)
    return means(gaps, _cell(table), EFFECTS, "_effect")


def contrasts(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """What one part of a method does: the pairs of `CONTRASTS`, inside each seed."""
    table, found = students(rows, params), []
    if table.empty or "lambda" in table:
        return pd.DataFrame()
    for method, versus, what in CONTRASTS:
        one, other = table[table["method"] == method], table[table["method"] == versus]
        gaps = paired(one, other, ["student", "seed"], EFFECTS)
        found.append(gaps.assign(versus=versus, what=what))
    return means(pd.concat(found), ["student", "method", "versus", "what"], EFFECTS, "_effect")


def teachers(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a teacher, then their ensembles by what is averaged, on test: means over seeds.

    diversity: KL(teacher || mean of the teachers' probabilities) at temperature 4.
    """
    own, together = present(rows, teacher_runs(params)), _of_teachers(rows, params)
    spread = {seed: one["diversity"] for seed, one in together.items()}
    unknown = [np.nan] * len(params.teacher_models)
    lines = [
        {"teacher": model, **row["metrics"]["test"]}
        | {"val_nll": row["metrics"].get("val", {}).get("nll", np.nan)}
        | {"diversity": spread.get(row["run"]["seed"], unknown)[place]}
        for place, model in enumerate(params.teacher_models)
        for row in own
        if row["run"]["model"] == model
    ]
    lines += [
        {"teacher": ENSEMBLE.format(pool), **one["ensemble"][pool]}
        for pool in ("probs", "logits")
        for one in together.values()
    ]
    table = pd.DataFrame(lines)
    if table.empty:
        return table
    table = table.reindex(columns=["teacher", *TEACHER_NUMBERS])  # rows may be of students alone
    table = means(table, ["teacher"], TEACHER_NUMBERS)
    theirs = published(params, "teachers", "test_acc_best", "subject")
    theirs |= published(params, "teachers", "test_acc_best_inferred", "subject")
    spread = published(params, "teachers", "teacher_diversity_T4", "subject")
    table["acc_published"] = table["teacher"].map(theirs) / 100
    return table.assign(diversity_published=table["teacher"].map(spread))


def architectures(rows: Sequence[Row], params: MultiTeacher) -> dict[str, nn.Module]:
    """The networks of the study by name, teachers first, with weights of no training."""
    return {name: models.build(**row["network"]) for name, row in owners(rows, params).items()}


def owners(rows: Sequence[Row], params: MultiTeacher) -> dict[str, Row]:
    """Of each network of the study, teachers first, the row of the first run that has it."""
    found: dict[str, Row] = {}
    for row in present(rows, _every(params)):
        found.setdefault(row["run"]["model"], row)
    wanted = dict.fromkeys([*params.teacher_models, *params.student_models])
    return {name: found[name] for name in wanted if name in found}


def networks(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a network, and one of the teachers together, which an ensemble needs: parameters,
    and a million floating-point operations of one forward of one image."""
    lines = []
    for name, row in owners(rows, params).items():
        parameters, flops = models.size(**row["network"])
        lines.append({"network": name, "parameters": parameters, "MFLOP": flops / 1e6})
    return _together(pd.DataFrame(lines), params)


def timed(table: pd.DataFrame, latency: pd.DataFrame, params: MultiTeacher) -> pd.DataFrame:
    """`networks` with the milliseconds of one forward, where they were measured: `latency` has a
    line a network."""
    latency = _together(latency, params) if len(latency) else pd.DataFrame(columns=["network"])
    return table.merge(latency, on="network", how="left")


def _together(table: pd.DataFrame, params: MultiTeacher) -> pd.DataFrame:
    """A table of networks with a line more after the teachers': their sum, where all are there."""
    teachers = table[table["network"].isin(params.teacher_models)]
    if len(teachers) < len(params.teacher_models):
        return table
    numbers = teachers.columns.drop("network")
    whole = {"network": TOGETHER} | {name: teachers[name].sum() for name in numbers}
    rest = table.drop(teachers.index)
    return pd.concat([teachers, pd.DataFrame([whole]), rest], ignore_index=True)


def _every(params: MultiTeacher) -> list[Run]:
    return teacher_runs(params) + student_runs(params)


def _of_teachers(rows: Sequence[Row], params: MultiTeacher) -> dict[int, dict[str, Any]]:
    """Seed -> what its students all say of their teachers, in the order of the seeds; a seed
    without a student is left out."""
    own = present(rows, student_runs(params))
    said = {row["run"]["seed"]: row["metrics"].get("teachers") for row in own[::-1]}
    return {seed: said[seed] for seed in params.seeds if said.get(seed)}


def pairs(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a pair of teachers: KL in both directions and Jensen-Shannon, seed means on test."""
    found, names = list(_of_teachers(rows, params).values()), params.teacher_models
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
    for row in present(rows, student_runs(params)):
        for place, teacher in enumerate(params.teacher_models):
            line = row["labels"] | {"teacher": teacher}
            if found := row["metrics"].get("fidelity"):
                line["individual"] = found["individual"][place]
                line["agreement"] = found["agreement"][place]
            for moment, entry in (("first", 0), ("last", -1)):
                for column, weights in _weights(row["history"][entry]).items():
                    line[f"{column}_{moment}"] = weights[place]
            lines.append(line)
    table = pd.DataFrame(lines)
    if table.empty:
        return table
    table = table.groupby([*_cell(table), "teacher"], sort=False).mean().reset_index()
    if len(params.teacher_models) == 5 and "lambda" not in table:
        experiment, key = PUBLISHED_METHODS[0], ["student", "method", "subject"]
        theirs = published(params, experiment, "individual_fidelity_final", *key)
        cells = table[["student", "method", "teacher"]].itertuples(index=False, name=None)
        table["individual_published"] = [theirs.get(cell, np.nan) for cell in cells]
    return table


def epochs(rows: Sequence[Row], params: MultiTeacher) -> pd.DataFrame:
    """One line a student's run and evaluated epoch: validation accuracy and NLL, the training loss
    on the labels, fidelity to the pools and to each teacher, the teachers' weights."""
    lines = []
    for row in present(rows, student_runs(params)):
        for entry in row["history"]:
            line = row["labels"] | {"seed": row["run"]["seed"], "epoch": entry["epoch"]}
            line |= {name: entry[name] for name in ("val_acc", "val_nll") if name in entry}
            line["label_loss"] = entry["train"]["label"] / row["weights"]["label"]
            for name, value in entry.get("fidelity", {}).items():
                line |= _spread(name, value, params)
            for column, weights in _weights(entry).items():
                line |= _spread(f"weight_{column}", weights, params)
            lines.append(line)
    return pd.DataFrame(lines)


def _weights(entry: Mapping[str, Any]) -> dict[str, list[float]]:
    """What the teachers counted in an epoch, by term; a term may note other things, too."""
    return {
        WEIGHTED.get(term, term): noted["teacher_weights"]
        for term, noted in entry.get("notes", {}).items()
        if "teacher_weights" in noted
    }


def _spread(name: str, value: float | list[float], params: MultiTeacher) -> dict[str, float]:
    """A number under its name, one value a teacher under `name_teacher`."""
    if not isinstance(value, list):
        return {name: value}
    return {f"{name}_{one}": v for one, v in zip(params.teacher_models, value, strict=True)}


def published(params: MultiTeacher, experiment: str, metric: str, *by: str) -> dict[Any, float]:
    """The published values of a metric by one of the columns, or by several (tuples); nothing for
    other data than theirs, or where the table, a file of the repository, is not at hand."""
    table = literature.at_hand("multi_teacher")
    if params.data != "fashion_mnist" or table.empty:
        return {}
    table = table[(table["experiment"] == experiment) & (table["metric"] == metric)]
    return table.set_index(list(by))["value"].to_dict()


def _beside_published(table: pd.DataFrame, params: MultiTeacher) -> pd.DataFrame:
    """The cells with what was published of them: single runs of 20 epochs with 5 teachers."""
    if len(params.teacher_models) != 5:
        return table
    sweep = "lambda" in table
    experiment, columns = PUBLISHED_SWEEP if sweep else PUBLISHED_METHODS
    key = ["student", "lambda" if sweep else "method"]
    cells = list(table[key].itertuples(index=False, name=None))
    for column, metric in columns.items():
        theirs = published(params, experiment, metric, *key)
        scale = 100 if column in ("acc", "agreement") else 1
        table[f"{column}_published"] = [theirs.get(cell, np.nan) / scale for cell in cells]
    return table
