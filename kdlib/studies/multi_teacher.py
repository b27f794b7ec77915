"""Several teachers, one student: which rules of combining them, and does following them help?

A method is a term of several teachers with its options (a variant, see `OPTIONS`), several of them
joined by "+", or a name for such a sum (`SUMS`). Students of one seed and setting share initial
weights, data order, dropout and teachers; those without a method are compared with the same
teachers and are not taught by them.
"""

from typing import Annotated, Any

from pydantic import Field

from kdlib import grid
from kdlib.config import Augment, Count, NonNegative, Positive, Run, StudyParams, merge
from kdlib.config.fields import Names
from kdlib.registry import STUDIES

STEM = "05_multi_teacher_fidelity"
CONTROL = "none"
# One term each; alpha and beta are the weights of the terms `multi_kd` and (pooled) `hints`.
OPTIONS: dict[str, dict[str, Any]] = {
    "centroid": {"of": "multi_kd"},  # the "vanilla" method: KD from the mean of the logits
    "centroid_probs": {"of": "multi_kd", "pool": "probs"},
    "best": {"of": "multi_kd", "weighting": "best"},
    "median": {"of": "multi_kd", "weighting": "median"},
    "confident": {"of": "multi_kd", "pool": "losses", "weighting": "sample_confidence"},
    "val_confident": {"of": "multi_kd", "pool": "losses", "weighting": "val_confidence"},
    "camkd_hints": {"of": "hints", "weighting": "batch_confidence"},
    "camkd_pooled_hints": {"of": "pooled_hints", "weighting": "batch_confidence"},
    "equal_hints": {"of": "hints", "weighting": "mean"},
    "ca_mkd_logits": {
        "of": "multi_kd", "weight": 1.0, "pool": "losses", "weighting": "sample_confidence",
        "reduction": "mean",
    },
    "ca_mkd_hints": {
        "of": "hints", "weight": 50.0, "stage": "embedding", "weighting": "feature_confidence",
        "norm": True, "first_epoch": 2,
    },
}  # fmt: skip
SUMS = {
    "camkd": "centroid+camkd_hints",  # the study's: the logits are not weighted
    "camkd_pooled": "centroid+camkd_pooled_hints",  # maps at most as large as the student's
    "camkd_equal": "centroid+equal_hints",
    "ca_mkd": "ca_mkd_logits+ca_mkd_hints",  # the paper's, with its weights
}


class MultiTeacher(StudyParams):
    """The params of 05_multi_teacher_fidelity.

    methods: names of `OPTIONS` and `SUMS` or variants of `options`, joined by "+"; "none" is a
    student without teachers. alpha, beta: weights of the terms on logits and on features.
    kd_temperature: of the former. lambdas: where there are some, alpha takes each of them in turn
    (0: no teachers). hint_stage: of the hints on maps, a stage's name or "last". fidelity_freq:
    epochs between two comparisons with the teachers on validation, 0: on test at the end only.
    teacher_recipe: keys that differ for the teachers.
    """

    optimizer: str = "adam"
    lr: Positive | None = 1e-3
    weight_decay: NonNegative = 0.0
    schedule: str = "step"
    milestones: tuple[Count, ...] = (5, 10, 15)
    gamma: Positive = 0.5
    augment: Augment | None = Augment()
    teacher_models: Names = ("teacher_cnn1", "teacher_cnn2", "teacher_resnet")
    student_models: Names = ("student",)
    methods: Names = (CONTROL, "centroid", "camkd")
    alpha: NonNegative = 0.7
    beta: NonNegative = 100.0
    kd_temperature: Positive = 4.0
    lambdas: tuple[NonNegative, ...] = ()
    hint_stage: str = "last"
    fidelity_freq: Annotated[int, Field(ge=0)] = 1
    teacher_recipe: dict[str, Any] = Field(default_factory=dict)


def runs(params: MultiTeacher) -> list[Run]:
    """Teachers, then students. LookupError or ValueError for a method that is not known."""
    return teacher_runs(params) + student_runs(params)


def teacher_runs(params: MultiTeacher) -> list[Run]:
    """One run a teacher and seed, by cross-entropy alone; every setting of the file shares them."""
    return [run for seed in params.seeds for run in _teachers(params, seed)]


def _teachers(params: MultiTeacher, seed: int) -> list[Run]:
    common = grid.base(params, seed, STEM) | {"folder": STEM}
    recipe = params.recipe(**params.teacher_recipe)
    objective = grid.objective(params, "ce")
    return [
        Run(
            **common,
            model=model,
            objective=objective,
            recipe=recipe,
            labels={"role": "teacher", "teacher": model},
        )
        for model in params.teacher_models
    ]


def student_runs(params: MultiTeacher) -> list[Run]:
    """One run a student model, method, lambda (where there are some) and seed."""
    complete = params.model_copy(update={"options": merge(OPTIONS, params.options)})
    grid.check_options(complete)
    return [run for seed in params.seeds for run in _students(complete, seed)]


def _students(params: MultiTeacher, seed: int) -> list[Run]:
    common = grid.base(params, seed, STEM) | {"recipe": params.recipe()}
    common |= {"teachers": _teachers(params, seed), "fidelity_every": params.fidelity_freq}
    return [
        Run(
            **common,
            model=model,
            objective=_objective(params, method, params.alpha if weight is None else weight),
            labels={"student": model, "method": method}
            | ({} if weight is None else {"lambda": weight}),
        )
        for model in params.student_models
        for method in params.methods
        for weight in params.lambdas or (None,)
    ]


def _objective(params: MultiTeacher, method: str, alpha: float) -> dict[str, dict[str, Any]]:
    """A method's terms with the study's weights, where `options` of the term, or else of the
    method, do not say otherwise."""
    hints = {"weight": params.beta, "stage": params.hint_stage}
    study = {
        "multi_kd": {"weight": alpha, "temperature": params.kd_temperature},
        "hints": hints,
        "pooled_hints": hints,
    }
    options, kept = dict(params.options), []
    for part in SUMS.get(method, method).split("+"):
        own = options.get(part, {})
        term = own.get("of", part)
        below = merge(study.get(term, {}), params.options.get(term, {}))
        options[part] = merge(below, own)
        if options[part].get("weight") != 0:  # a term that counts nothing is none
            kept.append(part)
    parts = "+".join(kept) or CONTROL
    return grid.objective(params.model_copy(update={"options": options}), "ce", parts)


STUDIES.register(
    STEM,
    study="multi_teacher",
    params=MultiTeacher,
    section="multi_teacher",
    concludes=True,
    drawing=2.5,
)(runs)
