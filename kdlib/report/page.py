"""The KD x calibration study's section of the page: what is said of a grid, in which order."""

from collections.abc import Mapping, Sequence

import pandas as pd

from kdlib.cautions import HIGH_SHARE, LOW_SHARE
from kdlib.grid import NO_KD
from kdlib.report import html
from kdlib.report.study import Study
from kdlib.report.tables import CELL, published
from kdlib.report.text import DIGITS, answer, best, flagged, resolution, seeds_note
from kdlib.store import Row

QUESTION = """Which KD method, teacher loss, student loss and mixup give accuracy and
calibration under class imbalance? A cell is one choice of the four; the controls are the same
students without a teacher (no KD)."""
READING = """ACC is the share of correct test images. ECE (15 equal-width bins, all test images) is
the gap between confidence and accuracy; its floor is what a perfectly calibrated network would
show on as many images. Harmonic is the harmonic mean of ACC and 1 - ECE, each scaled to [0, 1] over
the cells with KD of one grid: it does not compare between grids. KD share is the gradient of the KD
term over that of the label loss, both weighted. All numbers are of the last epoch, but for those
of the selected one, which validation chose. An effect is the mean difference of pairs of runs that
are equal in everything else, inside each seed. ALS, label-aware smoothing, comes from the second
stage of its own recipe and is used end to end here."""
AFTER = """The plain student has no KD, cross-entropy and no mixup. T (and tau) are fitted on
validation by the NLL with classes weighted alike: softmax(z / T - tau log prior). An optimistic
bound is fitted on images that a long-tailed set would not have; tau = 1 (Menon et al. 2021) fits
nothing and applies to students without KD whose loss does not hold the prior. A cell is better
where both metrics are, on average over pairs of one seed; clearly so where both 95 % intervals over
seeds lie beyond 0. Where validation is small, a fit can end at its bound, and a label can be left
without any probability (NLL inf): such an adjustment is no rival. The best of many cells is
chosen by test here, so it is optimistic; the median is not."""
NLL_EFFECT = ["nll_effect", "nll_effect_ci95"]  # the CSV has them
INTERACTIONS = "Two-way interactions: how much a level changes the effect of another"
STABILITY = "How often a cell is in the top 5 by Harmonic when the test images are redrawn"
GRIDS = "Cells of the main grid and what changes with one choice; a weight is judged on validation"
NO_CONTEST = "The plain student or its adjustments are missing: nothing to beat."
BEST = "The cell that validation chooses, with the 95 % range of its rank on test"
BATCH = "What averaging the ECE over batches does to a perfectly calibrated predictor"
DEMO = """Labels are drawn from the predicted probabilities of 10,000 images and 10 classes, so the
true calibration error is 0. What is left is noise of the bins, which the floor estimates; a mean
over batches of 128 keeps the noise of a batch however many batches there are."""
Figures = Mapping[str, Sequence[str]]  # part of the section (`kdlib.report.figures`) -> HTML
CONTROLS = "Students without KD before and after adjustment; T and tau: medians over seeds"
CONTESTS = "Cells against the plain student after adjustment: cell - plain, paired inside seeds"
FLAGGED = f"Flagged runs: KD share below {LOW_SHARE:g} or above {HIGH_SHARE:g}, or no label loss"


def section(study: Study, drawn: Figures) -> list[str]:
    """The parts of a grid's section. drawn: the figures there are."""
    note = seeds_note(study.seeds)
    whole = ["No run of the grid is missing."] * (not study.lacking)
    facts = [best(study), *_scale(study), *whole, resolution(study)]
    return [
        html.note(QUESTION),
        html.items(answer(study), "answer"),
        html.items(facts),
        html.folded("How it is measured", html.note(READING)),
        *_effects(study, drawn, note),
        *_cells(study, drawn, note),
        *_posthoc(study, drawn),
        html.heading("Networks"),
        *_unread(study),
        *drawn["networks"],
        *_controls(study, note),
        *_runs(study, note),
        html.heading("Origin"),
        html.items(
            f"{name}. {html.made_with(part)}"
            for name, part in (("Students", study.students), ("Teachers", study.teachers))
            if part
        ),
    ]


def demonstration(table: pd.DataFrame, figure: str) -> list[str]:
    """Why no ECE here is a mean over batches. table: of `kdlib.report.batch_ece`."""
    return [html.note(DEMO), html.table(table), figure]


def _effects(study: Study, drawn: Figures, note: str) -> list[str]:
    effects, interactions = (
        table.drop(columns=NLL_EFFECT, errors="ignore")
        for table in (study.summary, study.interactions)
    )
    return [
        html.heading("Effects of the factors"),
        *drawn["effects"],
        html.table(effects, f"Means and paired effects of each factor; {note}"),
        html.folded(f"{INTERACTIONS}; {note}", html.table(interactions)),
    ]


def _cells(study: Study, drawn: Figures, note: str) -> list[str]:
    top = f"Top {len(study.top)}, descriptive, by test Harmonic; {note}"
    return [
        html.heading("Cells"),
        html.table(_best(study), f"{BEST}; {note}") if len(study.best) else "",
        html.table(_narrow(study.top), top) if len(study.top) > 1 else "",
        *drawn["cells"],
        html.folded(STABILITY, html.table(study.stability)),
    ]


def _best(study: Study) -> pd.DataFrame:
    sure = study.certainty.drop(columns="cell", errors="ignore")
    return _narrow(study.best).join(sure)


def _posthoc(study: Study, drawn: Figures) -> list[str]:
    """The post-hoc answer: the students without KD before and after, and the contests."""
    parts = [html.heading("After training")]
    if study.contests.empty:
        parts.append(html.note(NO_CONTEST))
    else:
        contests = study.contests.drop(columns="seeds")
        bound = contests["against plain with"].str.contains("bound")
        controls = _narrow(study.posthoc[study.posthoc["kd_method"] == NO_KD])
        parts += [html.note(AFTER), html.table(contests[~bound], CONTESTS)]
        parts.append(
            html.folded("The same against the optimistic bounds", html.table(contests[bound]))
        )
        parts.append(html.folded(CONTROLS, html.table(controls)))
    return [*parts, *drawn["after"]]


def _controls(study: Study, note: str) -> list[str]:
    if not study.params.controls:
        return []
    table = _narrow(study.control_grids)
    return [html.heading("Control grids"), html.table(table, f"{GRIDS}; {note}")]


def _runs(study: Study, note: str) -> list[str]:
    """Every cell with links to its rows, the teachers, and what was flagged."""
    settings = study.params
    both = published(study.cells, settings.data, settings.imbalance_factor)
    none = f" (none for {settings.data})" * bool(both["acc_published"].isna().all())
    every = f"Every cell and control, beside the published numbers{none}; {note}"
    folders = {row["id"]: row["folder"] for row in study.students + study.teachers}
    return [
        html.heading("All runs"),
        html.folded(every, html.table(both, folders=folders)),
        html.folded(f"Teachers; {note}", html.table(study.teacher_cells, folders=folders)),
        html.folded(FLAGGED, html.table(flagged(study.students))),
    ]


def _unread(study: Study) -> list[str]:
    """Which figures and tables lack predictions, if any."""
    rows = study.students + study.teachers
    lacking = study.unread(row["id"] for row in rows)
    if not lacking:
        return []
    return [
        html.note(
            f"Predictions of {len(lacking)} of {len(rows)} runs are not stored here, so what is "
            "drawn from them (rank stability, reliability, risk and coverage) is left out or "
            "covers the others."
        )
    ]


def _narrow(cells: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that a cell's name repeats, and without ids."""
    return cells.drop(columns=[*CELL, "runs"], errors="ignore")


def _scale(study: Study) -> list[str]:
    """How large the study is and what it was measured on."""
    n, test = len(study.params.seeds), study.students[0]["data"]["test_counts"]
    runs = (
        f"n = {n} seed{'s' * (n > 1)}: {len(study.students)} students in {len(study.cells)} cells "
        f"and {len(study.teachers)} teachers, measured on {sum(test)} test images."
    )
    return [runs, *_data_facts(study.students), *[DIGITS] * (study.params.data == "digits")]


def _data_facts(rows: Sequence[Row]) -> list[str]:
    """The data as really used: one sentence for each selection with other counts."""
    facts = []
    for row in rows:
        parts = [row["run"]["data"] + ":"]
        for name, key in (("training", "class_counts"), ("validation", "val_counts")):
            counts = row["data"][key]
            parts.append(f"{sum(counts)} {name} images, by class {', '.join(map(str, counts))};")
        facts.append(" ".join(parts).removesuffix(";") + ".")
    return list(dict.fromkeys(facts))
