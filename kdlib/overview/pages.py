"""A page of results a study, and one of how claims are judged, in Markdown."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kdlib import prices
from kdlib.grid import STUDY
from kdlib.overview.facts import AUDIT, CLAIMS, Overview, in_hours, in_practice, markdown
from kdlib.registry import STUDIES
from kdlib.report import audit, practice, readable, taught, training_length
from kdlib.report.answers import answer
from kdlib.report.claims import FAILS, HOLDS, ILLUSTRATION, NOT_RUN, UNDECIDED
from kdlib.report.controls import control_grids
from kdlib.report.demonstrations import DEMONSTRATIONS
from kdlib.report.tables import present

KNOBS = ("acc", "ece", "val_acc", "plain_val_acc")
HALVES = tuple(f"{name}_ci95" for name in KNOBS)
PRICED = """Spent: hours that passed while a job of one core made the runs, beside other work on the
machine. To go: hours of a free core, from a few steps of each kind of run
([prices.json](prices.json) names the machine); `./run_all.sh PROFILE --dry-run` measures yours."""
DETAILS = "Details: margins, levels, seeds, p-values, sources"
COLUMNS = """In the folded details, to hold: where the interval would have to lie; the other's
level: of what is compared with; control: a third level against the same; p: of the t test against
the margin, and after Holm; our reading: no sentence of the source says it."""
UNDECIDING = "Too few seeds for a verdict"
OTHERS = "The same at other scales: of fewer seeds, or of profiles that judge no claim"
UNTESTED = "Of other weights validation alone is shown: a choice on test would be tuning on it."
WRITTEN = "Written by `python scripts/showcase.py` from the committed rows; change nothing here."


def page(overview: Overview, study: str) -> str:
    """A study's page: how its verdicts are read, what helped, its options for who has to choose,
    its claims, what was not run and what that would cost, in Markdown."""
    claims = overview.claims
    told = dict(zip(claims.studies, answer(claims, overview.verdicts)[1:], strict=True))
    parts = [
        f"# {claims.name(study)}: results",
        WRITTEN,
        told[study],
        in_practice(overview, study),
        *practice.helped(study, overview.found, claims),
        "## What to choose",
        *_advice(overview, study),
        *_teachers(overview, study),
        "## The claims",
        f"Published in {claims.studies[study].source}. [How claims are judged, and what went wrong "
        f"in published code]({AUDIT}). {' '.join(COLUMNS.split())}",
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
    others = practice.elsewhere(study, overview.found, overview.claims)
    parts = [practice.legend(study), *_tables(scales)]
    return parts + (_folded(OTHERS, *_tables(others)) if others else [])


def _folded(summary: str, *parts: str) -> list[str]:
    return [f"<details><summary>{summary}</summary>", *parts, "</details>"]


def _tables(scales: Sequence[tuple[str, pd.DataFrame]]) -> list[str]:
    return [text for told, table in scales for text in (f"On {told}", markdown(table))]


def _teachers(overview: Overview, study: str) -> list[str]:
    table = taught.teachers(study, overview.found)
    if table.empty:
        return []
    return ["## The teachers", " ".join(taught.LEAD.split()), markdown(table)]


def _claims(overview: Overview, study: str) -> list[str]:
    """A study's claims: at each scale but digits what our runs say, and behind it all else."""
    verdicts = overview.verdicts[overview.verdicts["study"] == study]
    shown = audit.readable(overview.claims, verdicts)
    shown["ours"] = (shown["metric"] + " " + shown["ours"]).where(shown["ours"] != "", "")
    shown["published"] = shown["published"].where(shown["published"] != "", "no number")
    run = ~verdicts["verdict"].isin([ILLUSTRATION, NOT_RUN])
    parts = []
    for scale, own in shown[run].groupby("scale", sort=False):
        main = own[["in words", "verdict", "ours", "range over its settings", "after a fit",
                    "published"]].rename(columns={"in words": "claim"})  # fmt: skip
        more = ["claim", "to hold", "the other's level", "control", "seeds", "p", "p Holm",
                "our reading", "published number affected by", "source"]  # fmt: skip
        details = own[[name for name in more if (own[name] != "").any()]]
        if verdicts.loc[own.index, "verdict"].isin([HOLDS, FAILS, UNDECIDED]).any():
            parts += [f"### {scale}", markdown(main), *_folded(DETAILS, markdown(details))]
        else:
            parts += _folded(f"{UNDECIDING}: {scale}", markdown(main), markdown(details))
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
        if one.profile not in judges or STUDIES[STUDY].facts.study != study or not parts:
            continue
        tables = pd.concat([control_grids(rows, part.params) for part in parts])
        if tables.empty:
            continue
        table = tables.drop_duplicates(["cell", "change"])
        shown = readable(table[["cell", "change", "seeds", *KNOBS, *HALVES]])
        weights = practice.other_weights(table, parts[0].params.options)
        told += [f"{one.profile}. {weights} {UNTESTED}", markdown(shown)]
    return ["## What changes with one choice inside a method", *told] if told else []


def _lengths(overview: Overview, study: str) -> list[str]:
    """What a longer training would change, where a study's pilot was run."""
    rows, told = [entry.row for entry in overview.found], []
    for part in itertools.chain.from_iterable(one.parts for one in overview.plans):
        if part.stem != training_length.STEM or STUDIES[part.stem].facts.study != study:
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
    parts += ["## All claims at a glance", " ".join(audit.FOREST.split())]
    parts += [f"![Effects, intervals and margins](../{Path(CLAIMS).name})"]
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
            "hours spent": in_hours(line.spent) if line.done else "",
            "hours to go": in_hours(line.left) if line.left else "",
            "runs without a price": line.unpriced or "",
        }
        for line in lines
    )


def _reports(lines: Sequence[prices.Line]) -> str:
    """Links to the reports of the profiles that have rows of the study."""
    done = dict.fromkeys(line.profile for line in lines if line.done)
    links = (f"[{name}](../../results/{name}/report/index.html)" for name in done)
    return f"Reports, with every table and figure: {', '.join(links)}." if done else ""
