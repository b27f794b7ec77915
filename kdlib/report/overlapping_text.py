"""What the overlapping-teachers study's section says in words."""

import pandas as pd

from kdlib import models
from kdlib.report.choice import ENOUGH, objections
from kdlib.report.overlapping_tables import ALONE, ORACLE, UNTOLD, Overlap
from kdlib.report.text import DIGITS, VERDICT_SEEDS, readable, seeds_note
from kdlib.studies.overlapping import ENSEMBLE, RESTRICTED, STUDENT, OverlappingTeachers

QUESTION = (
    "Several teachers, each trained on some of the classes; one student that learns all of them. "
    "Rules that read labels ask the teachers that know the true class; the others ask all of them. "
    "restricted_kd matches each teacher by the student's distribution among that teacher's classes "
    "(cf. Vongkulbhisal et al., CVPR 2019) and so asserts nothing about classes a teacher has not "
    "seen. With alpha 1 and a rule without labels no label is read in training."
)
SAME_START = (
    "The teachers of a seed start from the same weights where they are built alike (one model, as "
    "many classes), so they may agree more than teachers that start apart."
)
THAN = {
    ALONE: "the same student of labels alone",
    ORACLE: "its teachers, where they are told who knows the image's class (oracle)",
    UNTOLD: "its teachers, where they are not told (label_free)",
}


def title(params: OverlappingTeachers) -> str:
    """What a task was measured on."""
    return f"Teachers with overlapping class sets on {params.data}: {', '.join(params.teachers)}"


def relation(effect: float, half: float) -> str:
    """What a difference in accuracy says about two networks; half: of its interval, NaN for none.

    >>> relation(0.02, 0.01), relation(-0.02, 0.01), relation(0.02, 0.03)
    ('more accurate than', 'less accurate than', 'not clearly apart in accuracy from')
    >>> relation(0.02, float("nan")), relation(0.0, float("nan"))
    ('in one seed more accurate than', 'in one seed as accurate as')
    """
    if pd.isna(half):
        words = {1: "more accurate than", -1: "less accurate than", 0: "as accurate as"}
        return f"in one seed {words[(effect > 0) - (effect < 0)]}"
    if abs(effect) <= half:
        return "not clearly apart in accuracy from"
    return "more accurate than" if effect > 0 else "less accurate than"


def answer(found: Overlap) -> list[str]:
    """What was found, in sentences: the published rule, the headline beside labels and without
    them, each against labels alone and against the teachers; then what validation would choose."""
    texts = [_against(found, cell) for cell in _asked(found)]
    return [*filter(None, texts), *_choice(found), *_teachers(found), *_size(found), _note(found)]


def _asked(found: Overlap) -> list[str]:
    """The cells that sentences are about: of the params' alpha and temperature, and without labels,
    of each model."""
    students = found.cells[found.cells["role"] == STUDENT]
    at = students["temperature"] == found.params.temperature
    main = at & students["method"].isin(["mean", RESTRICTED])
    main &= students["alpha"] == found.params.alpha
    free = at & (students["method"] == RESTRICTED) & (students["alpha"] == 1)
    return list(students.loc[main | free, "cell"])


def _against(found: Overlap, cell: str) -> str:
    """A student against each of THAN, in one sentence; nothing where there is none of them."""
    lines = found.effects[found.effects["cell"] == cell]
    shown = readable(lines)
    texts = []
    for at in lines.index:
        effect, half = lines.loc[at, ["acc_effect", "acc_effect_ci95"]]
        size = shown.loc[at, ["ACC effect, points", "ECE effect"]]
        seeds = lines.loc[at, "seeds"]
        texts.append(
            f"{relation(effect, half)} {THAN[lines.loc[at, 'against']]} ({size.iloc[0]} points, "
            f"ECE {size.iloc[1]}, n = {seeds})"
        )
    unlabelled = (lines["method"].eq(RESTRICTED) & lines["alpha"].eq(1)).any()
    who = f"Without a label in training, {cell}" if unlabelled else cell
    return f"{who} is {'; '.join(texts)}." if texts else ""


def _choice(found: Overlap) -> list[str]:
    """The student with teachers that validation prefers, or why it cannot say."""
    cells = found.cells
    taught = cells[cells["alpha"].notna() & (cells["seeds"] == cells["seeds"].max())]
    if taught["val_acc"].isna().all():
        return []
    students = [row for row in found.rows if row["labels"]["role"] == STUDENT]
    if reasons := objections(students):
        return [
            f"No student is called best: {' and '.join(reasons)}, and a choice takes {ENOUGH} "
            "images with every class among them."
        ]
    best = taught["val_acc"].idxmax()
    shown = readable(cells).loc[best]
    rank = int(taught["acc"].rank(ascending=False, method="min")[best])
    return [
        f"Of the students with teachers and all seeds, validation prefers {cells['cell'][best]} "
        f"({shown['validation ACC %']} % there): {shown['ACC %']} % on test, rank {rank} of "
        f"{len(taught)}."
    ]


def _teachers(found: Overlap) -> list[str]:
    """The ensembles, by who is asked."""
    shown = readable(found.cells)
    values = [
        f"{shown['method'][at]} {shown['ACC %'][at]} %"
        for at in found.cells.index[found.cells["role"] == ENSEMBLE]
    ]
    return [f"The teachers themselves, by who is asked: {', '.join(values)}."] if values else []


def _size(found: Overlap) -> list[str]:
    """What the students cost beside all teachers: smaller is not assumed."""
    pooled = found.cells[found.cells["role"] == ENSEMBLE]
    students = found.cells[found.cells["role"] == STUDENT].drop_duplicates("model")
    if pooled.empty:
        return []
    whole = pooled.iloc[0]
    return [
        f"{line['model']} has {line['parameters']:,.0f} parameters and {line['MFLOP']:.1f} MFLOP "
        f"an image, {100 * line['parameters'] / whole['parameters']:.1f} % and "
        f"{100 * line['MFLOP'] / whole['MFLOP']:.1f} % of the teachers together."
        for line in students.to_dict("records")
    ]


def _note(found: Overlap) -> str:
    """How to read the intervals."""
    most = max(found.cells["seeds"], default=1)
    fewer = (found.cells["seeds"] < most).any()
    rest = "; cells with fewer are descriptive" if fewer and most >= VERDICT_SEEDS else ""
    note = f"{seeds_note(most)}{rest}"
    return f"{note[0].upper()}{note[1:]}."


def leaks(found: Overlap) -> list[str]:
    """What pretrained weights had seen of the student's classes."""
    weights = dict.fromkeys(row["run"].get("pretrained") for row in found.rows)
    return [models.leak(one, found.classes) for one in weights if one]


def terminal(found: Overlap) -> str:
    """The section as plain text."""
    table = readable(found.cells[["cell", "seeds", "acc", "acc_ci95", "ece", "ece_ci95"]])
    lines = [title(found.params), *answer(found), table.to_string(index=False)]
    lines += leaks(found)
    lines += [DIGITS] * (found.params.data == "digits")
    return "\n".join(lines) + "\n"
