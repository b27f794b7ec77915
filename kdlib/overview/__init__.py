"""The README's generated parts and a page of results a study, from rows, timings and params alone.

`scripts/showcase.py` writes them; a test holds that they are what the committed rows give.
"""

from kdlib.overview.facts import AUDIT, CLAIMS, PAGES, Overview, markdown
from kdlib.overview.pages import audit_page, page
from kdlib.overview.readme import AFTER, CELLS, LEAD, cells, first_screen, runs

__all__ = [
    "AFTER", "AUDIT", "CELLS", "CLAIMS", "LEAD", "PAGES", "Overview", "audit_page",
    "cells", "first_screen", "markdown", "page", "runs",
]  # fmt: skip
