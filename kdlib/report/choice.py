"""The cell that validation chooses: what it is worth on test, and how sure its rank is."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kdlib import metrics
from kdlib.report.images import Predictions, choices, middle
from kdlib.report.tables import CELL, METRICS
from kdlib.store import Row

ENOUGH = 500  # images of validation, for a choice to mean anything
VALIDATION = ["val_acc", "val_ece", "val_harmonic"]
TEST = [name for metric in METRICS for name in (metric, f"{metric}_ci95")]


def objections(rows: Sequence[Row]) -> list[str]:
    """Why validation is too small to choose a cell; empty where it is large enough."""
    for row in rows:
        counts = row["data"]["val_counts"]
        empty = [str(index) for index, count in enumerate(counts) if not count]
        reasons = [f"validation has {sum(counts)} images"] * (sum(counts) < ENOUGH)
        reasons += [f"none of class {', '.join(empty)}"] * bool(empty)
        if reasons:
            return reasons
    return []


def best(cells: pd.DataFrame, rows: Mapping[str, Row]) -> pd.DataFrame:
    """One line: the cell of the highest Harmonic score on validation, with its test numbers.

    cells: of `kdlib.report.cells`; rows: by id, with class-balanced `val` metrics, whose means over
    seeds are scored. rank: that of its Harmonic on test among the `cells_ranked` cells that have
    one. Empty where there are no two to choose from.
    """
    scored = _scored(cells)
    if len(scored) < 2:
        return pd.DataFrame()
    for name in ("acc", "ece"):
        means = [np.mean([rows[run]["metrics"]["val"][name] for run in ids])
                 for ids in scored["runs"].str.split("; ")]  # fmt: skip
        scored[f"val_{name}"] = means
    scored["val_harmonic"] = metrics.harmonic_score(scored["val_acc"], scored["val_ece"])
    chosen = scored.loc[[scored["val_harmonic"].idxmax()]]
    names = ["cell", *CELL, *VALIDATION, *TEST, "harmonic", "rank"]
    return chosen[names].assign(cells_ranked=len(scored)).reset_index(drop=True)


def certainty(
    cells: pd.DataFrame, chosen: str, stability: pd.DataFrame, found: Predictions
) -> pd.DataFrame:
    """One line: how sure the choice of the cell `chosen` and its rank on test are.

    rank_low, rank_high: the 95 % range of its rank when test images are redrawn (stability: of
    `rank_stability`). choice_low, choice_high: the 95 % range of the test ranks of what a redrawn
    validation chooses (`choices`); choice_same: how often that is the same cell. Empty where
    predictions are missing (found: `predictions`).
    """
    scored = _scored(cells)
    runs = scored["runs"].str.split("; ").explode()
    if stability.empty or not all("val_logits" in found.get(run, {}) for run in runs):
        return pd.DataFrame()
    line = stability.set_index("cell").loc[[chosen], ["rank_low", "rank_high"]]
    again = scored.iloc[choices(cells, found)]
    low, high = middle(again["rank"].to_numpy())
    same = (again["cell"] == chosen).mean()
    return line.assign(choice_low=low, choice_high=high, choice_same=same).reset_index()


def _scored(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that have a Harmonic score, with their rank by it, 1 the best."""
    scored = cells[cells["harmonic"].notna()].reset_index(drop=True)
    ranks = scored["harmonic"].rank(ascending=False, method="first")
    return scored.assign(rank=ranks.astype(int))
