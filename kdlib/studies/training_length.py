"""How long must runs be? The same small grid at several lengths, teachers of the same length.

It fixes the `epochs` of the grids: the length from which on differences keep their signs.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from kdlib import grid
from kdlib.config import Given, Params, Run
from kdlib.config.fields import Lengths
from kdlib.registry import STUDIES

STEM = "00_training_length"


class TrainingLength(Params):
    """The params of 00_training_length: those of the grid, whose `epochs` are each of `lengths`."""

    lengths: Lengths = (10, 20, 40, 80)


def runs(params: TrainingLength) -> list[Run]:
    """Teachers, students and controls of each length.

    ValueError for a network that is given, which has no length, where nothing is without KD, or
    where no two kinds of student differ in one choice alone.
    """
    if isinstance(params.teacher_model, Given):
        raise ValueError("teacher_model: a given teacher has no length of training")
    if params.given_students:
        raise ValueError(
            f"given_students: {', '.join(params.given_students)} has no length of training"
        )
    if grid.NO_KD not in params.kd_methods:
        raise ValueError(f"kd_methods lacks {grid.NO_KD!r}: against what is KD to be compared?")
    kinds = {tuple(run.labels.values()) for run in grid.student_runs(params)}
    if not any(one_choice(*pair) for pair in itertools.combinations(kinds, 2)):
        raise ValueError(
            "kd_methods, teacher_losses, student_losses, plain_losses and mixup: no two kinds of "
            "student differ in one of them alone, so there is nothing to compare"
        )
    return teacher_runs(params) + student_runs(params)


def one_choice(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two cells (KD method, teacher's loss, student's loss, mixup) differ in the student's
    loss alone, in mixup alone, or in how they are taught: by whom, or by what method, or at all.

    >>> one_choice(("kd", "ce", "ce", False), ("none", "none", "ce", False))
    True
    """
    (method, teacher, *rest), (other_method, other_teacher, *other_rest) = one, other
    same = method == other_method or teacher == other_teacher
    same = same or grid.NO_KD in (method, other_method)
    apart = [(method, teacher) != (other_method, other_teacher)]
    apart += [mine != theirs for mine, theirs in zip(rest, other_rest, strict=True)]
    return same and sum(apart) == 1


def teacher_runs(params: TrainingLength) -> list[Run]:
    """The teachers of each length; the length is a label of theirs."""
    return _each_length(params, grid.teacher_runs)


def student_runs(params: TrainingLength) -> list[Run]:
    """The students of each length, of teachers of that length, and the controls."""
    return _each_length(params, lambda own: grid.student_runs(own) + grid.control_runs(own))


def _each_length(params: TrainingLength, make: Callable[[Params], list[Run]]) -> list[Run]:
    made = (make(params.model_copy(update={"epochs": length})) for length in params.lengths)
    return [_filed(run, params.setting) for runs in made for run in runs]


def _filed(run: Run, setting: str) -> Run:
    """A run of the grid as one of this study."""
    folder = f"{STEM}/{setting}" if setting else STEM
    teachers = tuple(_filed(teacher, setting) for teacher in run.teachers)
    labels = run.labels | {"epochs": run.recipe.epochs}
    return run.model_copy(update={"folder": folder, "teachers": teachers, "labels": labels})


STUDIES.register(
    STEM, study="kd_calibration", params=TrainingLength, section="training_length", concludes=True
)(runs)
