"""Write what the committed rows say: the README's generated blocks and pictures, a page of results
a study, and the claims' section of the reports that have one, whose verdicts hang on the rows of
every profile. After rows were added under results/, this is all there is to do.

python scripts/showcase.py
"""

import re
import shutil
from pathlib import Path

from kdlib import overview, plots
from kdlib.plan import ROOT
from kdlib.report import audit, csv
from kdlib.report.pairs import DIGITS
from kdlib.studies.published_claims import STEM

BLOCK = re.compile(
    r"(<!-- (\w+), written by: python scripts/showcase.py -->\n).*?(<!-- end of generated -->)",
    re.DOTALL,
)


def files(found: overview.Overview) -> dict[Path, str]:
    """Every text that is generated, by its path."""
    blocks = {
        "answer": overview.first_screen(found),
        "runs": overview.runs(found),
        "cells": overview.cells(found, ROOT / "results"),
    }
    readme = ROOT / "README.md"
    text = BLOCK.sub(lambda match: match[1] + blocks[match[2]] + match[3], readme.read_text())
    folder = ROOT / overview.PAGES
    pages = {folder / f"{name}.md": overview.page(found, name) for name in found.claims.studies}
    pages[folder / overview.AUDIT] = overview.audit_page(found)
    verdicts = csv(found.verdicts).decode()
    tables = {folder / STEM / "verdicts.csv": verdicts for folder in sections()}
    return {readme: text, **pages, **tables}


def sections() -> list[Path]:
    """The committed profiles' folders whose reports have the claims' section."""
    found = (path.parent for path in (ROOT / "results").glob(f"*/{STEM}"))
    return sorted(folder for folder in found if folder.name != DIGITS)


def main() -> None:
    """Write them, and the pictures."""
    found = overview.Overview.of()
    for path, text in files(found).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(ROOT))
    claims = ROOT / overview.CLAIMS
    plots.save(found.figure(), claims.parent, claims.stem)
    claims.with_suffix(".svg").unlink()
    for folder in sections():
        print(audit.write(found.claims, found.found, folder).relative_to(ROOT))
    for picture in (overview.AFTER, overview.CELLS):
        own = ROOT / "results" / overview.LEAD / "figures" / Path(picture).name
        shutil.copy(own, ROOT / picture)


if __name__ == "__main__":
    main()
