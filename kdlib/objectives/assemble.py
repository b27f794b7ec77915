"""From a run's `objective` and `targets` to its terms, checked before anything is trained."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from kdlib import models, seeding
from kdlib.config import Run
from kdlib.data import ImageSet
from kdlib.objectives.base import LABEL, Context, Term
from kdlib.registry import LABEL_LOSSES, MODELS, TARGETS, TERMS, Entry
from kdlib.types import View


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


def dry_view(
    model: str, num_classes: int, in_channels: int, image_size: int, side_heads: bool = False
) -> View:
    """A view with shapes and no numbers, from a network on the meta device."""
    shape = (num_classes, in_channels, image_size, side_heads)
    return _dry_view(MODELS[model].build, model, *shape)


@lru_cache
def _dry_view(
    build: Callable,  # of the model: a plugin may bring another one under its name
    model: str,
    num_classes: int,
    in_channels: int,
    image_size: int,
    side_heads: bool,
) -> View:
    with torch.device("meta"), torch.no_grad():
        network = models.build(model, num_classes, in_channels, image_size, side_heads).eval()
        return network(torch.empty(2, in_channels, image_size, image_size))


def check(run: Run, record: ImageSet, labels: Tensor, counts: Tensor) -> None:
    """Build a run's objective from views without numbers, so that what is impossible is refused
    before any training: ValueError or LookupError naming the term, model or size."""
    for name, options in run.objective.items():
        if name != LABEL:
            TERMS[name].facts["check"](options, counts, run.mixup_alpha > 0)
    if run.recipe and run.recipe.batch_size > len(labels):
        raise ValueError(
            f"batch_size {run.recipe.batch_size} exceeds the {len(labels)} training images"
        )
    label = dict(run.objective.get(LABEL, {"loss": "ce", "weight": 1.0}))
    loss = LABEL_LOSSES[label.pop("loss")].build
    label.pop("weight")
    loss(torch.zeros(2, len(counts)), torch.zeros(2, dtype=torch.int64), counts, **label)
    channels, size, sets = record.in_channels, record.image_size, class_sets(run, record.classes)
    own = dry_view(run.model, len(counts), channels, size, needs_side_heads(run))
    if own.logits.shape != (2, len(counts)):
        raise ValueError(
            f"model {run.model!r} gives logits of shape {tuple(own.logits.shape)} for 2 images, "
            f"needs (2, {len(counts)})"
        )
    views = [
        dry_view(teacher.model, len(known), channels, teacher.input_size(size))
        for teacher, known in zip(run.teachers, sets, strict=True)
    ]
    context = Context(own, tuple(views), labels, counts, run.seed, sets)
    build(run, context)
    build_targets(run, context)
