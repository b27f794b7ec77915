"""The claims' section of the report: verdicts beside what was published, and what went wrong."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.plots.claims import REVERSED, forest
from kdlib.quantities import quantity
from kdlib.report import claims as judging
from kdlib.report import html, literature
from kdlib.report.answers import (
    another,
    answer,
    effect,
    fitted,
    over_settings,
    p_value,
    reversed_effect,
    to_hold,
    verdict,
)
from kdlib.report.claims import ILLUSTRATION
from kdlib.report.compose import Section
from kdlib.report.demonstrations import DEMONSTRATIONS
from kdlib.report.pairs import Entry
from kdlib.studies.published_claims import STEM, Analysis, Claims
from kdlib.verify import mixtures

TITLE = "Which published claims hold"
NAN = float("nan")
LONG = ["in words", "source", "published number affected by"]  # columns that a page folds
FOREST = """Effects towards the claimed side (so a lower ECE lies right where it is claimed) with
their 95 % intervals over seeds; pale lines end at the lowest and highest of the settings that an
effect is a mean of; squares: the same effect after a fit on validation of both sides, one
temperature for ECE and NLL, a logit adjustment for accuracy"""
PERCENT = ("acc_percent", "top1_error_percent", "ece_percent", "test_acc_final")
RULE = """Claims, comparisons and margins were written down before the runs that judge them
(params/claims.yaml), but for one that says so. An effect is a difference of runs that are equal in
everything else, inside each seed, and the mean of all settings that the claim leaves open, whose
ends stand beside it; its 95 % interval is over seeds, on one fixed test set, so it is silent on
other test images. Teacher and student of a seed share batches, crops and mixup partners. A claim
holds where the interval lies wholly beyond the margin on the claimed side, and does not hold where
it lies wholly below it: so an effect smaller than the margin does not hold, and where the reverse
is beyond the margin, that is said. It is undecided otherwise: then it is said how many seeds would
decide it if effect and spread stay. p is of the t test against the margin, beside it adjusted after
Holm over all claims of the study, those not run included; the verdict uses the interval. A verdict
is about its scale, and no more."""
SETTINGS = """A verdict is of the mean over these; those with fewer seeds than others are not in it.
Methods may differ more between settings than between each other: KD hands down its
teacher's prior, so a student of balanced softmax loses its own under a teacher of cross-entropy.
These are descriptive: no verdict, no adjustment for their number."""
TABLE = """Every claim and what our runs say of it: mean difference ± half of the 95 % interval over
seeds, its ends over the settings it is a mean of, the mean level of what it is compared with; to
hold: where that interval would have to lie; control: a third level against the same; our reading:
no sentence of the source says it; published: the mean of the study's own differences in pairs, at
its own scale"""
CARE = """What is said of published code was read in the sources named; how each mistake is known,
what is inference and what was not seen stands beside it. Of the KD x calibration study the compiled
CIFAR-10 modules were read and the CIFAR-100 code was not at hand. The published numbers are quoted
as they stand; no run was repeated with the published code."""
SUPPORT = """Published tables read in pairs that agree in everything else: mean difference ±
standard error over pairs, in the table's own unit. Pairs of one table share its runs, so this is a
yardstick and no test."""


def write(claims: Claims, found: Sequence[Entry], out_dir: str | Path, setting: str = "") -> Path:
    """Write verdicts and figures under out_dir, and the section of its report; the page's path."""
    section = Section(Path(out_dir), STEM, setting, notes=_mixtures(found))
    tables = deterministic_tables(claims, found)
    section.tables(tables)
    verdicts = tables["verdicts"]
    narrow = readable(claims, verdicts).drop(columns=LONG)
    decided = verdicts["verdict"] != ILLUSTRATION
    drawn = ""
    if verdicts["effect"].notna().any():
        caption = " ".join(FOREST.split())
        drawn = section.figure("forest", caption, forest(forest_lines(claims, verdicts), TITLE))
    parts = [
        html.items(answer(claims, verdicts), "answer"),
        html.folded("How a claim is judged", html.note(RULE)),
        html.note(CARE),
        drawn,
        html.table(narrow[decided], TABLE),
        html.folded("In each setting", html.note(SETTINGS),
                    html.table(readable_settings(claims, tables["settings"]))),
        html.folded("On digits, as an illustration", html.table(narrow[~decided])),
        html.heading("The claims, and what their own numbers support"),
        html.note(SUPPORT),
        *(
            html.folded(f"{one.name}: {len(claims.of(study))} claims",
                        html.note(f"Published in {one.source}."), html.items(told(claims, study)))
            for study, one in claims.studies.items()
        ),
        html.heading("What went wrong in published code"),
        *demonstrations(),
        section.files(),
    ]  # fmt: skip
    return section.write(TITLE, parts, "\n".join([TITLE, *answer(claims, verdicts)]) + "\n")


def _mixtures(found: Sequence[Entry]) -> list[str]:
    """What the rows of each profile do not have in common: a claim is judged inside one."""
    rows = defaultdict(list)
    for entry in found:
        rows[entry.facts["profile"]].append(entry.row)
    return [f"{profile}: {line}" for profile, own in rows.items() for line in mixtures(own)]


def deterministic_tables(claims: Claims, found: Sequence[Entry]) -> dict[str, pd.DataFrame]:
    """Every table that is a function of the claims, the rows and the published tables alone."""
    verdicts = judging.verdicts(claims, found)
    effects = {claim.id: published_effect(claim.published.analyses) for claim in claims.claims}
    return {
        "verdicts": verdicts.assign(published_effect=verdicts["id"].map(effects)),
        "settings": judging.settings(claims, found),
    }


def published_effect(analyses: Sequence[Analysis]) -> float:
    """The mean published difference over its groups, towards the claimed side, in our units
    (fractions); NaN where nothing is published."""
    values = []
    for analysis in analyses:
        measured = (analysis.where or {}).get("metric", analysis.metric)
        scale = literature.SIGN[analysis.side] / (100 if measured in PERCENT else 1)
        values += list(scale * literature.paired(analysis)["difference"])
    return sum(values) / len(values) if values else float("nan")


def readable(claims: Claims, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The verdicts for readers: claim, source, effect as published (mean over all pairs of its
    groups), ours with its half-width, after a fit, of its control, the level of what it is compared
    with, where it would hold, whether it is our reading of its source, seeds, scale, verdict."""
    by_id = {claim.id: claim for claim in claims.claims}
    lines = []
    for line in verdicts.to_dict("records"):
        claim, written = by_id[line["id"]], quantity(line["metric"])
        published = literature.SIGN[line["side"]] * line["published_effect"]
        lines.append({
            "claim": claim.short,
            "verdict": verdict(line),
            "published": written.amount(published),
            "ours": effect(line),
            "range over its settings": over_settings(line),
            "seeds": "" if pd.isna(line["seeds"]) else f"{line['seeds']:.0f}",
            "the other's level": written.level(line["versus"]),
            "to hold": to_hold(line),
            "after a fit": fitted(line),
            "control": another(line, "beside"),
            "our reading": "yes" if claim.derived else "",
            "published number affected by": "; ".join(
                DEMONSTRATIONS[name].title for name in claim.rests_on
            ),
            "metric": written.word,
            "p": p_value(line["p"]),
            "p Holm": p_value(line["p_holm"]),
            "scale": "" if pd.isna(line["scale"]) else f"{line['profile']}: {line['scale']}",
            "study": claims.studies[claim.study].name,
            "in words": claim.claim,
            "source": claim.source,
        })  # fmt: skip
    return pd.DataFrame(lines, index=verdicts.index)


def readable_settings(claims: Claims, settings: pd.DataFrame) -> pd.DataFrame:
    """The effect of each claim in each setting, for readers."""
    return settings.assign(
        id=settings["id"].map({claim.id: claim.short for claim in claims.claims}),
        effect=[effect(line) for line in settings.to_dict("records")],
        metric=[quantity(metric).word for metric in settings["metric"]],
    ).drop(columns="effect_ci95")


def forest_lines(claims: Claims, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The lines of `kdlib.plots.claims.forest`, of all verdicts that have an effect: claim by
    claim under its study and what it was measured on, scale by scale."""
    by_id = {claim.id: claim for claim in claims.claims}
    measured = verdicts.dropna(subset="effect")
    lines = []
    for study in claims.studies:
        own = measured[measured["study"] == study]
        if own.empty:
            continue
        scales = own["scale"] + ", n = " + own["seeds"].astype(int).astype(str)
        for scale, part in own.groupby(scales, sort=False):
            lines += [{
                "heading": f"{claims.name(study)}\n{scale}",
                "label": by_id[line["id"]].short,
                "mistaken": bool(by_id[line["id"]].rests_on),
                "verdict": REVERSED if reversed_effect(line) else line["verdict"],
            } | _in_margins(line) for line in part.to_dict("records")]  # fmt: skip
    return pd.DataFrame(lines)


def _in_margins(line: dict[str, Any]) -> dict[str, Any]:
    """Of a verdict's line: its effect in words, and in margins towards the claim."""
    sign, margin = literature.SIGN[line["side"]], abs(line["margin"]) or 1.0
    written = quantity(line["metric"])
    signed = {name: sign * line.get(name, NAN) / margin
              for name in ("effect", "fitted", "lowest", "highest", "margin")}  # fmt: skip
    return signed | {
        "told": f"{written.word} {effect(line)} (margin {written.size(margin).split()[0]})",
        "half": line["effect_ci95"] / margin,
        "fitted_half": line.get("fitted_ci95", NAN) / margin,
        "published": line["published_effect"] / margin,
    }


def told(claims: Claims, study: str) -> list[str]:
    """Each claim of a study in words: what it says, where, the published numbers, what they went
    through."""
    texts = []
    for claim in claims.of(study):
        pairs = "; ".join(literature.sentences(claim.published.analyses)) or "no table to read"
        text = f"{claim.claim} Source: {claim.source}. As published: "
        text += f"{claim.published.says} In pairs: {pairs}."
        mistakes = "; ".join(DEMONSTRATIONS[name].title for name in claim.rests_on)
        texts.append(text + f" The numbers went through: {mistakes}." * bool(mistakes))
    return texts


def demonstrations() -> list[str]:
    """Every demonstration: what it says, its numbers, its source and how that is known."""
    parts = []
    for one in DEMONSTRATIONS.values():
        shown = one.run()
        origin = f"Source: {one.source}. How it is known: {one.known}."
        head = f"{one.title}: {shown.line}"
        parts.append(html.folded(head, html.note(origin), html.table(shown.table.round(4))))
    return parts
