"""From a run's `objective` and `targets` to its terms."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from kdlib import seeding
from kdlib.config import Augment, Run
from kdlib.objectives.base import LABEL, Context, Term
from kdlib.registry import LABEL_LOSSES, MODELS, TARGETS, TERMS, Entry


def _label_term(context: Context, loss: str, **options: Any) -> Callable:
    function, counts = LABEL_LOSSES[loss].build, context.class_counts
    return lambda forward: function(forward.student.logits, forward.targets, counts, **options)


def build(run: Run, context: Context) -> nn.ModuleDict:
    """The terms of a run's objective by name, in its order. ValueError names what cannot be."""
    terms = nn.ModuleDict()
    for name, options in run.objective.items():
        options = dict(options)
        weight = options.pop("weight")
        seeding.seed_global(run.seed, f"init {name}")
        if name == LABEL:
            terms[name] = Term(_label_term(context, **options), weight)
            continue
        entry = TERMS[name]
        _check_teachers(run, entry, context)
        _check_taps(run, entry, context)
        weight *= entry.facts["scale"](context)
        terms[name] = Term(entry.build(context, **options), weight)
    return terms


def _check_teachers(run: Run, entry: Entry, context: Context) -> None:
    wanted = entry.facts["teachers"]
    if wanted == 0:
        return
    if wanted != len(run.teachers) if wanted else not run.teachers:
        needs = f"{wanted} teacher(s)" if wanted else "at least one teacher"
        raise ValueError(f"{entry.name} takes {needs}, got {len(run.teachers)}")
    classes = context.student.logits.shape[1]
    for teacher, known in zip(run.teachers, context.class_sets, strict=True):
        if known != tuple(range(classes)) and not entry.facts["partial"]:
            raise ValueError(
                f"{entry.name} takes teachers of the student's {classes} classes, in their order; "
                f"{teacher.id} knows {len(known)} of them: {list(known)}"
            )


def _check_taps(run: Run, entry: Entry, context: Context) -> None:
    """A network of the user's own may show nothing but logits."""
    if entry.facts["teachers"] == 0 or entry.facts["logits_only"]:
        return
    for one, view in zip((run, *run.teachers), (context.student, *context.teachers), strict=True):
        if view.embedding is None:
            raise ValueError(
                f"{entry.name} reads embeddings or maps, and the model {one.model!r} shows only "
                "logits; build it as a kdlib.models.Network"
            )


def build_targets(run: Run, context: Context) -> nn.Module | None:
    """What softens the targets of a run's label terms, None where nothing does."""
    for name, options in run.targets.items():
        return TARGETS[name].build(context, **options)
    return None


def _facts(run: Run) -> list[dict[str, Any]]:
    return [TERMS[name].facts for name in run.objective if name != LABEL]


def needs_side_heads(run: Run) -> bool:
    """Whether some term reads the student's side heads."""
    return any(facts["side_heads"] for facts in _facts(run))


def taught_heads(run: Run, heads: Sequence[str]) -> list[str]:
    """Those of a network's side heads that some term of the run teaches to classify."""
    taught = {
        head
        for name, options in run.objective.items()
        if name != LABEL
        for head in TERMS[name].facts["taught_heads"](heads, options)
    }
    return [head for head in heads if head in taught]


def needs_live(run: Run) -> bool:
    """Whether some term reads more of the teachers than may be cached."""
    return any(
        facts["teachers"] != 0 and not (facts["logits_only"] or facts["keeps_maps"])
        for facts in _facts(run)
    )


def caches(run: Run) -> bool:
    """Whether what a run's teachers say is computed once: the same image gives the same logits in
    every epoch only where nothing is drawn."""
    fixed = run.augment == Augment() and not run.mixup_alpha
    return bool(run.teachers) and fixed and not needs_live(run)


def class_sets(run: Run, classes: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """For each teacher of a run, the positions of its classes in `classes`, the student's.

    ValueError names a teacher's class that the student does not have, or a teacher that does not
    say which of the set's classes it knows where the student does.
    """
    places = {name: place for place, name in enumerate(classes)}
    sets = []
    for teacher in run.teachers:
        if (teacher.classes is None) != (run.classes is None):
            raise ValueError(f"{teacher.id} and {run.id} must both name their classes, or neither")
        theirs = teacher.classes or classes
        if unknown := [name for name in theirs if name not in places]:
            raise ValueError(f"{teacher.id} knows {unknown}, which {run.id} does not learn")
        sets.append(tuple(places[name] for name in theirs))
    return tuple(sets)


def versions(run: Run) -> dict[str, int | str]:
    """The version of every part that shaped this run, its teachers' included."""
    used = {f"model {run.model}": MODELS[run.model].version}
    for name, options in run.objective.items():
        registry, part = (LABEL_LOSSES, options["loss"]) if name == LABEL else (TERMS, name)
        used[f"{registry.kind} {part}"] = registry[part].version
    used |= {f"{TARGETS.kind} {name}": TARGETS[name].version for name in run.targets}
    for teacher in run.teachers:
        used |= {f"teacher's {part}": version for part, version in versions(teacher).items()}
    return used
