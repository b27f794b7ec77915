"""The report of the pilot: at which length differences keep their signs; nothing trains."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.config import Run
from kdlib.grid import NO_KD
from kdlib.plots import training_length as plots
from kdlib.quantities import QUANTITIES
from kdlib.report import html
from kdlib.report.compose import Section, notes
from kdlib.report.tables import (
    CELL,
    cell_label,
    cells,
    means,
    missing,
    paired,
    present,
    run_table,
)
from kdlib.report.text import DIGITS, seeds_note
from kdlib.store import Row
from kdlib.studies.training_length import (
    STEM,
    TrainingLength,
    one_choice,
    runs,
    student_runs,
    teacher_runs,
)

# How large a difference must be to have a sign: the margins of claims, whose file is not packaged.
MARGINS = {"acc": 0.005, "ece": 0.005}
AGAINST_NONE = "KD or none"
QUESTION = """Each length is a training of its own: its learning rate falls to 0 at its end, and its
teachers are as long as its students. A difference is that of two students which are equal in all
but one choice. Its sign counts where its size is beyond the margin that claims are judged with; it
has settled at a length when from there on it is never beyond the margin on both sides."""


def write(rows: Sequence[Row], params: TrainingLength, out_dir: str | Path) -> Path:
    """Write the pilot's tables, figure and section of the report; the page's path.

    rows: stored rows, of other params too (they are left out). ValueError where there is no row of
    a student of these params.
    """
    own, head = present(rows, runs(params)), title(params)
    lacking, found = missing(rows, runs(params)), tables(rows, params)
    section = Section(Path(out_dir), STEM, params.setting, lacking, notes(own))
    section.tables(found)
    figure = plots.lengths(found["students"], against_none(found), MARGINS, head)
    facts = [*[DIGITS] * (params.data == "digits"), html.made_with(own)]
    folders, note = {row["id"]: row["folder"] for row in own}, seeds_note(len(params.seeds))
    parts = [
        html.note(QUESTION),
        html.items(answer(found, params), "answer"),
        section.figure("training_length", "Students, and differences, by length", figure),
        html.table(found["settled"], "The length at which each difference has settled"),
        html.folded("Differences", html.table(found["differences"], note)),
        html.folded("Students", html.table(found["students"], note, folders)),
        html.folded("Teachers", html.table(found["teachers"], note, folders)),
        html.items(facts),
        section.files(),
    ]
    return section.write(head, parts, "\n".join([head, *answer(found, params)]) + "\n")


def deterministic_tables(
    rows: Sequence[Row], params: TrainingLength, out_dir: str | Path = ""
) -> dict[str, pd.DataFrame]:
    """Every table, a function of the rows alone, by its file's stem."""
    return tables(rows, params)


def tables(rows: Sequence[Row], params: TrainingLength) -> dict[str, pd.DataFrame]:
    """Students and teachers of each length, differences of students, and where they settle."""
    students, teachers = student_runs(params), teacher_runs(params)
    if not present(rows, students):
        raise ValueError(f"rows: none of the {len(rows)} is a student of these params")
    found = differences(rows, students)
    return {
        "students": cells(rows, students).drop(columns="harmonic"),
        "teachers": cells(rows, teachers),
        "differences": found,
        "settled": settled(found, params.lengths),
    }


def against_none(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The differences to students without KD, of `tables`."""
    return found["differences"][found["differences"]["in"] == AGAINST_NONE]


def differences(rows: Sequence[Row], students: Sequence[Run]) -> pd.DataFrame:
    """One line a length and a pair of students that differ in one choice, the later in the order of
    the params minus the earlier: means over seeds with half-widths as in
    `kdlib.report.tables.over_seeds`, and the sign of each of `MARGINS` beyond its margin."""
    table = run_table(rows, students)
    kinds = list(dict.fromkeys(tuple(run.labels[name] for name in CELL) for run in students))
    of_kind = dict(list(table.groupby(CELL, observed=True)))
    gaps = [
        paired(of_kind[other], of_kind[one], ["epochs", "seed"]).assign(**_named(one, other))
        for one, other in itertools.combinations(kinds, 2)
        if one_choice(one, other)
    ]
    found = means(pd.concat(gaps), ["difference", "in", "epochs"], suffix="_effect")
    for name, margin in MARGINS.items():
        effect = found[f"{name}_effect"]
        found[f"{name}_sign"] = (effect > margin).astype(int) - (effect < -margin)
    return found.astype({"epochs": int})


def _named(one: Sequence[Any], other: Sequence[Any]) -> dict[str, Any]:
    names = (cell_label(dict(zip(CELL, cell, strict=True))) for cell in (other, one))
    kinds = {"student loss": one[2] != other[2], "mixup": one[3] != other[3]}
    kinds |= {AGAINST_NONE: NO_KD in (one[0], other[0]), "teaching": True}
    return {"difference": " - ".join(names), "in": next(kind for kind in kinds if kinds[kind])}


def settled(table: pd.DataFrame, lengths: Sequence[int]) -> pd.DataFrame:
    """One line a difference: the shortest length from which on its sign never turns, for each of
    `MARGINS`; the longest never proves it, for nothing longer was trained."""
    lines = []
    for name, part in table.groupby("difference", sort=False):
        signs = part.set_index("epochs")
        line = {"difference": name}
        for metric in MARGINS:
            line[f"{metric}_settled"] = settled_at(signs[f"{metric}_sign"].to_dict())
        lines.append(line)
    return pd.DataFrame(lines)


def settled_at(signs: Mapping[int, int]) -> int:
    """The shortest length from which on no two signs (-1, 0, 1) are opposite.

    >>> settled_at({10: -1, 20: 1, 40: 0, 80: 1}), settled_at({10: 0, 20: 1}), settled_at({5: 1})
    (20, 10, 5)
    """
    return next(
        length
        for length in sorted(signs)
        if not {-1, 1} <= {sign for other, sign in signs.items() if other >= length}
    )


def answer(found: Mapping[str, pd.DataFrame], params: TrainingLength) -> list[str]:
    """Which gains over no KD fade with length, from which length on signs stay, how far sizes still
    move, and what KD does against no KD at each length."""
    table = found["differences"]
    texts = [_faded(against_none(found))] if table["epochs"].nunique() > 1 else []
    texts += [_settled(found["settled"], metric, max(params.lengths)) for metric in MARGINS]
    texts += [_moves(table, metric) for metric in MARGINS if table["epochs"].nunique() > 1]
    for name, part in against_none(found).groupby("difference", sort=False):
        acc = ", ".join(f"{100 * value:+.1f}" for value in part["acc_effect"])
        ece = ", ".join(f"{value:+.3f}" for value in part["ece_effect"])
        where = ", ".join(map(str, part["epochs"]))
        texts.append(f"{name}: accuracy {acc} points, ECE {ece} at {where} epochs.")
    note = seeds_note(len(params.seeds)).split(":")[0]
    return [*texts, f"{note[0].upper()}{note[1:]}."]


def _faded(table: pd.DataFrame) -> str:
    """Which gains in accuracy over no KD more than halve until the longest training."""
    written, told = QUANTITIES["acc"], []
    gains = table.pivot(index="difference", columns="epochs", values="acc_effect")
    for name, gain in gains.loc[table["difference"].unique()].iterrows():
        largest, last = gain.max(), gain.iloc[-1]
        if largest > MARGINS["acc"] and last < largest / 2:
            told.append(f"{name}: {written.amount(largest)} at {gain.idxmax()} epochs, "
                        f"{written.amount(last)} at {gain.index[-1]}")  # fmt: skip
    if not told:
        return "No gain in accuracy over no KD more than halves until the longest training."
    return f"Gains in accuracy over no KD that more than halve with length: {'; '.join(told)}."


def _settled(table: pd.DataFrame, metric: str, longest: int) -> str:
    """From which length on no difference turns, or which still do."""
    written, lengths = QUANTITIES[metric], table[f"{metric}_settled"]
    margin = written.size(MARGINS[metric])
    if lengths.max() < longest:
        return (
            f"In {written.word} none of {len(table)} differences turns its sign beyond {margin} "
            f"from {lengths.max()} epochs on."
        )
    late = table.loc[lengths == longest, "difference"]
    return (
        f"In {written.word} {len(late)} of {len(table)} differences still turn on the way to "
        f"{longest} epochs, beyond {margin}: {'; '.join(late)}."
    )


def _moves(table: pd.DataFrame, metric: str) -> str:
    """How far a difference moves at most from each length to the longest."""
    written = QUANTITIES[metric]
    sizes = table.pivot(index="difference", columns="epochs", values=f"{metric}_effect")
    longest = sizes.columns.max()
    moves = sizes.drop(columns=longest).sub(sizes[longest], axis=0).abs().max()
    told = ", ".join(f"{written.size(move)} from {length}" for length, move in moves.items())
    return f"Sizes still move: {written.word} until {longest} epochs by up to {told} epochs on."


def title(params: TrainingLength) -> str:
    """What the pilot was measured on."""
    factor = params.imbalance_factor
    tail = f" IF {factor:g}" if factor else ""
    networks, seeds = f"{params.teacher_model} -> {params.student_model}", len(params.seeds)
    seeds_told = f"{seeds} seed{'s' * (seeds != 1)}"
    return f"How long to train: {params.data}{tail}, {networks}, {seeds_told}"
