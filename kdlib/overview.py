"""The README's first screen and a page of results a study, from rows, timings and params alone.

`scripts/showcase.py` writes them; a test holds that they are what the committed rows give.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kdlib import prices
from kdlib.grid import NO_KD, STUDY
from kdlib.plan import ROOT, Plan, plan, profiles
from kdlib.plots.claims import forest
from kdlib.registry import STUDIES
from kdlib.report import audit, practice, readable, training_length
from kdlib.report.answers import answer, effect
from kdlib.report.claims import FAILS, HOLDS, ILLUSTRATION, NOT_RUN, UNDECIDED
from kdlib.report.controls import control_grids
from kdlib.report.demonstrations import DEMONSTRATIONS
from kdlib.report.pairs import DIGITS, Entry, entries, pairs, seed_differences, with_rows
from kdlib.report.tables import over_seeds, present
from kdlib.studies.published_claims import Claims, Comparison, load_claims

PAGES, AUDIT = "docs/results", "audit.md"
CLAIMS, CELLS = "docs/claims.png", "docs/acc_vs_ece.png"  # the README's pictures
SHOWCASE = "digits5"  # whose cells the README shows
TOP = 5
KNOBS = ("acc", "ece", "val_acc")
HALVES = tuple(f"{name}_ci95" for name in KNOBS)
PRICED = """Spent: hours that passed while a job of one core made the runs, beside other work on the
machine. To go: hours of a free core, from a few steps of each kind of run
([prices.json](prices.json) names the machine); `./run_all.sh PROFILE --dry-run` measures yours."""
DETAILS = """Where it would hold, from what level, what stands beside it (the claim's third level
against the same), settings, seeds, p of the t test against the margin, p after Holm, mistakes that
the published numbers went through, source"""
WRITTEN = "Written by `python scripts/showcase.py` from the committed rows; change nothing here."


@dataclass(frozen=True)
class Overview:
    """What there is to tell of: the claims, every stored run, the profiles that ask for runs."""

    claims: Claims
    found: Sequence[Entry]
    plans: Sequence[Plan]

    @classmethod
    def of(cls, results: Path = ROOT / "results") -> "Overview":
        """Of the profiles that have rows under `results`, but for `digits`, which is never
        committed, and of those that judge claims."""
        claims = load_claims()
        there = [folder for folder in with_rows(results) if folder.name != DIGITS]
        judges = [name for claim in claims.claims for name in claim.judged_by.profiles]
        asked = dict.fromkeys([*judges, *(path.name for path in there)])
        known = [name for name in asked if name in profiles()]
        return cls(
            claims,
            entries({one.name: one for one in there}),
            [plan(name, results / name) for name in known],
        )

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """Of every claim, at every scale."""
        return audit.deterministic_tables(self.claims, self.found)["verdicts"]

    @cached_property
    def ledger(self) -> dict[str, list[prices.Line]]:
        """Of each study: what was run, what was not, and what it took and would take."""
        seconds = prices.stored()
        stems = {
            study: tuple(name for name in STUDIES.names() if STUDIES[name].facts["study"] == study)
            for study in self.claims.studies
        }
        return {
            study: [line for one in self.plans for line in prices.ledger(one, own, seconds)]
            for study, own in stems.items()
        }

    def figure(self) -> Figure:
        """The effects of the claims that have a verdict, ours and published; digits alone where
        there is none."""
        measured = self.verdicts.dropna(subset="effect")
        judged = measured[measured["verdict"].isin([HOLDS, FAILS, UNDECIDED])]
        if len(judged):
            title, shown = "What was claimed, and what our runs say", judged
        else:
            title, shown = "What was claimed, on digits: an illustration, no verdict", measured
        return forest(audit.forest_lines(self.claims, shown), title)


def first_screen(overview: Overview) -> str:
    """The README's answer, in Markdown."""
    claims = overview.claims
    total, *by_study = answer(claims, overview.verdicts, lambda study: study.headline)
    told = zip(map(claims.name, claims.studies), by_study, strict=True)
    bold = (text.replace(name, f"**{name}**", 1) for name, text in told)
    sentences = "\n".join(f"{at}. {text}" for at, text in enumerate([total, *bold], start=1))
    lines = [
        {
            "study": f"[{claims.studies[study].name}]({PAGES}/{study}.md)",
            "runs done (hours of one core, beside other work)": _by_profile(lines, "done", "spent"),
            "not run (hours of a free core)": _by_profile(
                [line for line in lines if not line.profile.startswith(DIGITS)], "missing", "left"
            ),
        }
        for study, lines in overview.ledger.items()
    ]
    figure = f"![Effects, intervals and margins of the claims that were run]({CLAIMS})"
    return "\n\n".join([sentences, figure, markdown(pd.DataFrame(lines))]) + "\n"


def _by_profile(lines: Sequence[prices.Line], count: str, hours: str) -> str:
    """Runs and hours of each profile that has some: "fashion 20 (7.0 h)"."""
    told = []
    for profile in dict.fromkeys(line.profile for line in lines):
        own = [line for line in lines if line.profile == profile]
        runs = sum(getattr(line, count) for line in own)
        unpriced = sum(line.unpriced for line in own) if hours == "left" else 0
        taken = f"{'> ' * bool(unpriced)}{_hours(sum(getattr(line, hours) for line in own))} h"
        told += [f"{profile} {runs:,} ({'not estimated' if unpriced == runs else taken})"] * bool(
            runs
        )
    return ", ".join(told) or "none"


def _hours(hours: float) -> str:
    """Two digits that count, for orders of magnitude.

    >>> _hours(0.04), _hours(3.24), _hours(22.1), _hours(9867.4)
    ('< 0.1', '3.2', '22', '9,900')
    """
    if hours < 0.1:
        return "< 0.1"
    if hours < 10:
        return f"{hours:.1f}"
    size = 10 ** max(0, len(f"{hours:.0f}") - 2)
    return f"{round(hours / size) * size:,}"


def page(overview: Overview, study: str) -> str:
    """A study's page: how its verdicts are read, what helped, its options for who has to choose,
    its claims, what was not run and what that would cost, in Markdown."""
    claims = overview.claims
    told = dict(zip(claims.studies, answer(claims, overview.verdicts)[1:], strict=True))
    parts = [
        f"# {claims.name(study)}: results",
        WRITTEN,
        told[study],
        *practice.helped(study, overview.found, claims),
        "## What to choose",
        *_advice(overview, study),
        "## The claims",
        f"Published in {claims.studies[study].source}. [How claims are judged, and what went wrong "
        f"in published code]({AUDIT}).",
        *_claims(overview, study),
        *_knobs(overview, study),
        *_lengths(overview, study),
        "## What was run, what was not, and what it would cost",
        " ".join(PRICED.split()),
        markdown(_costs(overview.ledger[study])),
        _reports(overview.ledger[study]),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _advice(overview: Overview, study: str) -> list[str]:
    scales = practice.advice(study, overview.found, overview.claims)
    if not scales:
        return ["No run of this study is stored, so there is nothing to go by."]
    tables = (text for told, table in scales for text in (f"On {told}", markdown(table)))
    return [" ".join(practice.FITS.split()), *tables]


def _claims(overview: Overview, study: str) -> list[str]:
    """A study's claims: at each scale but digits what our runs say, and behind it all else."""
    verdicts = overview.verdicts[overview.verdicts["study"] == study]
    shown = audit.readable(overview.claims, verdicts)
    shown["ours"] = (shown["metric"] + " " + shown["ours"]).where(shown["ours"] != "", "")
    shown["published"] = shown["published"].where(shown["published"] != "", "no number")
    run = ~verdicts["verdict"].isin([ILLUSTRATION, NOT_RUN])
    parts = []
    for scale, own in shown[run].groupby("scale", sort=False):
        more = ["claim", "to hold", "from", "beside", "in its settings", "seeds", "p", "p Holm",
                "derived", "rests on", "source"]  # fmt: skip
        parts += [
            f"### {scale}",
            markdown(
                own[["in words", "verdict", "ours", "after a fit", "published"]].rename(
                    columns={"in words": "claim"}
                )
            ),
            f"<details><summary>{' '.join(DETAILS.split())}</summary>",
            markdown(own[[name for name in more if (own[name] != "").any()]]),
            "</details>",
        ]
    waiting = shown.loc[verdicts["verdict"] == NOT_RUN, "in words"]
    return parts + ["Not run:\n\n" + "\n".join(f"- {claim}" for claim in waiting)] * bool(
        len(waiting)
    )


def _knobs(overview: Overview, study: str) -> list[str]:
    """What changes with one choice inside a method, at the scales that judge a study's claims."""
    rows, told = [entry.row for entry in overview.found], []
    judges = {name for claim in overview.claims.of(study) for name in claim.judged_by.profiles}
    for one in overview.plans:
        parts = [part for part in one.parts if part.stem == STUDY and part.params.controls]
        if one.profile not in judges or STUDIES[STUDY].facts["study"] != study or not parts:
            continue
        tables = pd.concat([control_grids(rows, part.params) for part in parts])
        if tables.empty:
            continue
        table = tables.drop_duplicates(["cell", "change"])
        shown = readable(table[["cell", "change", "seeds", *KNOBS, *HALVES]])
        weights = practice.other_weights(table, parts[0].params.options)
        told += [f"{one.profile}. {weights}", markdown(shown)]
    return ["## What changes with one choice inside a method", *told] if told else []


def _lengths(overview: Overview, study: str) -> list[str]:
    """What a longer training would change, where a study's pilot was run."""
    rows, told = [entry.row for entry in overview.found], []
    for part in itertools.chain.from_iterable(one.parts for one in overview.plans):
        if part.stem != training_length.STEM or STUDIES[part.stem].facts["study"] != study:
            continue
        if present(rows, part.runs):
            found = training_length.tables(rows, part.params)
            sentences = training_length.answer(found, part.params)
            told += [f"{training_length.title(part.params)}:"]
            told += ["\n".join(f"- {sentence}" for sentence in sentences)]
    return ["## What a longer training would change", *told] if told else []


def audit_page(overview: Overview) -> str:
    """How claims are judged, and what went wrong in published code, in Markdown."""
    parts = ["# How claims are judged, and what went wrong in published code", WRITTEN]
    parts += ["## How a claim is judged", " ".join(audit.RULE.split())]
    parts += ["## What went wrong", " ".join(audit.CARE.split())]
    for name, one in DEMONSTRATIONS.items():
        resting = [claim.claim for claim in overview.claims.claims if name in claim.rests_on]
        parts += [
            f"### {one.title}",
            one.run().line,
            f"Source: {one.source}. How it is known: {one.known}.",
            "\n".join(["Published numbers that went through it are those of:", "",
                       *(f"- {claim}" for claim in resting)]) if resting else "",
        ]  # fmt: skip
    return "\n\n".join(filter(None, parts)) + "\n"


def _costs(lines: Sequence[prices.Line]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "profile": line.profile,
            "part": line.part,
            "runs": line.runs,
            "done": line.done,
            "hours spent": _hours(line.spent) if line.done else "",
            "hours to go": _hours(line.left) if line.left else "",
            "runs without a price": line.unpriced or "",
        }
        for line in lines
    )


def _reports(lines: Sequence[prices.Line]) -> str:
    """Links to the reports of the profiles that have rows of the study."""
    done = dict.fromkeys(line.profile for line in lines if line.done)
    links = (f"[{name}](../../results/{name}/report/index.html)" for name in done)
    return f"Reports, with every table and figure: {', '.join(links)}." if done else ""


def cells(overview: Overview, folder: Path) -> str:
    """The README's showcase, of a study's tables: a picture, the best cells by test Harmonic score
    beside the students of their losses without KD, what each KD method does."""
    table, summary = (pd.read_csv(folder / name) for name in ("cells.csv", "summary.csv"))
    top = table.nlargest(TOP, "harmonic")
    controls = table[table["kd_method"] == "none"]
    plain = controls.query("student_loss == 'ce' and not mixup")
    own = controls.merge(top[["student_loss", "mixup"]].drop_duplicates())
    listed = pd.concat([top, own, plain]).drop_duplicates("cell")
    metrics = ["acc", "acc_ci95", "nll", "nll_ci95", "ece", "ece_ci95", "harmonic"]
    shown = readable(listed[["cell", *metrics]])
    found = [one for one in overview.found if one.facts["profile"] == folder.parent.name]
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


def markdown(table: pd.DataFrame) -> str:
    """A table of text in Markdown."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
