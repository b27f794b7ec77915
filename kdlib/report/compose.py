"""One page of all studies: each study writes its own section of it, in any order, at any time.

A study's report module makes HTML with `kdlib.report.html` and hands it in:

    own = {"missing": missing(rows, runs), "notes": notes(present(rows, runs))}
    section = Section(out_dir, "04_self_distillation", params.setting, **own)
    section.tables({"cells": cells, "effects": effects})              # cells.csv, effects.csv
    parts = [
        html.items(answer(rows), "answer"),
        html.table(cells, "Every cell; 5 seeds, mean ± half of the 95 % t interval"),
        section.figure("effects", "Effects of the parts", plots.effects(effects, title)),
        section.files(),
    ]
    page = section.write("Self-distillation on CIFAR-100", parts, summary="a few lines of text")

The page is the only copy of a section: writing one replaces it and keeps the others.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd
from filelock import FileLock
from matplotlib.figure import Figure

from kdlib import plots
from kdlib.cautions import of_data
from kdlib.files import write_atomic
from kdlib.registry import STUDIES
from kdlib.report import html
from kdlib.report.tables import csv
from kdlib.store import REASONS, Row
from kdlib.verify import mixtures

TITLE = "Knowledge distillation and calibration"
REPORT = "report"  # the page's folder, and the stem of what belongs to no notebook
INCOMPLETE = "Incomplete, missing runs: {}."
MISSING = (
    "Missing runs: what they belong to has fewer seeds or no number, nothing stands in for them"
)
SECTION = re.compile(r'<section id="([^"]*)">\n<h2>([^<]*)</h2>\n.*?\n</section>', re.DOTALL)


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of a section must know of its rows: what they do not have in common, a test
    split with a tail."""
    return mixtures(rows) + of_data(rows)


@dataclass(frozen=True)
class Section:
    """A notebook's part of the page, and the folder of its files.

    out_dir: the profile's results; stem: the notebook's, as `04_self_distillation`; setting: of
    its params, empty where there is only one. missing: ids of the runs that its tables lack; notes:
    what else a reader must know of the rows (`notes`). Both head the section.
    """

    out_dir: Path
    stem: str
    setting: str = ""
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def key(self) -> str:
        """The folder under out_dir, and the section's anchor on the page."""
        return "/".join(filter(None, [self.stem, self.setting]))

    @property
    def folder(self) -> Path:
        """Where tables and figures/ lie."""
        return Path(self.out_dir) / self.key

    def tables(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Write each table that has lines as <name>.csv, and missing.csv: which runs are not in
        them, and why; what has no lines leaves no file, nor an earlier one."""
        for name, table in {**tables, "missing": self._reasons()}.items():
            path = self.folder / f"{name}.csv"
            if len(table):
                write_atomic(path, csv(table))
            else:
                path.unlink(missing_ok=True)

    def _reasons(self) -> pd.DataFrame:
        path = Path(self.out_dir) / REASONS
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        lines = [(run, known.get(run, "not run yet")) for run in self.missing]
        return pd.DataFrame(lines, columns=["run", "why"])

    def _head(self) -> list[str]:
        """What a reader must know before any number."""
        told = [INCOMPLETE.format(len(self.missing))] * bool(self.missing) + [*self.notes]
        parts = [html.items(told)] if told else []
        return parts + [html.table(self._reasons(), MISSING)] * bool(self.missing)

    def figure(self, name: str, caption: str, figure: Figure) -> str:
        """Write figures/<name>.png and .svg; the HTML that shows them with their caption."""
        plots.save(figure, self.folder / "figures", name)
        return html.figure(f"../{self.key}/figures/{name}.png", caption)

    def files(self) -> str:
        """Links to the tables that lie in the folder."""
        names = sorted(path.name for path in self.folder.glob("*.csv"))
        return html.links("Files", {name: f"../{self.key}/{name}" for name in names})

    def write(self, title: str, parts: Iterable[str], summary: str = "") -> Path:
        """Put the section on the page, after those of earlier stems; the page's path.

        parts: HTML. summary: plain text for the terminal, joined with that of the other sections in
        report/summary.txt. With one writer at a time no section is lost.
        """
        out_dir = Path(self.out_dir)
        report = out_dir / REPORT
        for folder in (report, self.folder):
            folder.mkdir(parents=True, exist_ok=True)
        if self.missing:
            title += " (incomplete)"
            summary += f"{INCOMPLETE.format(len(self.missing))} missing.csv says why.\n"
        body = "\n".join(filter(None, [*self._head(), *parts]))
        own = f'<section id="{escape(self.key)}">\n<h2>{escape(title)}</h2>\n{body}\n</section>'
        with FileLock(report / ".lock"):
            if summary:
                write_atomic(self.folder / "summary.txt", summary.encode())
            sections = _sections(report / "index.html") | {escape(self.key): (escape(title), own)}
            # A setting whose folder is no longer there leaves the page, too.
            kept = {key: part for key, part in sections.items() if (out_dir / key).is_dir()}
            _put(out_dir, kept)
        self._tidy(body)
        return report / "index.html"

    def _tidy(self, body: str) -> None:
        """Figures that are no longer drawn go: what the page does not show, nobody keeps true."""
        for path in (self.folder / "figures").glob("*"):
            if f"../{self.key}/figures/{path.stem}." not in body:
                path.unlink()


def drop(out_dir: Path, keys: Sequence[str]) -> None:
    """Take sections off the page and out of its summary; their tables and figures stay."""
    report, gone = out_dir / REPORT, {escape(key) for key in keys}
    with FileLock(report / ".lock"):
        for key in keys:
            (out_dir / key / "summary.txt").unlink(missing_ok=True)
        sections = _sections(report / "index.html")
        _put(out_dir, {key: part for key, part in sections.items() if key not in gone})


def _put(out_dir: Path, sections: Mapping[str, tuple[str, str]]) -> None:
    report = out_dir / REPORT
    write_atomic(report / "index.html", _page(out_dir, sections).encode())
    write_atomic(report / "summary.txt", _summaries(out_dir).encode())


def _sections(page: Path) -> dict[str, tuple[str, str]]:
    """What stands on a page: key -> title and whole section, both as HTML."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    return {found[1]: (found[2], found[0]) for found in SECTION.finditer(text)}


def _page(out_dir: Path, sections: Mapping[str, tuple[str, str]]) -> str:
    ordered = sorted(sections.items(), key=lambda section: (not _of_all(section[0]), section[0]))
    entries = (f'<li><a href="#{key}">{title}</a></li>\n' for key, (title, _) in ordered)
    contents = f"<nav><ul>\n{''.join(entries)}</ul></nav>"
    notebooks = out_dir / ".batch" / "notebooks"
    executed = {
        path.relative_to(notebooks).as_posix(): f"../{path.relative_to(out_dir).as_posix()}"
        for path in sorted(notebooks.rglob("*.ipynb"))
    }
    shown = [whole for _, (_, whole) in ordered]
    return html.document(TITLE, [contents, *shown, html.links("Executed notebooks", executed)])


def _of_all(key: str) -> bool:
    """Whether a section tells of all studies, as that of the claims does: it comes first."""
    stem = key.partition("/")[0]
    return stem in STUDIES and not STUDIES[stem].facts.study


def _summaries(out_dir: Path) -> str:
    paths = sorted(out_dir.glob("[0-9]*/**/summary.txt"))
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)
