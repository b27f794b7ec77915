"""The claims' section as the batch writes it: judged by the rows of every profile, whatever rows it
is handed, for a claim names the profiles that may decide it."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kdlib.report import audit
from kdlib.report.pairs import Entry, entries, profiles
from kdlib.store import Row
from kdlib.studies.published_claims import Claims, PublishedClaims, load_claims


def judged(params: PublishedClaims, out_dir: str | Path) -> tuple[Claims, list[Entry]]:
    """The claims, and the rows of every profile, of its own those in `out_dir`."""
    folders = profiles(params.results, out_dir, params.profile)
    return load_claims(params.claims), entries(folders, {params.profile: params.changes})


def write(rows: Sequence[Row], params: PublishedClaims, out_dir: str | Path) -> Path:
    """Write the section of a results folder; the page's path."""
    return audit.write(*judged(params, out_dir), out_dir, params.setting)


def deterministic_tables(
    rows: Sequence[Row], params: PublishedClaims, out_dir: str | Path
) -> dict[str, pd.DataFrame]:
    """Its tables, from what is stored alone."""
    return audit.deterministic_tables(*judged(params, out_dir))
