"""How good the teachers of a study's students are, and how far ahead of what labels alone make of
the student."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdlib.names import called
from kdlib.plots.multi_teacher import short
from kdlib.quantities import QUANTITIES
from kdlib.report.pairs import DIGITS, SCALE, Entry, metric_of, scale, scale_key
from kdlib.report.practice import CHOICES
from kdlib.report.tables import over_seeds

LEAD = """Lead: a teacher's accuracy on test minus that of its student when it learns from labels
alone, with the teacher's loss, inside each seed; none where a teacher knows some of the classes
only. Means ± half of the 95 % t interval over seeds."""
MEASURED = {"ACC %": "acc", "ECE": "ece", "ECE after one temperature": "temperature.ece"}


def teachers(study: str, found: Sequence[Entry]) -> pd.DataFrame:
    """For readers, one line a scale of students and kind of teacher: those of several seeds, and
    those with a lead, where any are; digits only where there is nothing else. Empty where no
    student has a teacher."""
    if study not in CHOICES:
        return pd.DataFrame()
    notebook, (choice, *_) = CHOICES[study]
    own = [one for one in found if one.facts["notebook"] == notebook and "epochs" in one.facts]
    if any(one.facts["data"] != DIGITS for one in own):
        own = [one for one in own if one.facts["data"] != DIGITS]
    by_id = {(one.facts["profile"], one.row.get("id")): one for one in found}
    plain = {}  # students of labels alone, by seed, scale and what they learn from
    for one in own:
        if choice.versus.items() <= one.facts.items():
            plain[_alike(one, one.facts.get("student_loss"))] = one
    groups: dict[tuple, dict[int, dict[str, float]]] = defaultdict(dict)
    told = {}
    for student in own:
        for name in student.row["run"].get("teachers", ()):
            teacher = by_id.get((student.facts["profile"], name))
            if teacher is None:
                continue
            key = (*scale_key(student), _kind(teacher))
            told.setdefault(key, (scale([(student, student)]), _kind(teacher)))
            beside = plain.get(_alike(student, teacher.facts.get("teacher_loss")))
            groups[key].setdefault(teacher.facts["seed"], _measured(teacher, beside))
    lines = [dict(zip(("students", "teacher"), told[key], strict=True)) | _line(by_seed)
             for key, by_seed in groups.items()]  # fmt: skip
    for wanted in (lambda line: line["seeds"] > 1, lambda line: line["lead"]):
        lines = list(filter(wanted, lines)) or lines
    table = pd.DataFrame(lines)
    if len(table) and (table["lead"] == "").all():  # of some classes each, whomever they teach
        return table.loc[:, (table != "").any()].drop(columns="students").drop_duplicates()
    return table


def _alike(student: Entry, loss: str | None) -> tuple[Any, ...]:
    """What a student shares with the one that has no teacher and learns with this loss."""
    keys = (*SCALE, "seed", "student", "mixup")
    return (*(student.facts.get(key) for key in keys), loss)


def _kind(teacher: Entry) -> str:
    facts = teacher.facts
    if "teacher_loss" in facts:
        return called(facts["teacher_loss"]) + ", mixup" * facts["mixup"]
    return short(facts["teacher"])


def _measured(teacher: Entry, plain: Entry | None) -> dict[str, float]:
    found = {name: metric_of(teacher.row, metric) for name, metric in MEASURED.items()}
    if plain and plain.row["run"].get("classes") == teacher.row["run"].get("classes"):
        alone = metric_of(plain.row, "acc")
        found |= {"alone": alone, "lead": found["ACC %"] - alone}
    return found


def _line(by_seed: dict[int, dict[str, float]]) -> dict[str, Any]:
    table = pd.DataFrame(by_seed.values())
    means = {name: over_seeds(table[name]) for name in table}
    lead = means.get("lead")
    return {
        "seeds": len(table),
        "ACC %": _level(means["ACC %"], 100, 2),
        **{name: _level(means[name], 1, 4) for name in list(MEASURED)[1:]},
        "its student without KD, ACC %": _level(means["alone"], 100, 2) if lead else "",
        "lead": QUANTITIES["acc"].amount(lead[0], lead[1]) if lead else "",
    }


def _level(found: tuple[float, float, int], factor: float, digits: int) -> str:
    mean, half, seeds = found
    interval = f" ± {factor * half:.{digits}f}" * (seeds > 1)
    return f"{factor * mean:.{digits}f}{interval}" if seeds else ""
