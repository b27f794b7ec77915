"""From a run's `objective` and `targets` to its terms."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdlib import seeding
from kdlib.config import Augment, Run
from kdlib.objectives.base import LABEL, Context, Term, hook
from kdlib.registry import (
    AUGMENTATIONS,
    LABEL_LOSSES,
    MODELS,
    OPTIMIZERS,
    SCHEDULES,
    TARGETS,
    TERMS,
    Entry,
    TermFacts,
)
from kdlib.types import Clock, Forward


class LabelTerm(nn.Module):
    """The label loss of the student's logits. One registered as a class is a module of the class
    counts and its options, called with logits and targets: it may have weights, which are trained,
    and the hooks of any loss."""

    def __init__(self, context: Context, loss: str, **options: Any):
        super().__init__()
        part, counts = LABEL_LOSSES[loss].build, context.class_counts
        self.loss = part(counts, **options) if isinstance(part, type) else None
        self.function = self.loss or (
            lambda logits, targets: part(logits, targets, counts, **options)
        )

    @property
    def generator(self) -> torch.Generator | None:
        """What it draws from."""
        return hook(self.loss, "generator")

    def tick(self, clock: Clock) -> None:
        """Before a step: where training stands."""
        hook(self.loss, "tick", clock)

    def settle(self) -> None:
        """After the backward pass."""
        hook(self.loss, "settle")

    def note(self) -> Any:
        """For the history."""
        return hook(self.loss, "note")

    def forward(self, forward: Forward) -> Tensor:
        """The mean loss of a batch."""
        return self.function(forward.student.logits, forward.targets)


def build(run: Run, context: Context) -> nn.ModuleDict:
    """The terms of a run's objective by name, in its order. ValueError names what cannot be."""
    terms = nn.ModuleDict()
    for name, options in run.objective.items():
        options = dict(options)
        weight = options.pop("weight")
        seeding.seed_global(run.seed, f"init {name}")
        if name == LABEL:
            with naming(f"{LABEL_LOSSES.kind} {options['loss']!r}", run, context):
                terms[name] = Term(LabelTerm(context, **options), weight)
            continue
        entry = TERMS[name]
        _check_teachers(run, entry, context)
        with naming(f"{TERMS.kind} {name!r}", run, context):
            weight *= entry.facts.scale(context)
            terms[name] = Term(entry.build(context, **options), weight)
    return terms


@contextmanager
def naming(what: str, run: Run, context: Context) -> Iterator[None]:
    """Name the part in which something goes wrong, whatever it is. A ValueError says for itself
    what is wrong."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{what}: {explained(error, run, context)}") from error


def explained(error: Exception, run: Run, context: Context) -> str:
    """An error in a line, and what the run's networks do not show of what may have been looked for;
    the maps that there are, where a name was looked for."""
    text = f"{type(error).__name__}: {error}"
    shown = zip((run, *run.teachers), (context.student, *context.teachers), strict=True)
    for one, view in shown:
        parts = {"embedding": view.embedding is not None, "maps": bool(view.features)}
        if lacking := [name for name, there in parts.items() if not there]:
            return (
                f"{text}; the model {one.model!r} shows no {' and no '.join(lacking)}: let it "
                "return a kdlib.types.View with them, or build a kdlib.models.Network"
            )
    maps = f"; the student's maps are {', '.join(context.student.features)}"
    return text + maps * isinstance(error, KeyError)


def _check_teachers(run: Run, entry: Entry, context: Context) -> None:
    wanted = entry.facts.teachers
    if wanted == 0:
        return
    if wanted != len(run.teachers) if wanted else not run.teachers:
        needs = f"{wanted} teacher(s)" if wanted else "at least one teacher"
        raise ValueError(f"{entry.name} takes {needs}, got {len(run.teachers)}")
    classes = context.student.logits.shape[1]
    for teacher, known in zip(run.teachers, context.class_sets, strict=True):
        if known != tuple(range(classes)) and not entry.facts.partial:
            raise ValueError(
                f"{entry.name} takes teachers of the student's {classes} classes, in their order; "
                f"{teacher.id} knows {len(known)} of them: {list(known)}"
            )


def build_targets(run: Run, context: Context) -> nn.Module | None:
    """What softens the targets of a run's label terms, None where nothing does."""
    if not run.targets:
        return None
    ((name, options),) = run.targets.items()
    with naming(f"{TARGETS.kind} {name!r}", run, context):
        return TARGETS[name].build(context, **options)


def _facts(run: Run) -> list[TermFacts]:
    return [TERMS[name].facts for name in run.objective if name != LABEL]


def needs_side_heads(run: Run) -> bool:
    """Whether some term reads the student's side heads."""
    return any(facts.side_heads for facts in _facts(run))


def taught_heads(run: Run, heads: Sequence[str]) -> list[str]:
    """Those of a network's side heads that some term of the run teaches to classify."""
    taught = {
        head
        for name, options in run.objective.items()
        if name != LABEL
        for head in TERMS[name].facts.taught_heads(heads, options)
    }
    return [head for head in heads if head in taught]


def reads_teachers(run: Run) -> bool:
    """Whether some term reads the teachers: they may be there to be compared with only."""
    return bool(run.teachers) and any(facts.teachers != 0 for facts in _facts(run))


def needs_live(run: Run) -> bool:
    """Whether some term reads more of the teachers than may be cached."""
    return any(
        facts.teachers != 0 and not (facts.logits_only or facts.keeps_maps) for facts in _facts(run)
    )


def caches(run: Run) -> bool:
    """Whether what a run's teachers say is computed once: the same image gives the same logits in
    every epoch only where nothing is drawn."""
    fixed = run.augment == Augment() and not run.mixup_alpha
    return reads_teachers(run) and fixed and not needs_live(run)


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


def _of_recipe(run: Run) -> dict[str, int | str]:
    """Of optimizer, schedule and augmentation those from outside kdlib: its own are part of the
    training core's version."""
    names = {AUGMENTATIONS: run.augment.transform}
    if run.recipe:
        names |= {OPTIMIZERS: run.recipe.optimizer, SCHEDULES: run.recipe.schedule}
    found = {f"{part.kind} {name}": part[name].version for part, name in names.items() if name}
    return {name: version for name, version in found.items() if isinstance(version, str)}


def versions(run: Run) -> dict[str, int | str]:
    """The version of every part that shaped this run, its teachers' included."""
    used = {f"model {run.model}": MODELS[run.model].version}
    for name, options in run.objective.items():
        registry, part = (LABEL_LOSSES, options["loss"]) if name == LABEL else (TERMS, name)
        used[f"{registry.kind} {part}"] = registry[part].version
    used |= {f"{TARGETS.kind} {name}": TARGETS[name].version for name in run.targets}
    used |= _of_recipe(run)
    for teacher in run.teachers:
        used |= {f"teacher's {part}": version for part, version in versions(teacher).items()}
    return used
