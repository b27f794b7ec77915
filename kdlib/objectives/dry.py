"""A run's objective tried before any training: built without numbers, computed on made-up ones."""

from collections.abc import Callable
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib import models
from kdlib.config import Run
from kdlib.data import ImageSet
from kdlib.objectives.assemble import build, build_targets, class_sets, needs_side_heads
from kdlib.objectives.base import LABEL, Context, Term
from kdlib.registry import LABEL_LOSSES, MODELS, TERMS
from kdlib.types import Batch, Clock, Forward, Mix, View

IMAGES = 4  # of the made-up batch


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
    """Build a run's objective from views without numbers, and compute its terms once on a made-up
    batch, so that what is impossible or fails is refused before any training: ValueError or
    LookupError naming the term, model or size."""
    for name, options in run.objective.items():
        if name != LABEL:
            TERMS[name].facts["check"](options, counts, run.mixup_alpha > 0)
    if run.recipe and run.recipe.batch_size > len(labels):
        raise ValueError(
            f"batch_size {run.recipe.batch_size} exceeds the {len(labels)} training images"
        )
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
    terms, source = build(run, context), build_targets(run, context)
    if run.recipe is None:  # given, or its teachers put together: nothing is taught
        return
    batch = _batch(run, record, labels)
    targets = source(batch) if source else batch.targets
    teachers = tuple(_numbers(view, len(batch.rows), False) for view in views)
    forward = Forward(batch, targets, _numbers(own, len(batch.rows), True), teachers)
    for name, term in terms.items():
        _try(run, name, term, forward)


def _batch(run: Run, record: ImageSet, labels: Tensor) -> Batch:
    rows = torch.arange(min(IMAGES, len(labels)))
    images = torch.zeros(len(rows), record.in_channels, record.image_size, record.image_size)
    targets, clock = labels[rows], Clock(0, run.recipe.epochs, 0)
    if not run.mixup_alpha:
        return Batch(images, targets, rows, clock)
    mix = Mix(rows.flip(0), torch.tensor(0.7))
    one_hot = torch.eye(record.num_classes)[targets]
    targets = mix.lam * one_hot + (1 - mix.lam) * one_hot[mix.permutation]
    return Batch(images, targets, rows, clock, mix, images)


def _numbers(view: View, count: int, gradient: bool) -> View:
    """A view of so many images with the shapes of a dry one."""
    drawn = torch.Generator().manual_seed(0)

    def draw(like: Tensor | None) -> Tensor | None:
        if like is None:
            return None
        return torch.rand(count, *like.shape[1:], generator=drawn).requires_grad_(gradient)

    def draw_all(parts: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: draw(part) for name, part in parts.items()}

    head = None
    if view.classify:
        weight = torch.rand(view.logits.shape[1], view.embedding.shape[1], generator=drawn)
        head = partial(F.linear, weight=weight)
    return View(
        draw(view.logits), draw(view.embedding), draw_all(view.features),
        draw_all(view.side_logits), draw_all(view.side_features), head,
    )  # fmt: skip


def _try(run: Run, name: str, term: Term, forward: Forward) -> None:
    """ValueError where a term's loss fails, is not one number or teaches the student nothing."""
    if name == LABEL:
        what = f"{LABEL_LOSSES.kind} {run.objective[LABEL]['loss']!r}"
    else:
        what = f"{TERMS.kind} {name!r}"
    images = "mixed images" if run.mixup_alpha else "images"
    what = f"{what}, tried on {len(forward.batch.rows)} {images}"
    try:
        loss = term.loss(forward)
    except Exception as error:  # of a plugin: whatever it is
        raise ValueError(f"{what}: {type(error).__name__}: {error}") from error
    if not isinstance(loss, Tensor) or loss.shape != ():
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"{what}, must give a tensor of shape (), their mean loss; got {got}")
    if term.weight and not loss.requires_grad:
        raise ValueError(f"{what}, has no gradient in what the student shows")
