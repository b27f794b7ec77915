"""Which figures a grid's rows and predictions allow to draw."""

import pandas as pd

from kdlib import metrics, plots
from kdlib.grid import NO_KD
from kdlib.metrics import ReliabilityBins
from kdlib.report.images import TOP
from kdlib.report.posthoc import ADJUSTMENTS
from kdlib.report.study import Study
from kdlib.report.tables import REFERENCE, cell_label, published, teacher_student_means
from kdlib.report.text import title
from kdlib.store import Row

Figures = dict[str, tuple]


def figures(study: Study) -> dict[str, Figures]:
    """What the rows allow to draw: part of the page -> file name -> caption and figure."""
    return {
        "effects": _effects(study),
        "cells": _of_cells(study),
        "after": _after(study),
        "networks": _of_images(study) | _of_networks(study),
    }


def _effects(study: Study) -> Figures:
    if study.summary["acc_effect"].isna().all():
        return {}
    figure = plots.effects(study.summary, f"Paired effects, {title(study.params)}")
    return {"effects": ("Paired effects of each factor on accuracy and ECE", figure)}


def _of_cells(study: Study) -> Figures:
    drawn, name = {}, title(study.params)
    ranked = study.cells["harmonic"].notna().sum() > TOP  # else a rank says nothing
    if len(study.top):
        figure = plots.acc_vs_ece(study.cells, name)
        caption = (
            "Every cell: accuracy and ECE, means over seeds; bars are 95 % intervals of the "
            "students without KD and of the top cells, which are chosen on test"
        )
        drawn["acc_vs_ece"] = caption, figure
    if ranked:
        figure = plots.harmonic_heatmap(study.cells, name)
        drawn["harmonic"] = (
            "Harmonic score by teacher and student loss: 0 is worst of this grid in accuracy or in "
            "ECE, 1 best in both, so it compares with no other grid",
            figure,
        )
    means = teacher_student_means(study.cells)
    if len(means):
        figure = plots.teacher_student_means(means, f"{name}: means over KD methods")
        drawn["teacher_student_means"] = "Every teacher and student, means over KD methods", figure
    if ranked and len(study.stability):
        figure = plots.rank_stability(study.stability, f"Rank stability, {name}")
        drawn["rank_stability"] = "How often a cell is among the top 5", figure
    return drawn


def _after(study: Study) -> Figures:
    names = [ADJUSTMENTS[kind][0] for kind in ("test", "temperature", "logit_adjustment")]
    if not set(names) <= set(study.posthoc["adjustment"]):
        return {}
    theirs = published(study.cells, study.params.data, study.params.imbalance_factor)
    figure = plots.before_after(study.posthoc, names, title(study.params), theirs)
    return {"before_after": (_before_after(theirs), figure)}


def _before_after(theirs: pd.DataFrame) -> str:
    """The caption of that figure. theirs: of `published`."""
    caption = (
        "Every cell as trained, after one temperature, and after a logit adjustment, fitted on "
        "validation: what is left of the losses once the class prior is corrected for all"
    )
    if theirs["ece_published"].isna().all():
        return caption
    return (
        f"{caption}; the crosses are published, means of 3 runs, and their ECE is a mean over "
        "mini-batches of 128, which lies above that of all test images: compare the accuracies"
    )


def _of_networks(study: Study) -> Figures:
    drawn, name = {}, title(study.params)
    if any("acc_few" in row["metrics"]["test"] for row in study.students):
        figure = plots.class_frequency(study.students, f"By class frequency, {name}")
        drawn["class_frequency"] = (
            "Accuracy by class frequency and student loss; a dot is a run of any KD method, its "
            "shape the teacher's loss, a bar their median",
            figure,
        )
    if study.controls:
        drawn["learning_curves"] = (
            "Learning curves of the students without KD, means over seeds in the band of their "
            "range: has training levelled off?",
            plots.learning_curves(study.controls, "student_loss", "mixup", f"No KD, {name}"),
        )
    return drawn


def _of_images(study: Study) -> Figures:
    networks = {name: row for name, row in showcase(study).items() if row["id"] in study.found}
    if not networks:
        return {}
    seed = next(iter(networks.values()))["run"]["seed"]
    head = f"seed {seed}, {title(study.params)}"
    panels = {name: _reliability(study, row) for name, row in networks.items()}
    curves = {}
    for name, row in networks.items():
        stored = study.found[row["id"]]
        probs = metrics.softmax(stored["test_logits"])
        curves[name] = metrics.risk_coverage(probs, stored["test_labels"])
    return {
        "reliability": (
            "Reliability: accuracy against confidence, before and after one temperature",
            plots.reliability(panels, f"Reliability, {head}"),
        ),
        "risk_coverage": (
            "Risk and coverage: errors among the most confident images",
            plots.risk_coverage(curves, f"Risk and coverage, {head}"),
        ),
    }


def showcase(study: Study) -> dict[str, Row]:
    """The plain student, the plain teacher and the top cell's student, of one seed."""
    plain = REFERENCE | {"teacher_loss": NO_KD}
    wanted = {"plain student": plain, "plain teacher": {"teacher_loss": "ce", "mixup": False}}
    found = {
        name: row
        for name, labels in wanted.items()
        for row in (study.teachers if "kd_method" not in labels else study.students)[::-1]
        if labels.items() <= row["labels"].items()
    }
    for run in study.top["runs"].iloc[:1]:
        row = next(row for row in study.students if row["id"] == run.split("; ")[0])
        found[f"top cell: {cell_label(row['labels'])}"] = row
    return found


def _reliability(study: Study, row: Row) -> dict[str, ReliabilityBins]:
    stored, fitted = study.found[row["id"]], row["metrics"].get("temperature")
    lines = {"as trained": 1.0}
    if fitted:
        lines[f"T = {fitted['T']:.2g}{', at its bound' * fitted['at_bound']}"] = fitted["T"]
    return {
        label: metrics.reliability_bins(
            metrics.softmax(stored["test_logits"], temperature), stored["test_labels"]
        )
        for label, temperature in lines.items()
    }
