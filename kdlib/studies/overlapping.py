"""One student from teachers that each know some of the classes: tasks, controls, runs.

A task is data: the name of a set and, for each teacher, its classes. What the student learns, which
of its classes a teacher's logits stand for, and who answers for a class, are derived from that.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from kdlib import data, grid
from kdlib.config import Augment, Count, Given, Positive, Recipe, Run, Share, StudyParams
from kdlib.config.fields import Names, Seeds, Strict, Switches
from kdlib.grid import NO_KD
from kdlib.known_sets import KNOWN_SETS
from kdlib.notices import warn_once
from kdlib.registry import MODELS, STUDIES, suggest

STEM = "06_overlapping_teachers"
TEACHER, ENSEMBLE, STUDENT = "teacher", "ensemble", "student"
LABELS = ("role", "model", "method", "alpha", "temperature")  # what tells a cell from another
RESTRICTED = "restricted_kd"
RULES = ("mean", "per_class", "confidence", "label_free", "confidence_free", "published")
VARIANTS = {rule: {"of": "consensus", "rule": rule} for rule in RULES}
# What the teachers are worth without a student: the first reads each image's label.
ENSEMBLES = {"oracle": "mean", "label_free": "label_free", "confidence_free": "confidence_free"}
# Ranges that the published study calls typical, for training on 32 to 64 pixels.
TYPICAL = {
    "batch_size": (16, 128), "epochs": (50, 200), "lr": (1e-4, 1e-2), "weight_decay": (1e-4, 1e-3),
    "temperature": (1, 10), "alpha": (0.1, 0.7), "scheduler_step": (10, 50), "gamma": (0.1, 0.9),
}  # fmt: skip

SAID = {"weight", "label_weight", "temperature"}  # options of a method that the params have

PUBLISHED_RULE = "mean"  # of the report, whose student has a published accuracy
PUBLISHED_BEST = (0.98, 4.0)  # alpha and temperature that the report calls the best

Classes = Annotated[tuple[str | int, ...], Field(min_length=2)]


class Control(Strict):
    """A small grid of further students; what it does not name is as in the main one. seeds: those
    of them that the params have, too."""

    methods: Names | None = None
    student_models: Names | None = None
    pretrained: Switches | None = None
    alphas: tuple[Share, ...] | None = None
    temperatures: tuple[Positive, ...] | None = None
    seeds: Seeds | None = None


class OfStudents(Strict):
    """What students have otherwise than their teachers. network_size: px a side to which their
    networks resize the images that all see."""

    network_size: Count | None = None
    precision: Literal["fp32", "bf16"] | None = None


class OverlappingTeachers(StudyParams):
    """The overlapping-teachers study (notebook 06).

    teachers: name -> its classes, by name or id, or a trained network of yours, `{model,
    checkpoint, classes, ...}`. student_classes: default all that some teacher knows. class_names:
    of a set of one's own, in its order, so that it can be planned where it is not at hand; default
    as the set says. pretrained: whether students start from torchvision's ImageNet weights; [false,
    true] makes both. students: what they have otherwise than their teachers. methods: "none", a
    consensus rule, "restricted_kd", or a variant of these in `options`. The loss is (1 - alpha) CE
    + alpha T^2 KL; alpha 0 needs no teacher. scheduler_step: epochs between two multiplications of
    lr by gamma, instead of a cosine. controls: name -> a small grid beside the main one.
    """

    data: str = "digits"
    augment: Augment | None = Augment()
    teachers: Annotated[dict[str, Classes | Given], Field(min_length=2)] = {
        "low": (0, 1, 2, 3, 4),
        "middle": (4, 5, 6, 7),
        "high": (7, 8, 9, 0),
    }
    class_names: tuple[str, ...] | None = None
    student_classes: Classes | None = None
    teacher_model: str = "teacher_overlap"
    teacher_recipe: dict[str, Any] = {}
    student_models: Names = ("resnet8",)
    pretrained: Switches = (False,)
    students: OfStudents = OfStudents()
    methods: Names = (NO_KD, "mean", "per_class", RESTRICTED)
    alpha: Share = 0.1
    temperature: Positive = 2.0
    scheduler_step: Count | None = None
    controls: dict[str, Control] = {}

    def recipe(self, **changes: Any) -> Recipe:
        """The recipe part; `scheduler_step` becomes milestones, the first even beyond the end."""
        step = changes.pop("scheduler_step", self.scheduler_step)
        if step and changes.get("milestones", self.milestones):
            raise ValueError("scheduler_step and milestones say the same: leave one of them out")
        if step and "schedule" not in changes:
            epochs = changes.get("epochs", self.epochs)
            milestones = tuple(range(step, max(epochs, step + 1), step))
            changes |= {"schedule": "step", "milestones": milestones}
        return super().recipe(**changes)


def runs(params: OverlappingTeachers) -> list[Run]:
    """Teachers, their ensembles and the students of each seed.

    ValueError or LookupError by name for a class that is not in the set or that nobody teaches, two
    teachers of the same classes, an unknown method; OSError for a given teacher without its file.
    """
    grid.check_options(params)
    _warn_of_untypical(params)
    return [
        *teacher_runs(params),
        *(ensemble_run(params, name, seed) for seed in params.seeds for name in ENSEMBLES),
        *student_runs(params),
    ]


def class_sets(params: OverlappingTeachers) -> dict[str, tuple[str, ...]]:
    """Teacher -> the names of its classes, in the set's order."""
    names, sets = _class_names(params), {}
    for teacher, known in params.teachers.items():
        if isinstance(known, Given) and not known.classes:
            raise ValueError(f"teachers.{teacher}: a given teacher must name its classes")
        listed = known.classes if isinstance(known, Given) else known
        sets[teacher] = _resolve(listed, names, f"teachers.{teacher}")
    for one, other in itertools.combinations(sets, 2):
        if sets[one] == sets[other]:
            raise ValueError(
                f"teachers: {one!r} and {other!r} know the same classes, {list(sets[one])}; "
                "several teachers of the same classes are 05_multi_teacher_fidelity"
            )
    return sets


def union(params: OverlappingTeachers) -> tuple[str, ...]:
    """The names of the student's classes, in the set's order."""
    names, sets = _class_names(params), class_sets(params)
    known = {name for classes in sets.values() for name in classes}
    if params.student_classes is None:
        return tuple(name for name in names if name in known)
    wanted = _resolve(params.student_classes, names, "student_classes")
    if untaught := [name for name in wanted if name not in known]:
        raise ValueError(f"student_classes: no teacher knows {', '.join(untaught)}")
    for teacher, classes in sets.items():
        if strange := [name for name in classes if name not in wanted]:
            raise ValueError(f"student_classes lack {', '.join(strange)}, which {teacher!r} knows")
    return wanted


def _class_names(params: OverlappingTeachers) -> tuple[str, ...]:
    known = {name: one.class_names for name, one in KNOWN_SETS.items() if one.class_names}
    if names := params.class_names or known.get(params.data):
        return names
    if not data.at_hand(params.data, params.data_dir):
        raise ValueError(
            f"class_names: {params.data!r} is not here, so the names of its classes, in its order, "
            f"are needed to plan (known are those of {', '.join(known)})"
        )
    place = params.data_dir, params.image_size, params.trust_data
    return data.image_set(params.data, *place).classes


def _resolve(listed: Sequence[str | int], names: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Names and ids as names, in the set's order. An id is a name that is a number, else a place
    in the set's order."""
    places = {name: place for place, name in enumerate(names)}
    found = []
    for one in listed:
        place = places.get(str(one), one)
        if not isinstance(place, int) or not 0 <= place < len(names):
            raise LookupError(f"{where}: unknown class {one!r}, {suggest(one, names)}")
        found.append(place)
    if len(set(found)) < len(found):
        raise ValueError(f"{where}: a class stands twice in {list(listed)}")
    return tuple(names[place] for place in sorted(found))


def teacher_runs(params: OverlappingTeachers) -> list[Run]:
    """One run a teacher and seed."""
    return [run for seed in params.seeds for run in _teachers(params, seed)]


def _teachers(params: OverlappingTeachers, seed: int) -> tuple[Run, ...]:
    # Settings that differ in the student alone share them, so they lie in a folder of their own.
    common = grid.base(params, seed, STEM) | {"folder": f"{STEM}/teachers"}
    made = []
    for name, classes in class_sets(params).items():
        common |= {"classes": classes, "labels": {"role": TEACHER, "teacher": name}}
        if isinstance(given := params.teachers[name], Given):
            try:
                given = grid.with_hash(given)
            except OSError as error:
                raise type(error)(f"teachers.{name}: {error}") from None
            made.append(Run(**common, model=given.model, given=given))
        else:
            loss = grid.objective(params, "ce")
            recipe = params.recipe(**params.teacher_recipe)
            made.append(Run(**common, model=params.teacher_model, objective=loss, recipe=recipe))
    return tuple(made)


def ensemble_run(params: OverlappingTeachers, name: str, seed: int) -> Run:
    """The teachers pooled at T = 1, by a rule of ENSEMBLES: a run that is not trained."""
    teachers = _teachers(params, seed)
    return Run(
        **grid.base(params, seed, STEM),
        model=teachers[0].model,
        classes=union(params),
        objective={"consensus": {"weight": 1.0, "rule": ENSEMBLES[name], "temperature": 1.0}},
        teachers=teachers,
        labels={"role": ENSEMBLE, "method": name},
    )


def student_runs(params: OverlappingTeachers) -> list[Run]:
    """The students of the main grid, then those of the controls, each once."""
    made: dict[str, Run] = {}
    for control in (Control(), *params.controls.values()):
        seeds = [seed for seed in control.seeds or params.seeds if seed in params.seeds]
        axes = itertools.product(
            seeds,
            control.student_models or params.student_models,
            control.pretrained or params.pretrained,
            control.methods or params.methods,
            control.alphas or (params.alpha,),
            control.temperatures or (params.temperature,),
        )
        made |= {run.id: run for run in (_student_run(params, *cell) for cell in axes)}
    return list(made.values())


def _student_run(
    params: OverlappingTeachers,
    seed: int,
    model: str,
    pretrained: bool,
    method: str,
    alpha: float,
    temperature: float,
) -> Run:
    common = grid.base(params, seed, STEM) | {"model": model, "classes": union(params)}
    common |= params.students.model_dump(exclude_none=True)
    labels: dict[str, Any] = {"role": STUDENT, "model": model}
    if pretrained:
        common |= {"pretrained": _weights(model)}
        labels |= {"pretrained": True}
    if method == NO_KD or alpha == 0:  # no teacher is asked
        labels |= {"method": NO_KD}
        loss = grid.objective(params, "ce")
        return Run(**common, objective=loss, recipe=params.recipe(), labels=labels)
    labels |= {"method": method, "alpha": alpha, "temperature": temperature}
    return Run(
        **common,
        objective=_objective(params, method, alpha, temperature),
        recipe=params.recipe(),
        teachers=_teachers(params, seed),
        labels=labels,
    )


def _weights(model: str) -> str:
    """The name of the ImageNet weights that a model can start from."""
    found = {name: MODELS[name].facts.pretrained for name in MODELS.names()}
    if not MODELS[model].facts.pretrained:
        known = ", ".join(name for name in found if found[name])
        raise ValueError(f"pretrained: {model!r} has no ImageNet weights, these have: {known}")
    return found[model]


def _objective(
    params: OverlappingTeachers, method: str, alpha: float, temperature: float
) -> dict[str, dict[str, Any]]:
    """(1 - alpha) CE + alpha T^2 KL, by a method. ValueError where its options say what alpha and
    temperature say, which name the run."""
    own = {**VARIANTS, RESTRICTED: {}}
    if method not in own and method not in params.options:
        raise LookupError(f"methods: unknown method {method!r}, {suggest(method, [NO_KD, *own])}")
    for name in dict.fromkeys(["consensus", RESTRICTED, method]):
        said = SAID | {"rule"} if name in (*VARIANTS, "consensus") else SAID
        if taken := sorted(said & params.options.get(name, {}).keys()):
            told = f"{', '.join(taken)}: alpha, temperature and the method's name say that"
            raise ValueError(f"options.{name}: {told}")
    # 1 - 0.7 is 0.30000000000000004: as written, not as subtracted
    loss = {"weight": alpha, "label_weight": round(1 - alpha, 12), "temperature": temperature}
    options = own.get(method, {}) | loss | params.options.get(method, {})
    changed = params.model_copy(update={"options": params.options | {method: options}})
    return grid.objective(changed, "ce", method)


def _warn_of_untypical(params: OverlappingTeachers) -> None:
    """On images as small as digits nothing is typical; alpha 0 and 1 are ends with a meaning."""
    for name, (low, high) in TYPICAL.items():
        value = getattr(params, name)
        exact_end = name == "alpha" and value in (0, 1)
        unused = value is None or exact_end or (name == "gamma" and params.scheduler_step is None)
        if params.data != "digits" and not unused and not low <= value <= high:
            warn_once(f"{name} {value:g} lies outside its typical range, {low:g} to {high:g}")


STUDIES.register(
    STEM,
    study="overlapping_teachers",
    params=OverlappingTeachers,
    section="overlapping",
    concludes=True,
    drawing=0.4,
)(runs)
