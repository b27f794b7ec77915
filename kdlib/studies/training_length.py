"""How long must runs be? The same small grid at several lengths, teachers of the same length.

It fixes the `epochs` of the grids: the length from which on differences keep their signs.
"""

from collections.abc import Callable

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
    where there is one kind of student alone.
    """
    if isinstance(params.teacher_model, Given):
        raise ValueError("teacher_model: a given teacher has no length of training")
    if params.given_students:
        raise ValueError(
            f"given_students: {', '.join(params.given_students)} has no length of training"
        )
    if grid.NO_KD not in params.kd_methods:
        raise ValueError(f"kd_methods lacks {grid.NO_KD!r}: against what is KD to be compared?")
    if len({tuple(run.labels.values()) for run in grid.student_runs(params)}) < 2:
        raise ValueError(
            "kd_methods, student_losses and mixup: one kind of student is no comparison"
        )
    return teacher_runs(params) + student_runs(params)


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
