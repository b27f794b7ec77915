"""How long must runs be? The same small grid at several lengths, teachers of the same length.

It fixes the `epochs` of the grids: the length from which on differences keep their signs.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from kdlib import grid
from kdlib.config import Given, Params, Run
from kdlib.config.schema import Lengths
from kdlib.registry import STUDIES

STEM = "00_training_length"
Roles = Annotated[tuple[Literal["teacher", "student"], ...], Field(min_length=1)]


class TrainingLength(Params):
    """The params of 00_training_length: those of the grid, whose `epochs` are each of `lengths`.

    roles: which runs a job makes.
    """

    lengths: Lengths = (10, 20, 40, 80)
    roles: Roles = ("teacher", "student")


def runs(params: TrainingLength) -> list[Run]:
    """Teachers, students and controls of each length; the length is a label of theirs.

    ValueError for a teacher that is given, which has no length, or where nothing is without KD (a
    job of students alone may leave that to others).
    """
    if isinstance(params.teacher_model, Given):
        raise ValueError("teacher_model: a given teacher has no length of training")
    if len(params.roles) > 1 and grid.NO_KD not in params.kd_methods:
        raise ValueError(f"kd_methods lacks {grid.NO_KD!r}: against what is KD to be compared?")
    found = []
    for length in params.lengths:
        own = params.model_copy(update={"epochs": length})
        found += grid.teacher_runs(own) if "teacher" in params.roles else []
        if "student" in params.roles:
            found += grid.student_runs(own) + grid.control_runs(own)
    return [_filed(run, params.setting) for run in found]


def _filed(run: Run, setting: str) -> Run:
    """A run of the grid as one of this study."""
    folder = f"{STEM}/{setting}" if setting else STEM
    teachers = tuple(_filed(teacher, setting) for teacher in run.teachers)
    labels = run.labels | {"epochs": run.recipe.epochs}
    return run.model_copy(update={"folder": folder, "teachers": teachers, "labels": labels})


def _restrict(params: TrainingLength, made: Sequence[Run]) -> TrainingLength:
    """The params of a job: its length, its roles, its levels of the grid's axes."""
    roles = tuple(dict.fromkeys(run.labels.get("role", "student") for run in made))
    own = {"lengths": (made[0].recipe.epochs,), "roles": roles}
    alone = {"kd_methods": (), "roles": ("student",)}  # control grids and nothing else
    return grid.restrict_grid(
        params.model_copy(update=own), made, lambda some: runs(some.model_copy(update=alone))
    )


STUDIES.register(STEM, params=TrainingLength, restrict=_restrict, concludes=True)(runs)
