"""The studies beside the KD x calibration grid: each one's params and runs, registered by stem."""

from kdlib.config import Run, StudyParams
from kdlib.registry import STUDIES
from kdlib.studies import (  # noqa: F401 (importing registers them)
    multi_teacher,
    overlapping,
    published_claims,
    self_distillation,
    training_length,
)


def runs(stem: str, params: StudyParams) -> list[Run]:
    """The runs that the notebook of this stem makes with these params: those of `only`, if any.

    ValueError for an id in `only` that is none of them.
    """
    made = STUDIES[stem].build(params)
    if unknown := sorted(set(params.only) - {run.id for run in made}):
        raise ValueError(f"only: {unknown[0]!r} is no run of these params")
    return [run for run in made if not params.only or run.id in params.only]
