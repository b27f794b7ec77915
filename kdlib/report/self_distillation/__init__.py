"""The report of the self-distillation study, from stored rows only: nothing trains."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from kdlib import evaluate, metrics
from kdlib.config import Run
from kdlib.plots import reliability
from kdlib.plots import self_distillation as plots
from kdlib.report import html
from kdlib.report.compose import Section
from kdlib.report.images import predictions
from kdlib.report.self_distillation import tables, words
from kdlib.report.self_distillation.published import beside, pairs, published_cells
from kdlib.report.self_distillation.tables import CELL
from kdlib.report.tables import csv, missing, present
from kdlib.report.text import DIGITS, seeds_note
from kdlib.store import Row, write_atomic
from kdlib.studies.self_distillation import STEM, SUBSETS, SelfDistillation, runs

SECONDS = "seconds.csv"
Tables = Mapping[str, pd.DataFrame]

__all__ = [
    "deterministic_tables",
    "figures",
    "has_seconds",
    "write",
    "write_seconds",
]


def write(rows: Sequence[Row], params: SelfDistillation, out_dir: str | Path) -> Path:
    """Write the study's tables, figures and section of the report; the page's path.

    rows: stored rows, of other params too (they are left out). What needs `write_seconds` or
    predictions is left out where they are not there. ValueError where there is no row of these
    params.
    """
    section = Section(Path(out_dir), STEM, params.setting)
    own, found = present(rows, runs(params)), deterministic_tables(rows, params, out_dir)
    section.tables(found)
    timed = _timed(found["cells"], _seconds(params, out_dir))
    title, lines = words.title(params), words.answer(found)
    drawn = {
        name: section.figure(name, caption, figure)
        for name, (caption, figure) in figures(rows, params, out_dir).items()
    }
    lacking = missing(rows, runs(params))
    facts = [*words.scale(own), *[DIGITS] * (params.data == "digits")]
    facts += [f"{len(lacking)} runs are missing: {', '.join(lacking)}."] * bool(lacking)
    parts = [
        html.note(words.QUESTION),
        html.items(lines, "answer"),
        html.items(facts),
        html.folded("How it is measured", html.note(words.MEASURED)),
        *_parts(found, timed, drawn, {row["id"]: row["folder"] for row in own}),
        html.items([html.made_with(own)]),
        section.files(),
    ]
    return section.write(title, parts, words.summary(title, lines))


def deterministic_tables(
    rows: Sequence[Row], params: SelfDistillation, out_dir: str | Path = ""
) -> dict[str, pd.DataFrame]:
    """Every table that is a function of the rows alone, by its file's stem. ValueError where there
    is no row of these params."""
    wanted = runs(params)
    own = present(rows, wanted)
    if not own:
        raise ValueError(f"rows: none of the {len(rows)} is a run of these params")
    every, theirs = tables.run_table(rows, wanted), published_cells()
    averages = tables.cells(every)
    return {
        "cells": averages,
        "versus_baseline": tables.versus_baseline(every),
        "effects": tables.effects(every),
        "ablations": tables.ablations(every, params),
        "heads": tables.heads(own),
        "parameters": tables.parameters(own),
        "published": beside(averages, theirs, params.data),
        "published_pairs": pairs(theirs),
    }


def has_seconds(made: Sequence[Run], params: SelfDistillation, out_dir: str | Path) -> bool:
    """Whether `write_seconds` has stored the time of all these runs."""
    known = set(_seconds(params, out_dir)[CELL].itertuples(index=False, name=None))
    return known >= {tuple(run.labels.values()) for run in made}


def _seconds(params: SelfDistillation, out_dir: str | Path) -> pd.DataFrame:
    path = Section(Path(out_dir), STEM, params.setting).folder / SECONDS
    if not path.exists():
        return pd.DataFrame(columns=[*CELL, "seconds_an_epoch"])
    return pd.read_csv(path)


def write_seconds(
    made: Sequence[Run], found: Mapping[str, float], params: SelfDistillation, out_dir: str | Path
) -> None:
    """Store the seconds an epoch of runs by id (`kdlib.train.seconds_an_epoch`), as seconds.csv:
    a timing, outside every comparison of results."""
    table = pd.DataFrame(run.labels | {"seconds_an_epoch": found[run.id]} for run in made)
    write_atomic(Section(Path(out_dir), STEM, params.setting).folder / SECONDS, csv(table))


def _timed(cells: pd.DataFrame, clocked: pd.DataFrame) -> pd.DataFrame:
    """The cells whose time is known, with how many times that of the plain network it is."""
    table = clocked.merge(cells, on=CELL)
    plain = table[table["method"] == "none"].set_index("model")["seconds_an_epoch"]
    slower = table["seconds_an_epoch"] / table["model"].map(plain)
    table = table[[*CELL, "seconds_an_epoch", "top1_error", "top1_error_ci95"]]
    return table.assign(slower=slower.astype(float))


def figures(
    rows: Sequence[Row], params: SelfDistillation, out_dir: str | Path
) -> dict[str, tuple[str, Figure]]:
    """What rows, stored times and predictions allow to draw: file name -> caption and figure."""
    own, found = present(rows, runs(params)), deterministic_tables(rows, params, out_dir)
    drawn, title = {}, words.title(params)
    for kind, column, caption in (
        ("effects", "effect", words.FACTORIAL), ("versus_baseline", "method", words.VERSUS),
    ):  # fmt: skip
        if len(found[kind]):
            drawn[kind] = caption, plots.factor_effects(_labelled(found[kind], column), title)
    timed = words.named(_timed(found["cells"], _seconds(params, out_dir)))
    if len(timed):
        figure = plots.error_vs_seconds(timed, title)
        drawn["error_vs_seconds"] = "Top-1 error and what an epoch costs", figure
    panels = _reliability(own, Path(out_dir))
    if panels:
        model, seed = own[0]["labels"]["model"], own[0]["run"]["seed"]
        figure = reliability(panels, f"{title}: reliability by head, {model}, seed {seed}")
        drawn["reliability_by_head"] = "Accuracy against confidence of each head", figure
    return drawn


def _labelled(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A table of effects with their `name` in a figure: the model where there are several."""
    table = words.named(table)
    several = table["model"].nunique() > 1
    names = table["model"] + ": " + table[column] if several else table[column]
    return table.assign(name=names)


def _reliability(rows: Sequence[Row], out_dir: Path) -> dict[str, dict]:
    """Head -> method -> bins, of the first and last subset with heads of the first model and seed,
    where their predictions are here."""
    first = rows[0]
    same = [
        row
        for row in rows
        if "heads" in row["metrics"]
        and row["labels"]["method"] in SUBSETS
        and row["labels"]["model"] == first["labels"]["model"]
        and row["run"]["seed"] == first["run"]["seed"]
    ]
    found = predictions([*same[:1], *same[1:][-1:]], out_dir)
    panels: dict[str, dict] = {}
    for row in same:
        if row["id"] in found:
            stored, method = found[row["id"]], words.method_name(row["labels"]["method"])
            for head, probs in evaluate.head_probs(stored).items():
                bins = metrics.reliability_bins(probs, stored["test_labels"])
                panels.setdefault(head, {})[method] = bins
    return panels


def _parts(
    found: Tables, timed: pd.DataFrame, drawn: Mapping[str, str], folders: Mapping[str, str]
) -> list[str]:
    """The tables and figures of the section, in order."""
    shown = {name: words.named(table) for name, table in found.items()}
    note = seeds_note(int(found["cells"]["seeds"].max()))
    narrow = shown["cells"].drop(columns=["runs", "kd_share_first", "kd_share_last"])
    parts = [html.heading("Methods"), html.table(narrow, f"{words.CELLS}; {note}")]
    parts.append(drawn.get("versus_baseline", ""))
    parts.append(html.folded(words.VERSUS, html.table(shown["versus_baseline"])))
    if len(shown["effects"]):
        parts += [html.heading("The three parts"), drawn["effects"]]
        parts.append(html.table(shown["effects"], words.FACTORIAL))
    if len(shown["ablations"]):
        parts += [html.heading("Ablations"), html.table(shown["ablations"], words.ABLATIONS)]
    if len(shown["heads"]):
        parts += [html.heading("Heads"), html.table(shown["heads"], words.HEADS)]
        parts.append(drawn.get("reliability_by_head", ""))
    parts += [html.heading("Cost"), html.table(shown["parameters"], words.SIZES)]
    if len(timed):
        parts += [drawn["error_vs_seconds"], html.table(words.named(timed), words.TIMES)]
    parts.append(html.heading("What was published"))
    if len(shown["published"]):
        parts.append(html.table(shown["published"], words.PUBLISHED))
    parts.append(html.table(shown["published_pairs"], words.PAIRED))
    everything = html.table(shown["cells"], folders=folders)
    return [*parts, html.heading("All runs"), html.folded("Every cell with its rows", everything)]
