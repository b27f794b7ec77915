"""What published tables say when they are read in pairs: differences of lines equal in all else.

The tables lie in results/published/, copied from their sources; nothing here is typed.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.registry import suggest
from kdlib.studies.published_claims import Analysis

FOLDER = Path(__file__).parents[2] / "results" / "published"
SIGN = {"higher": 1, "lower": -1}
PARTS = ("pskd", "byot", "dmfl")
CLEAR = 2  # standard errors


def read(table: str) -> pd.DataFrame:
    """A published table, read once (do not change it); a method that is a sum ("pskd+byot") also
    has a column of each part.

    FileNotFoundError that names the tables there are.
    """
    path = FOLDER / f"{table}.csv"
    if not path.is_file():
        known = suggest(table, [other.stem for other in FOLDER.glob("*.csv")])
        raise FileNotFoundError(f"no published table {path}, {known}")
    return _read(path)


def at_hand(table: str) -> pd.DataFrame:
    """`read`, or a table without lines where the file of the repository is not at hand."""
    return read(table) if (FOLDER / f"{table}.csv").is_file() else pd.DataFrame()


@functools.cache
def _read(path: Path) -> pd.DataFrame:
    lines = pd.read_csv(path)
    if path.stem == "self_distillation":
        methods = lines["method"].str.split("+")
        lines = lines.assign(**{part: [part in some for some in methods] for part in PARTS})
    return lines


def paired(analysis: Analysis) -> pd.DataFrame:
    """One line a value of `by`: level minus versus over the lines that agree in every other label.

    Columns: those of `by`; pairs; difference (mean, in the table's unit); se (standard error over
    the pairs, NaN for one); size (mean of its absolute value) and largest; favour (pairs on the
    claimed side); noise (range of what `noise` names, NaN without). Pairs share lines of a grid and
    are no seeds, so `se` is a yardstick, no test.
    """
    table = read(analysis.table)
    unknown = {*analysis.by, analysis.metric} - set(table)
    if unknown:
        raise LookupError(
            f"published {analysis.table!r} has no column {min(unknown)!r}, "
            f"{suggest(min(unknown), table)}"
        )
    pool = table[_matching(table, analysis.where or {})]
    if analysis.without:
        pool = pool[~_matching(pool, analysis.without)]
    same = [name for name in _labels(table) if name not in analysis.level | analysis.versus]
    cells = analysis.level, analysis.versus
    level, versus = (_lines(pool, cell, same, analysis) for cell in cells)
    pairs = level.merge(versus, on=same, suffixes=("", "_versus"))
    if pairs.empty:
        raise LookupError(f"published {analysis.table!r} has no pair for {analysis.level}")
    pairs["difference"] = pairs[analysis.metric] - pairs[f"{analysis.metric}_versus"]
    noise = float("nan")
    if analysis.noise:
        repeats = table.loc[_matching(table, analysis.noise), analysis.metric]
        noise = repeats.max() - repeats.min()
    groups = pairs.groupby(list(analysis.by)) if analysis.by else [((), pairs)]
    return pd.DataFrame([
        {**dict(zip(analysis.by, key, strict=True)), **_line(part["difference"], analysis.side),
         "noise": noise}
        for key, part in groups
    ])  # fmt: skip


def _lines(
    pool: pd.DataFrame, cell: Mapping[str, Any], same: Sequence[str], analysis: Analysis
) -> pd.DataFrame:
    """The lines of a cell, what they are paired by and the metric; LookupError where two of them
    agree in every label, for then what tells them apart is not known."""
    lines = pool[_matching(pool, cell)]
    if lines.duplicated([*same, *cell]).any():
        raise LookupError(
            f"published {analysis.table!r} has several lines for one {dict(cell)}: name in where "
            "what tells them apart"
        )
    return lines[[*same, analysis.metric]]


def _labels(table: pd.DataFrame) -> list[str]:
    """The columns that are not measured, as numbers with a point are; parts stand for their sum."""
    labels = table.select_dtypes(exclude="float")
    return [name for name in labels if name != "method" or not {*PARTS} & {*table}]


def _line(values: pd.Series, side: str) -> dict[str, float]:
    return {
        "pairs": len(values),
        "difference": values.mean(),
        "se": values.sem(),
        "size": values.abs().mean(),
        "largest": values.abs().max(),
        "favour": int((SIGN[side] * values > 0).sum()),
    }


def _matching(table: pd.DataFrame, cell: Mapping[str, Any]) -> pd.Series:
    """Which lines have all these values, or one of each list."""
    found = pd.Series(True, index=table.index)
    for column, values in cell.items():
        if column not in table:
            raise LookupError(f"published: no column {column!r}, {suggest(column, table)}")
        found &= table[column].isin(values if isinstance(values, tuple) else [values])
    return found


def reading(line: Mapping[str, Any], side: str) -> str:
    """What a line of `paired` supports, in words.

    >>> reading({"pairs": 28, "difference": 1.57, "se": 0.09, "noise": float("nan")}, "higher")
    'in favour'
    >>> reading({"pairs": 1, "difference": 0.16, "se": float("nan"), "noise": 0.43}, "higher")
    'within the range of repeats'
    """
    towards = SIGN[side] * line["difference"]
    if abs(towards) <= line["noise"]:
        return "within the range of repeats"
    if line["pairs"] == 1:
        return f"one pair, {'in favour' if towards > 0 else 'against'}"
    if abs(towards) <= CLEAR * line["se"]:
        return "no clear difference"
    return "in favour" if towards > 0 else "against"


def sentences(analyses: Sequence[Analysis]) -> list[str]:
    """The published effects, a sentence a group: mean ± SE over pairs, and what it supports."""
    return [
        _sentence(line, analysis)
        for analysis in analyses
        for line in paired(analysis).to_dict("records")
    ]


def _sentence(line: Mapping[str, Any], analysis: Analysis) -> str:
    group = " ".join(_named(name, line[name]) for name in analysis.by)
    one = line["pairs"] == 1
    spread = "" if one else f" ± {line['se']:.2g}"
    told = [] if one else [f"{line['favour']} of {line['pairs']} pairs"]
    told += [] if pd.isna(line["noise"]) else [f"repeats span {line['noise']:.2g}"]
    brackets = f" ({', '.join(told)})" if told else ""
    number = f"{line['difference']:+.3g}{spread}{brackets}"
    return f"{f'{group}: ' * bool(group)}{number}, {reading(line, analysis.side)}"


def _named(name: str, value: Any) -> str:
    return {"imbalance_factor": f"IF {value}", "task": f"task {value}"}.get(
        name, f"{'' if value else 'no '}{name}" if isinstance(value, bool) else f"{value}"
    )
