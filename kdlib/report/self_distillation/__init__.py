"""The report of the self-distillation study, from stored rows only: nothing trains."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from kdlib.report import html
from kdlib.report.compose import Section, notes
from kdlib.report.self_distillation import figures as drawing
from kdlib.report.self_distillation import tables, words
from kdlib.report.self_distillation.conclusion import answer
from kdlib.report.self_distillation.published import beside, pairs, published_cells
from kdlib.report.self_distillation.seconds import (
    has_seconds,
    stored_seconds,
    timed,
    write_seconds,
)
from kdlib.report.tables import missing, present
from kdlib.report.text import DIGITS
from kdlib.store import Row
from kdlib.studies.self_distillation import STEM, SelfDistillation, runs

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
    own, found = present(rows, runs(params)), deterministic_tables(rows, params, out_dir)
    lacking = missing(rows, runs(params))
    section = Section(Path(out_dir), STEM, params.setting, lacking, notes(own))
    section.tables(found)
    clocked = timed(found["cells"], stored_seconds(params, out_dir))
    title, lines = words.title(params), answer(found, clocked, params)
    drawn = {
        name: section.figure(name, caption, figure)
        for name, (caption, figure) in figures(rows, params, out_dir).items()
    }
    facts = [*words.scale(own), *words.noise(found["published_pairs"])]
    facts += [DIGITS] * (params.data == "digits")
    shown = {name: words.named(table, params) for name, table in found.items()}
    parts = [
        html.note(words.QUESTION),
        html.items(lines, "answer"),
        html.items(facts),
        html.folded("How it is measured", html.note(words.MEASURED)),
        *_of_methods(shown, drawn),
        *_of_networks(shown, words.named(clocked, params), drawn),
        *_of_others(shown, {row["id"]: row["folder"] for row in own}),
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
    averages, effects = tables.cells(every), tables.versus_baseline(every)
    return {
        "cells": averages,
        "versus_baseline": effects,
        "effects": tables.effects(every),
        "ablations": tables.ablations(every, params),
        "heads": tables.heads(own),
        "parameters": tables.parameters(own),
        "published": beside(
            averages[averages["model"].isin(params.models)], effects, theirs, params.data
        ),
        "published_pairs": pairs(theirs),
    }


def figures(rows: Sequence[Row], params: SelfDistillation, out_dir: str | Path) -> drawing.Figures:
    """What rows, stored times and predictions allow to draw: file name -> caption and figure."""
    own, found = present(rows, runs(params)), deterministic_tables(rows, params, out_dir)
    clocked = timed(found["cells"], stored_seconds(params, out_dir))
    return drawing.draw(own, found, clocked, params, Path(out_dir))


def _of_methods(shown: Tables, drawn: Mapping[str, str]) -> list[str]:
    """What the methods and their parts do."""
    narrow = shown["cells"].drop(columns=["runs", "kd_share_first", "kd_share_last"])
    parts = [html.heading("Methods"), html.table(narrow, words.CELLS)]
    if len(shown["versus_baseline"]):
        parts.append(drawn.get("versus_baseline", ""))
        parts.append(html.table(shown["versus_baseline"], words.VERSUS_TABLE))
    if len(shown["effects"]):
        parts += [html.heading("The three parts"), drawn.get("effects", "")]
        parts.append(html.table(shown["effects"], words.FACTORIAL_TABLE))
    if len(shown["ablations"]):
        parts += [html.heading("Ablations"), html.table(shown["ablations"], words.ABLATIONS)]
    return parts


def _of_networks(shown: Tables, clocked: pd.DataFrame, drawn: Mapping[str, str]) -> list[str]:
    """What the heads do, and what methods and heads cost."""
    parts = []
    if len(shown["heads"]):
        parts += [html.heading("Heads"), drawn.get("by_head", "")]
        parts += [html.table(shown["heads"], words.HEADS), drawn.get("reliability_by_head", "")]
    parts += [html.heading("Cost"), html.table(shown["parameters"], words.SIZES)]
    if len(clocked):
        parts.append(drawn.get("error_vs_seconds", ""))
        parts.append(html.table(clocked, words.times(clocked)))
    return parts


def _of_others(shown: Tables, folders: Mapping[str, str]) -> list[str]:
    """What was published, and every run. folders: of the rows, by run id."""
    parts = [html.heading("What was published")]
    if len(shown["published"]):
        parts.append(html.table(shown["published"], words.PUBLISHED))
    parts.append(html.table(shown["published_pairs"], words.PAIRED))
    everything = html.table(shown["cells"], folders=folders)
    return [*parts, html.heading("All runs"), html.folded("Every cell with its rows", everything)]
