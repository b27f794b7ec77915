"""From params to runs: the KD x calibration grid, every option of every run made explicit.

`objective`, `targets` and `base` serve the other studies, too.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdlib.config import (
    Augment,
    Given,
    Params,
    Run,
    StudyParams,
    resolve_options,
)
from kdlib.known_sets import KNOWN_SETS
from kdlib.registry import LABEL_LOSSES, STUDIES, TARGETS, TERMS, Entry, Registry, suggest

NO_KD = "none"
GIVEN = "given"
TEACHERS, STUDENTS, STUDY = "01_teachers", "02_students", "03_calibration_study"


def objective(
    params: StudyParams, label_loss: str, kd_method: str = NO_KD
) -> dict[str, dict[str, Any]]:
    """The terms of a loss by name: the label loss, and the terms of a KD method where it has any.

    A method is a name, or several joined by "+"; each term brings its weight and a factor for the
    label loss.

    >>> objective(Params(), "bs", "rkd")["rkd"]
    {'weight': 1.0, 'distance': 25.0, 'angle': 50.0}
    >>> [(name, term["weight"]) for name, term in objective(Params(), "ce", "kd+rkd").items()]
    [('label', 0.1), ('kd', 0.9), ('rkd', 1.0)]
    """
    loss, options = _lookup(params, LABEL_LOSSES, label_loss)
    label = {"loss": loss.name, **resolve_options(loss, options, f"options.{label_loss}")}
    terms: dict[str, dict[str, Any]] = {"label": {"weight": 1.0, **label}}
    for part, term, options in _parts(params, TERMS, kd_method):
        weight, label_weight = (_weight(term, options, key) for key in ("weight", "label_weight"))
        if term.name in terms:
            raise ValueError(f"{kd_method!r} names the term {term.name!r} twice")
        terms[term.name] = {"weight": weight, **resolve_options(term, options, f"options.{part}")}
        terms["label"]["weight"] *= label_weight
    return terms


def targets(params: StudyParams, kd_method: str) -> dict[str, dict[str, Any]]:
    """What of a KD method softens the label terms' targets: its name and its options.

    >>> targets(Params(), "pskd+rkd")
    {'pskd': {'alpha': 0.8}}
    """
    return {
        source.name: resolve_options(source, options, f"options.{part}")
        for part, source, options in _parts(params, TARGETS, kd_method)
    }


def has_teacher(params: StudyParams, kd_method: str) -> bool:
    """Whether some term of a KD method reads teachers."""
    return any(term.facts.teachers != 0 for _, term, _ in _parts(params, TERMS, kd_method))


def _parts(
    params: StudyParams, registry: Registry, kd_method: str
) -> Iterator[tuple[str, Entry, dict[str, Any]]]:
    """The parts of a method that stand in one registry: as written, entry, options given for it."""
    for part in kd_method.split("+") if kd_method != NO_KD else ():
        name = params.options.get(part, {}).get("of", part)
        if name not in TERMS and name not in TARGETS:
            known = [*TERMS.names(), *TARGETS.names(), *params.options]
            raise LookupError(f"unknown KD method {name!r}, {suggest(name, known)}")
        if name in registry:
            yield part, *_lookup(params, registry, part)


def _lookup(params: StudyParams, registry: Registry, name: str) -> tuple[Entry, dict[str, Any]]:
    """A part and the options given for it; a variant names its part with `of` and has the options
    given for that one, too."""
    own = dict(params.options.get(name, {}))
    part = own.pop("of", name)
    return registry[part], params.options.get(part, {}) | own if part != name else own


def _weight(term: Entry, options: dict[str, Any], key: str) -> float:
    value = options.pop(key, getattr(term.facts, key))
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = -1.0
    if not 0 <= weight < math.inf:
        raise ValueError(f"options: {key} of {term.name!r} takes a number >= 0, got {value!r}")
    return weight


def check_options(params: StudyParams) -> None:
    """Refuse an options entry that nothing answers to."""
    known = [name for part in (TERMS, TARGETS, LABEL_LOSSES) for name in part.names()]
    for name, options in params.options.items():
        part = options.get("of", name)
        if part not in known:
            raise ValueError(f"options: unknown method or loss {part!r}, {suggest(part, known)}")


def check_names(params: Params) -> None:
    """Refuse an axis value or an options entry that nothing answers to."""
    check_options(params)
    for name, control in params.controls.items():
        losses = (control.teacher_losses or ()) + (control.student_losses or ())
        for loss in set(losses) - {GIVEN}:
            part = params.options.get(loss, {}).get("of", loss)
            if part not in LABEL_LOSSES:
                hint = suggest(loss, LABEL_LOSSES.names())
                raise ValueError(f"controls.{name}: unknown label loss {loss!r}, {hint}")
    untouched = Params.model_fields["teacher_losses"].default, (GIVEN,)
    if isinstance(params.teacher_model, Given) and params.teacher_losses not in untouched:
        raise ValueError(
            f"teacher_losses: a given teacher is not trained here, so leave the key out "
            f"or write [{GIVEN}], got {list(params.teacher_losses)}"
        )


def teacher_losses(params: Params) -> tuple[str, ...]:
    """The teacher axis: the label losses teachers are trained with, or the one given teacher."""
    return (GIVEN,) if isinstance(params.teacher_model, Given) else params.teacher_losses


def teacher_runs(params: Params) -> list[Run]:
    """One run a teacher: loss x mixup x seed (a given teacher: one a seed)."""
    check_names(params)
    if isinstance(params.teacher_model, Given):
        return [teacher_run(params, GIVEN, False, seed) for seed in params.seeds]
    axes = itertools.product(params.seeds, params.mixup, params.teacher_losses)
    return [teacher_run(params, loss, mixup, seed) for seed, mixup, loss in axes]


def teacher_run(params: Params, loss: str, mixup: bool, seed: int) -> Run:
    """The run of one teacher."""
    common = _base(params, seed, TEACHERS)
    if isinstance(params.teacher_model, Given):
        given = with_hash(params.teacher_model)
        labels = {"role": "teacher", "teacher_loss": GIVEN}
        return Run(**common, model=given.model, given=given, labels=labels)
    return Run(
        **common,
        model=params.teacher_model,
        objective=objective(params, loss),
        mixup_alpha=params.mixup_alpha if mixup else 0.0,
        recipe=params.recipe(**params.teacher_recipe),
        labels={"role": "teacher", "teacher_loss": loss, "mixup": mixup},
    )


def student_runs(params: Params) -> list[Run]:
    """One run a student: those without a teacher, then KD method x student loss for each teacher,
    all of it for each seed and mixup setting, so that runs of one stream stand together."""
    check_names(params)
    taught = [method for method in params.kd_methods if has_teacher(params, method)]
    pairs = [(NO_KD, method) for method in params.kd_methods if method not in taught]
    pairs += itertools.product(teacher_losses(params), taught)
    axes = itertools.product(params.seeds, params.mixup, pairs)
    return [
        _student_run(params, method, teacher, loss, mixup, seed)
        for seed, mixup, (teacher, method) in axes
        for loss in (method == NO_KD and params.plain_losses) or params.student_losses
    ]


def control_runs(params: Params) -> list[Run]:
    """The runs of the small grids beside the main one, each on the levels the params have too."""
    runs: dict[str, Run] = {}
    for control in params.controls.values():
        axes = {"kd_methods": control.kd_methods, "plain_losses": None}
        for axis in ("seeds", "teacher_losses", "student_losses", "mixup"):
            wanted = getattr(control, axis)
            there = teacher_losses(params) if axis == "teacher_losses" else getattr(params, axis)
            if wanted is not None:
                axes[axis] = tuple(level for level in wanted if level in there)
        if axes.get("teacher_losses") == ():  # of other teachers: what has none is left
            del axes["teacher_losses"]
            axes["kd_methods"] = [m for m in control.kd_methods if not has_teacher(params, m)]
        runs |= {run.id: run for run in student_runs(params.model_copy(update=axes))}
    return list(runs.values()) + given_student_runs(params)


def given_student_runs(params: Params) -> list[Run]:
    """Students trained elsewhere, one run a seed: its split decides what is fitted."""
    networks = {name: with_hash(given) for name, given in params.given_students.items()}
    return [
        Run(
            **_base(params, seed, STUDENTS),
            model=given.model,
            given=given,
            labels={
                "kd_method": GIVEN,
                "teacher_loss": NO_KD,
                "student_loss": name,
                "mixup": False,
            },
        )
        for seed in params.seeds
        for name, given in networks.items()
    ]


def _student_run(
    params: Params, method: str, teacher: str, loss: str, mixup: bool, seed: int
) -> Run:
    teachers = () if teacher == NO_KD else (teacher_run(params, teacher, mixup, seed),)
    return Run(
        **_base(params, seed, STUDENTS),
        model=params.student_model,
        objective=objective(params, loss, method),
        targets=targets(params, method),
        mixup_alpha=params.mixup_alpha if mixup else 0.0,
        recipe=params.recipe(),
        teachers=teachers,
        labels={
            "kd_method": method,
            "teacher_loss": teacher,
            "student_loss": loss,
            "mixup": mixup,
        },
    )


def _base(params: Params, seed: int, stem: str) -> dict[str, Any]:
    """`base`, in the folder of all settings where they share runs."""
    fields = base(params, seed, stem)
    return fields | {"folder": stem} if params.share_runs else fields


def base(params: StudyParams, seed: int, stem: str) -> dict[str, Any]:
    """The fields of a run that every run of a seed has in common; stem: of its notebook."""
    same = ("data", "image_size", "imbalance_factor", "val_fraction", "precision", "compile")
    augment = params.augment or _default_augment(params.data)
    folder = f"{stem}/{params.setting}" if params.setting else stem
    own = {"seed": seed, "augment": augment, "folder": folder}
    return {key: getattr(params, key) for key in same} | own


def _default_augment(data: str) -> Augment:
    known = KNOWN_SETS.get(data)
    return Augment(crop=known.crop, flip=known.flip) if known else Augment(crop=4, flip=True)


def with_hash(given: Given) -> Given:
    """A given network with the sha256 of its file; OSError naming the file when it is not there."""
    path = Path(given.checkpoint).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path} for the given model {given.model!r}")
    facts = path.stat()
    sha256 = _sha256(path, facts.st_mtime_ns, facts.st_size)
    return given.model_copy(update={"checkpoint": str(path), "sha256": sha256})


@functools.lru_cache
def _sha256(path: Path, modified: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


_GRID = {"study": "kd_calibration", "params": Params}
STUDIES.register(TEACHERS, **_GRID)(teacher_runs)
STUDIES.register(STUDENTS, **_GRID)(lambda own: student_runs(own) + control_runs(own))
STUDIES.register(STUDY, **_GRID, section="kd_calibration", drawing=1.0)(lambda own: [])
