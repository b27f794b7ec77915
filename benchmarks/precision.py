"""May reported runs train in bf16? `python -m benchmarks.precision RESULTS`.

RESULTS is a results folder of the profile `precision`: the same runs in fp32 and in bf16. A cell's
difference is taken inside each seed; its interval is over seeds. Writes precision.csv.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks import common
from kdlib.report.tables import cell_label
from kdlib.store import Row, Store

METRICS = ("acc", "nll", "ece")


def table(rows: Sequence[Row], seconds: dict[str, float]) -> pd.DataFrame:
    """One line a run: cell, seed, precision, test metrics, training seconds (by run id)."""
    lines = []
    for row in rows:
        cell = cell_label(row["labels"])
        line = {"cell": cell, "seed": row["run"]["seed"], "precision": row["run"]["precision"]}
        line |= {name: row["metrics"]["test"][name] for name in METRICS}
        lines.append(line | {"seconds": seconds.get(row["id"], np.nan)})
    return pd.DataFrame(lines)


def differences(runs: pd.DataFrame) -> pd.DataFrame:
    """One line a cell: n seeds that have both, mean of bf16 - fp32 with the half-width of the 95 %
    t interval of each metric, the median ratio of training seconds fp32 / bf16.

    The last line takes the mean over cells inside each seed first; n counts the seeds that have
    every cell. One seed has no interval: NaN. ValueError where a precision is missing altogether.
    """
    pairs = runs.pivot(index=["cell", "seed"], columns="precision")
    if not {"fp32", "bf16"} <= set(runs["precision"]):
        raise ValueError(f"needs fp32 and bf16 rows, found {sorted(set(runs['precision']))}")
    changes = pd.DataFrame({name: pairs[name, "bf16"] - pairs[name, "fp32"] for name in METRICS})
    faster = pairs["seconds", "fp32"] / pairs["seconds", "bf16"]
    lines = []
    for cell, members in changes.groupby("cell"):
        lines.append(_line(cell, members.dropna(), faster[members.index].median()))
    complete = changes.unstack("cell").dropna().stack("cell", future_stack=True)
    lines.append(_line("all cells", complete.groupby("seed").mean(), faster.median()))
    return pd.DataFrame(lines)


def _line(cell: str, by_seed: pd.DataFrame, faster: float) -> dict[str, object]:
    n = len(by_seed)
    width = stats.t.ppf(0.975, n - 1) / np.sqrt(n) if n > 1 else np.nan
    line: dict[str, object] = {"cell": cell, "n": n}
    for name in METRICS:
        line[name] = by_seed[name].mean()
        line[f"{name}_ci95"] = by_seed[name].std(ddof=1) * width
    return line | {"seconds_fp32_over_bf16": faster}


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, default=common.HERE / "results")
    options = parser.parse_args()
    rows = Store(options.results).rows()
    timings = [json.loads(path.read_text()) for path in options.results.rglob("timings/*.json")]
    found = differences(table(rows, {one["id"]: one["seconds"] for one in timings}))
    print(found.to_string(index=False, float_format="%.4f"))
    options.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(options.out / "precision.csv", index=False, float_format="%.6f")


if __name__ == "__main__":
    main()
