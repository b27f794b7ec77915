"""What there is to tell of: the claims, the committed rows, what was run and what was not."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from kdlib import prices
from kdlib.plan import ROOT, Plan, plan, profiles
from kdlib.plots.claims import forest
from kdlib.registry import STUDIES
from kdlib.report import audit
from kdlib.report.answers import told_of
from kdlib.report.claims import FAILS, HOLDS, UNDECIDED
from kdlib.report.pairs import DIGITS, Entry, entries, with_rows
from kdlib.studies.published_claims import Claims, load_claims

PAGES, AUDIT = "docs/results", "audit.md"
CLAIMS = "docs/claims.png"  # a picture of the pages


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
            study: tuple(name for name in STUDIES.names() if STUDIES[name].facts.study == study)
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


def in_practice(overview: Overview, study: str) -> str:
    """What one would do; nothing where nothing is advised, or where the claims that it is read from
    have no verdict."""
    one = overview.claims.studies[study]
    judged = one.practice and told_of(one.headline, overview.verdicts)
    return f"*In practice:* {' '.join(one.practice.split())}" if judged else ""


def in_hours(hours: float) -> str:
    """Two digits that count, for orders of magnitude.

    >>> in_hours(0.04), in_hours(3.24), in_hours(22.1), in_hours(9867.4)
    ('< 0.1', '3.2', '22', '9,900')
    """
    if hours < 0.1:
        return "< 0.1"
    if hours < 10:
        return f"{hours:.1f}"
    size = 10 ** max(0, len(f"{hours:.0f}") - 2)
    return f"{round(hours / size) * size:,}"


def markdown(table: pd.DataFrame) -> str:
    """A table of text in Markdown."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
