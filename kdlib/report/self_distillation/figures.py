"""What rows, stored times and predictions of the study allow to draw."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from kdlib import evaluate, metrics
from kdlib.grid import NO_KD
from kdlib.plots import reliability
from kdlib.plots import self_distillation as plots
from kdlib.report.images import predictions
from kdlib.report.self_distillation import words
from kdlib.store import Row
from kdlib.studies.self_distillation import SUBSETS, SelfDistillation

Figures = dict[str, tuple[str, Figure]]


def draw(
    rows: Sequence[Row],
    tables: Mapping[str, pd.DataFrame],
    clocked: pd.DataFrame,
    params: SelfDistillation,
    out_dir: Path,
) -> Figures:
    """File name -> caption and figure. rows: of these params; tables: the section's; clocked: of
    `seconds.timed`."""
    drawn = {}
    for kind, column, head, caption in (
        ("versus_baseline", "method", "change from the plain network", words.VERSUS),
        ("effects", "effect", "effects of the parts", words.FACTORIAL),
    ):
        table = tables[kind]
        # Of the parts of one seed nothing can be said: their table stands on the page.
        fewest = 2 if kind == "effects" else 1
        table = table[table["seeds"] >= fewest] if len(table) else table
        if len(table):
            table = _labelled(words.named(table, params), column)
            figure = plots.factor_effects(table, _title(params, table, head))
            drawn[kind] = f"{caption}: {words.seeds_of(table)}", figure
    methods = list(dict.fromkeys(words.named(tables["cells"], params)["method"]))
    main = clocked[clocked["model"].isin(params.models)]
    if len(main):
        title = _title(params, main, "error and cost")
        figure = plots.error_vs_seconds(words.named(main, params), methods, title)
        drawn["error_vs_seconds"] = f"{words.ERROR_AND_COST}: {words.seeds_of(main)}", figure
    drawn |= _heads(tables, methods, params)
    return drawn | _reliability(rows, params, out_dir)


def _title(params: SelfDistillation, table: pd.DataFrame, head: str) -> str:
    """A figure's title, with the model where there is only one."""
    models = table["model"].unique()
    return f"{words.title(params)}{f', {models[0]}' * (len(models) == 1)}: {head}"


def _labelled(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A table of effects with their `name` in a figure: the model where there are several, and the
    number of seeds."""
    several = table["model"].nunique() > 1
    names = table["model"] + ": " + table[column] if several else table[column]
    return table.assign(name=names + " (n=" + table["seeds"].astype(str) + ")")


def _heads(
    tables: Mapping[str, pd.DataFrame], methods: Sequence[str], params: SelfDistillation
) -> Figures:
    """The heads of the first model that has any."""
    heads, cells = tables["heads"], tables["cells"]
    own = heads[heads["model"].isin(params.models)] if len(heads) else heads
    if own.empty:
        return {}
    model = own["model"].iloc[0]
    table = words.named(own[own["model"] == model], params)
    plain = {}
    for line in cells[(cells["model"] == model) & (cells["method"] == NO_KD)].to_dict("records"):
        plain = {"acc": 1 - line["top1_error"], "ece": line["ece"]}
    figure = plots.by_head(table, plain, methods, _title(params, table, "its heads"))
    return {"by_head": (f"{words.BY_HEAD}: {words.seeds_of(table)}", figure)}


def _reliability(rows: Sequence[Row], params: SelfDistillation, out_dir: Path) -> Figures:
    """Reliability of each head, of the first and last subset with heads of the first model and
    seed, where their predictions are here."""
    labels, seed = rows[0]["labels"], rows[0]["run"]["seed"]
    same = [
        row
        for row in rows
        if "heads" in row["metrics"]
        and row["labels"]["method"] in SUBSETS
        and row["labels"]["model"] == labels["model"]
        and row["run"]["seed"] == seed
    ]
    found = predictions([*same[:1], *same[1:][-1:]], out_dir)
    panels: dict[str, dict] = {}
    for row in same:
        if row["id"] in found:
            stored, method = found[row["id"]], words.method_name(row["labels"]["method"])
            for head, probs in evaluate.head_probs(stored).items():
                bins = metrics.reliability_bins(probs, stored["test_labels"])
                panels.setdefault(head, {})[method] = bins
    if not panels:
        return {}
    images = len(stored["test_labels"])
    caption = (
        f"Accuracy against confidence of each head: {labels['model']}, seed {seed}, {images} test "
        "images; 15 bins, a marker's area is the share of images in its bin (5 or more)"
    )
    title = f"{words.title(params)}: reliability by head, {labels['model']}, seed {seed}"
    return {"reliability_by_head": (caption, reliability(panels, title))}
