"""Tables of the self-distillation study: cells, paired effects, the factorial, heads, sizes."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdlib import evaluate, models
from kdlib.config import Run
from kdlib.grid import NO_KD
from kdlib.registry import MODELS
from kdlib.report.tables import cell_table, means, paired
from kdlib.store import Row
from kdlib.studies.self_distillation import PARTS, SUBSETS, SelfDistillation

METRICS = [
    "top1_error", "top5_error", "nll", "ece", "ece_10", "aurc", "e_aurc", "nll_after", "ece_after",
]  # fmt: skip
SCALED = ["nll", "ece"]  # what one temperature changes
PLAIN = ["ece_floor", "T", "kd_share_first", "kd_share_last"]
CELL = ["model", "method"]


def run_table(rows: Sequence[Row], wanted: Sequence[Run]) -> pd.DataFrame:
    """One line a run: model, method, seed and its numbers; NaN where its row is missing."""
    found = {row["id"]: row for row in rows}
    return pd.DataFrame(
        {"id": run.id, **run.labels, "seed": run.seed} | _numbers(found.get(run.id))
        for run in wanted
    )


def _numbers(row: Row | None) -> dict[str, Any]:
    if row is None:
        return dict.fromkeys(METRICS + PLAIN, np.nan) | {"flags": ["a row is missing"]}
    test, share = row["metrics"]["test"], row["kd_share"]
    after = row["metrics"].get("temperature", {})  # nothing is fitted without validation images
    found = test | {"top1_error": 1 - test["acc"], "T": after.get("T")}
    found |= {f"{name}_after": after.get(name) for name in ("nll", "ece")}
    found |= {f"kd_share_{moment}": share.get(moment) for moment in ("first", "last")}
    numbers = {name: found[name] for name in METRICS + PLAIN}
    floats = {name: np.nan if value is None else value for name, value in numbers.items()}
    return floats | {"flags": row["flags"]}


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """One line a model and method: means over seeds with half-widths of 95 % t intervals.

    nll_after, ece_after: after one temperature T fitted on validation. table: of `run_table`.
    """
    return cell_table(table, CELL, METRICS, PLAIN)


def versus_baseline(table: pd.DataFrame) -> pd.DataFrame:
    """One line a model and method: method - plain network, paired inside each seed.

    nll_versus_scaled, ece_versus_scaled: the method as trained - the plain network after its one
    temperature, which is what the method has to beat to be worth having for its probabilities.
    """
    on, plain = ["model", "seed"], table["method"] == NO_KD
    level, base = table[~plain], table[plain]
    scaled = base.assign(**{name: base[f"{name}_after"] for name in SCALED})
    gaps = means(paired(level, base, on, METRICS), CELL, METRICS, "_effect")
    against = means(paired(level, scaled, on, SCALED), CELL, SCALED, "_versus_scaled")
    return gaps.merge(against.drop(columns="seeds"), on=CELL)


def ablations(table: pd.DataFrame, params: SelfDistillation) -> pd.DataFrame:
    """One line a cell of the grids beside the main one: its difference from the same cell without
    what the grid changes (BYOT from its first head, the first of the models), inside each seed."""
    by = ["ablation", *CELL, "versus", "versus method"]
    by_cell = dict(list(table.groupby(CELL, sort=False)))
    main = set(itertools.product(params.models, params.methods))
    found = []
    for name, part in params.grids.items():
        levels = part.models or params.models, part.methods or params.methods
        for model, method in itertools.product(*levels):
            parts = (params.options.get(one, {}).get("of", one) for one in method.split("+"))
            base = model if model in params.models else params.models[0], "+".join(parts)
            if (model, method) not in main and base in by_cell and base != (model, method):
                gaps = paired(by_cell[model, method], by_cell[base], ["seed"], METRICS)
                labels = dict(zip(by, (name, model, method, *base), strict=True))
                found.append(gaps.assign(**labels))
    return means(pd.concat(found), by, METRICS, "_effect") if found else pd.DataFrame()


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """The 2^3 factorial of a model, computed inside each seed that has all eight subsets.

    A main effect is the mean of the four differences with - without a part; a two-way interaction
    is how much the effect of one differs with and without the other, the mean over the third; the
    three-way one how much that differs with and without the third.
    """
    found = []
    for model, group in table.groupby("model", sort=False):
        if not set(SUBSETS) <= set(group["method"]):
            continue
        wide = group.pivot(index="seed", columns="method", values=METRICS)
        for size in range(1, len(PARTS) + 1):
            for parts in itertools.combinations(PARTS, size):
                signs = np.array([_sign(parts, method) for method in SUBSETS])
                weights = signs / 2 ** (len(PARTS) - size)
                by_seed = {name: wide[name][list(SUBSETS)] @ weights for name in METRICS}
                found.append(pd.DataFrame(by_seed).assign(model=model, effect=" x ".join(parts)))
    by = ["model", "effect"]
    return means(pd.concat(found), by, METRICS, "_effect") if found else pd.DataFrame()


def _sign(parts: Sequence[str], method: str) -> int:
    return int(np.prod([1 if part in method.split("+") else -1 for part in parts]))


def heads(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a model, method and head that was taught to classify, from input to output, and
    their ensemble (mean of the probabilities): means over seeds with intervals, and what it differs
    by from the final head (`_effect`), paired inside each seed."""
    kinds, by = ["acc", "nll", "ece"], [*CELL, "head"]
    found = pd.DataFrame(
        row["labels"]
        | {"head": head, "seed": row["run"]["seed"]}
        | {name: numbers[name] for name in [*kinds, "ece_floor"]}
        for row in rows
        for head, numbers in sorted(row["metrics"].get("heads", {}).items(), key=_depth)
    )
    if found.empty:
        return found
    final = found["head"] == evaluate.FINAL
    gaps = paired(found[~final], found[final], [*CELL, "seed"], kinds)
    effects = means(gaps, by, kinds, "_effect").drop(columns="seeds")
    return means(found, by, [*kinds, "ece_floor"]).merge(effects, on=by, how="left")


def _depth(head: tuple[str, Any]) -> tuple[int, str]:
    """Where a head stands: stages by number, the final head, the ensemble."""
    last = {evaluate.FINAL: 1, evaluate.ENSEMBLE: 2}
    return last.get(head[0], 0), head[0]


def parameters(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a model: trainable parameters, and millions of floating-point operations of one
    forward of one image, of the plain network and with side heads, where it can have them. Only
    training and the ensemble need them: a finished network may drop its side heads."""
    lines = []
    for name, shape in {row["network"]["name"]: row["network"] for row in rows}.items():
        plain = {key: value for key, value in shape.items() if key != "side_heads"}
        can = MODELS[name].facts.side_heads_min_size is not None
        lines.append({
            "model": name,
            "classes": shape["num_classes"],
            "image size": shape["image_size"],
            **_cost(plain),
            **(_cost(plain | {"side_heads": True}, "_with_heads") if can else {}),
        })  # fmt: skip
    return pd.DataFrame(lines).convert_dtypes()


def _cost(shape: Mapping[str, Any], end: str = "") -> dict[str, float]:
    parameters, flops = models.size(**shape)
    return {f"parameters{end}": parameters, f"MFLOP{end}": flops / 1e6}
