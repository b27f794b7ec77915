"""From params to runs: the KD x calibration grid, every option of every run made explicit."""

import functools
import hashlib
import itertools
import math
from pathlib import Path
from typing import Any

from kdlib.config import DEFAULT_AUGMENT, Augment, Given, Params, Run, resolve_options
from kdlib.registry import LABEL_LOSSES, TERMS, Entry, Registry, suggest

NO_KD = "none"
GIVEN = "given"
TEACHERS, STUDENTS, STUDY = "01_teachers", "02_students", "03_calibration_study"


def objective(params: Params, label_loss: str, kd_method: str = NO_KD) -> dict[str, dict[str, Any]]:
    """The terms of a loss by name: the label loss, and a KD method's term where there is one.

    >>> objective(Params(), "bs", "rkd")["rkd"]
    {'weight': 1.0, 'distance': 25.0, 'angle': 50.0}
    """
    loss, options = _lookup(params, LABEL_LOSSES, label_loss)
    label = {"loss": loss.name, **resolve_options(loss, options, f"options.{label_loss}")}
    if kd_method == NO_KD:
        return {"label": {"weight": 1.0, **label}}
    term, options = _lookup(params, TERMS, kd_method)
    weight, label_weight = (_weight(term, options, key) for key in ("weight", "label_weight"))
    method = resolve_options(term, options, f"options.{kd_method}")
    return {"label": {"weight": label_weight, **label}, term.name: {"weight": weight, **method}}


def _lookup(params: Params, registry: Registry, name: str) -> tuple[Entry, dict[str, Any]]:
    """A part and the options given for it; a variant names its part with `of`."""
    options = dict(params.options.get(name, {}))
    return registry[options.pop("of", name)], options


def _weight(term: Entry, options: dict[str, Any], key: str) -> float:
    value = options.pop(key, term.facts[key])
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = -1.0
    if not 0 <= weight < math.inf:
        raise ValueError(f"options: {key} of {term.name!r} takes a number >= 0, got {value!r}")
    return weight


def check_names(params: Params) -> None:
    """Refuse an axis value or an options entry that nothing answers to."""
    for name, options in params.options.items():
        part = options.get("of", name)
        if part not in TERMS and part not in LABEL_LOSSES:
            known = TERMS.names() + LABEL_LOSSES.names()
            raise ValueError(f"options: unknown method or loss {part!r}, {suggest(part, known)}")
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
    base = _base(params, seed, TEACHERS)
    if isinstance(params.teacher_model, Given):
        given = with_hash(params.teacher_model)
        labels = {"role": "teacher", "teacher_loss": GIVEN}
        return Run(**base, model=given.model, given=given, labels=labels)
    return Run(
        **base,
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
    methods = [method for method in params.kd_methods if method != NO_KD]
    pairs = [(NO_KD, NO_KD)] * (NO_KD in params.kd_methods)
    pairs += itertools.product(teacher_losses(params), methods)
    axes = itertools.product(params.seeds, params.mixup, pairs, params.student_losses)
    return [
        _student_run(params, method, teacher, loss, mixup, seed)
        for seed, mixup, (teacher, method), loss in axes
    ]


def control_runs(params: Params) -> list[Run]:
    """The runs of the small grids beside the main one, each on the levels the params have too."""
    runs: dict[str, Run] = {}
    for control in params.controls.values():
        axes = {"kd_methods": control.kd_methods}
        for axis in ("teacher_losses", "student_losses", "mixup"):
            wanted = getattr(control, axis)
            there = teacher_losses(params) if axis == "teacher_losses" else getattr(params, axis)
            if wanted is not None:
                axes[axis] = tuple(level for level in wanted if level in there)
        runs |= {run.id: run for run in student_runs(params.model_copy(update=axes))}
    return list(runs.values())


def _student_run(
    params: Params, method: str, teacher: str, loss: str, mixup: bool, seed: int
) -> Run:
    teachers = () if method == NO_KD else (teacher_run(params, teacher, mixup, seed),)
    return Run(
        **_base(params, seed, STUDENTS),
        model=params.student_model,
        objective=objective(params, loss, method),
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
    same = ("data", "image_size", "imbalance_factor", "val_fraction", "precision", "compile")
    augment = params.augment or DEFAULT_AUGMENT.get(params.data, Augment(crop=4, flip=True))
    folder = f"{stem}/{params.setting}" if params.setting else stem
    own = {"seed": seed, "augment": augment, "folder": folder}
    return {key: getattr(params, key) for key in same} | own


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
