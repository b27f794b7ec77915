"""Self-distillation: every subset of PS-KD, BYOT and mutual feature learning (DMFL).

A run is a model and a method: names of `kdlib.objectives` joined by "+", "none" the plain network.
"""

import itertools

from pydantic import Field

from kdlib import grid
from kdlib.config import NonNegative, Run, StudyParams
from kdlib.config.fields import Names, Seeds, Strict
from kdlib.grid import NO_KD
from kdlib.registry import STUDIES

STEM = "04_self_distillation"
PARTS = ("pskd", "byot", "dmfl")
SUBSETS = (NO_KD, *("+".join(some) for k in (1, 2, 3) for some in itertools.combinations(PARTS, k)))


class Grid(Strict):
    """Further runs beside the main ones: models x methods x seeds, those of the params for None."""

    models: Names | None = None
    methods: Names | None = None
    seeds: Seeds | None = None


class SelfDistillation(StudyParams):
    """A params file of the study: models x methods x seeds, and small grids beside them.

    methods: any that take no teacher; their constants are `options`. label_loss: what every label
    term uses (side heads: cross-entropy). mixup_alpha: 0 for none. grids: name -> `Grid`: BYOT from
    a later head, networks of fewer stages, more seeds of some methods.
    """

    models: Names = ("resnet20",)
    methods: Names = SUBSETS
    label_loss: str = "ce"
    mixup_alpha: NonNegative = 0.0
    grids: dict[str, Grid] = Field(default_factory=dict)


def runs(params: SelfDistillation) -> list[Run]:
    """Every run once: the main ones, then those of the grids, by seed.

    LookupError for an unknown name, ValueError for a method that takes a teacher.
    """
    grid.check_options(params)
    found: dict[str, Run] = {}
    for part in (Grid(), *params.grids.values()):
        axes = (getattr(part, axis) or getattr(params, axis) for axis in Grid.model_fields)
        for model, method, seed in itertools.product(*axes):
            run = _run(params, model, method, seed)
            found.setdefault(run.id, run)
    return sorted(found.values(), key=lambda run: run.seed)


def _run(params: SelfDistillation, model: str, method: str, seed: int) -> Run:
    if grid.has_teacher(params, method):
        raise ValueError(
            f"methods: {method!r} takes a teacher, and here a network has none but itself; put it "
            f"into kd_methods of {grid.STUDENTS}"
        )
    return Run(
        **grid.base(params, seed, STEM),
        model=model,
        objective=grid.objective(params, params.label_loss, method),
        targets=grid.targets(params, method),
        mixup_alpha=params.mixup_alpha,
        recipe=params.recipe(),
        labels={"model": model, "method": method},
    )


STUDIES.register(
    STEM,
    study="self_distillation",
    params=SelfDistillation,
    section="self_distillation",
    concludes=True,
    drawing=0.8,
)(runs)
