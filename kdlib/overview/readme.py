"""The README's generated parts, in Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib import prices
from kdlib.grid import NO_KD
from kdlib.overview.facts import PAGES, Overview, in_hours, in_practice, markdown
from kdlib.report import readable
from kdlib.report.answers import BY_SCALE, DO, answer, effect, headlines, scoreboard
from kdlib.report.claims import FAILS, HOLDS
from kdlib.report.pairs import DIGITS, Entry, pairs, seed_differences
from kdlib.report.tables import over_seeds
from kdlib.studies.published_claims import Comparison

AFTER, CELLS = "docs/before_after.png", "docs/acc_vs_ece.png"  # the README's pictures
LEAD = "cifar_small/03_calibration_study/verdicts"  # whose cells it shows
PICTURE = " ".join(
    """KD x calibration on CIFAR-10-LT without mixup, teachers and students of cross-entropy and
balanced softmax, students without KD: as trained, after one temperature, after a logit adjustment.
Crosses: as published, means of 3 runs at another scale.""".split()
)
TOP = 5


def first_screen(overview: Overview) -> str:
    """The README's answer, in Markdown: a sentence a study and what to do in practice, a table of
    verdicts, a picture."""
    claims, verdicts = overview.claims, overview.verdicts
    board = scoreboard(claims, verdicts)
    board["verdicts differ between scales"] = board[list(BY_SCALE)].sum(axis=1)
    rest = ["verdicts differ between scales"]
    rest += [kind for kind in DO if kind not in (*BY_SCALE, HOLDS, FAILS)]
    others = [kind for kind in rest if board[kind].any()]
    lines = [
        {
            "study": f"[{claims.name(name)}]({PAGES}/{name}.md)"
            if name in claims.studies
            else "all",
            "claims": line["claims"],
            "hold": line[HOLDS],
            "do not hold": line[FAILS],
            "of these, the reverse does": line["reversed"],
        }
        | {kind: line[kind] for kind in others}
        | {
            "of all that hold somewhere, still after a fit": (
                f"{line['still']} of {line['fitted']}" * bool(line["fitted"])
            )
        }
        for name, line in board.to_dict("index").items()
    ]
    told = []
    for study, text in headlines(claims, verdicts).items():
        told.append(f"- {text.replace(claims.name(study), f'**{claims.name(study)}**', 1)}")
        if practice := in_practice(overview, study):
            told.append(f"  - {practice}")
    derived = board.loc["all", "derived"]
    note = (
        f"{answer(claims, verdicts)[0]} {derived} of the claims are no sentence of their source "
        "but our reading of one; the pages mark them."
    )
    picture = f"![Accuracy and ECE of every cell, before and after a fit]({AFTER})\n\n{PICTURE}"
    table = markdown(pd.DataFrame(lines))
    return "\n\n".join(["\n".join(told), table, note, picture]) + "\n"


def runs(overview: Overview) -> str:
    """What was run and what was not, in Markdown."""
    lines = [
        {
            "study": f"[{overview.claims.studies[study].name}]({PAGES}/{study}.md)",
            "runs done (hours of one core, beside other work)": _by_profile(lines, "done", "spent"),
            "not run (hours of a free core)": _by_profile(
                [line for line in lines if not line.profile.startswith(DIGITS)], "missing", "left"
            ),
        }
        for study, lines in overview.ledger.items()
    ]
    return markdown(pd.DataFrame(lines)) + "\n"


def _by_profile(lines: Sequence[prices.Line], count: str, hours: str) -> str:
    """Runs and hours of each profile that has some: "fashion 20 (7.0 h)"."""
    told = []
    for profile in dict.fromkeys(line.profile for line in lines):
        own = [line for line in lines if line.profile == profile]
        runs = sum(getattr(line, count) for line in own)
        unpriced = sum(line.unpriced for line in own) if hours == "left" else 0
        taken = f"{'> ' * bool(unpriced)}{in_hours(sum(getattr(line, hours) for line in own))} h"
        told += [f"{profile} {runs:,} ({'not estimated' if unpriced == runs else taken})"] * bool(
            runs
        )
    return ", ".join(told) or "none"


def cells(overview: Overview, results: Path) -> str:
    """The README's showcase, of the tables of `LEAD`: a picture, the best cells by test Harmonic
    score beside the students of their losses without KD, what each KD method does."""
    profile, folder = LEAD.split("/")[0], results / LEAD
    table, summary = (pd.read_csv(folder / name) for name in ("cells.csv", "summary.csv"))
    top = table.nlargest(TOP, "harmonic")
    controls = table[table["kd_method"] == "none"]
    plain = controls.query("student_loss == 'ce' and not mixup")
    same = controls.merge(top[["student_loss", "mixup"]].drop_duplicates())
    listed = pd.concat([top, same, plain]).drop_duplicates("cell")
    metrics = ["acc", "acc_ci95", "nll", "nll_ci95", "ece", "ece_ci95", "harmonic"]
    shown = readable(listed[["cell", *metrics]])
    own = set("; ".join(table["runs"]).split("; "))
    found = [one for one in overview.found
             if one.facts["profile"] == profile and one.row["id"] in own]  # fmt: skip
    gains = [_gain(found, cell) for cell in listed.to_dict("records")]
    shown.insert(2, "against no KD, same loss", gains)
    effects = summary[summary["factor"] == "kd_method"].dropna(subset="acc_effect")
    shifts = readable(effects[["acc_effect", "acc_effect_ci95"]]).iloc[:, 0]
    told = ", ".join(
        f"{level.upper()} {shift}" for level, shift in zip(effects["level"], shifts, strict=True)
    )
    seeds = int(plain["seeds"].iloc[0])
    caption = (
        f"The {TOP} highest Harmonic scores (on test, so descriptive), and students without KD; "
        f"{seeds} seeds, mean ± half of the 95 % t interval. T: the teacher's loss, S: the "
        "student's; Harmonic: of accuracy and 1 - ECE, each scaled to 0..1 over the grid:"
    )
    return "\n\n".join([
        f"![Accuracy and ECE of every cell]({CELLS})", caption, markdown(shown),
        f"Accuracy against the students without a teacher: {told} points.",
    ]) + "\n"  # fmt: skip


def _gain(found: Sequence[Entry], cell: Mapping[str, Any]) -> str:
    """A cell's accuracy against the student of its loss without KD, inside each seed, in points."""
    if cell["kd_method"] == NO_KD:
        return ""
    axes = ("kd_method", "teacher_loss", "student_loss", "mixup")
    comparison = Comparison(
        notebook="02_students", profiles=("any",), metric="acc", side="higher",
        level={key: cell[key] for key in axes},
        versus={key: cell[key] for key in axes} | {"kd_method": NO_KD, "teacher_loss": NO_KD},
    )  # fmt: skip
    by_seed = seed_differences(pairs(found, comparison), "acc").by_seed
    mean, half, _ = over_seeds(by_seed)
    return effect({"metric": "acc", "effect": mean, "effect_ci95": half})
